"""Whether a model is being written down as a graph, which must hold for any pixel values."""

from __future__ import annotations


def is_traced() -> bool:
    """Whether what runs now is recorded: compiled, exported, or traced.

    Code that asks for pixel values, to leave out work that they make needless, must do the work
    then: what is absent is masked, not skipped.
    """
    import torch  # not needed by those who import this module's neighbours

    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
