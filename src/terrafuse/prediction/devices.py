"""Devices by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from terrafuse.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Device(Protocol):
    """Where a model runs, such as a `torch.device`; as a text, its name."""

    @property
    def type(self) -> str:
        """Kind of it, such as "cpu" or "cuda"."""


def find_device(device: torch.device | str) -> torch.device:
    """Return the device of a name; "auto" is the first GPU, if there is one.

    Raises:
        ConfigError: The device does not exist.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        able = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu"
        raise ConfigError(f"device '{device}' cannot be used: {reason}. Choose {able}") from None
