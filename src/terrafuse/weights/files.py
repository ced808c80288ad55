"""Weights files: strict, safe loading, from disk or from the hub if reachable."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from terrafuse.errors import (
    ChecksumError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)

HUB_PREFIX = "hf://"

# Keys under which training scripts store the weights, beside optimiser state and the like.
_WRAPPERS = ("state_dict_ema", "state_dict", "model", "model_state_dict")

_pretrained_wanted = ContextVar("pretrained_wanted", default=True)
_second_place: ContextVar[Path | None] = ContextVar("second_place", default=None)


@contextmanager
def without_pretrained() -> Iterator[None]:
    """Initialise models built inside randomly, whatever weights their options name.

    Used where all weights are about to be replaced by those of a run folder.
    """
    token = _pretrained_wanted.set(False)
    try:
        yield
    finally:
        _pretrained_wanted.reset(token)


def pretrained_wanted() -> bool:
    """Tell whether models being built should load the weights that their options name."""
    return _pretrained_wanted.get()


@contextmanager
def also_looking_in(folder: str | Path) -> Iterator[None]:
    """Search a folder, by name, for weights files that are not at their recorded place.

    For run folders moved to a machine where the base weights are stored elsewhere.
    """
    token = _second_place.set(Path(folder))
    try:
        yield
    finally:
        _second_place.reset(token)


def read_weights(source: str | Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Read the state dict in a file.

    Args:
        source: Path of a safetensors file or of a torch checkpoint (only tensors are unpickled), or
            "hf://owner/repository/path/in/it.safetensors".
        sha256: Expected digest of the file, or its first digits where no more is published.

    Raises:
        WeightsNotFoundError: There is no such file, or the hub cannot be reached.
        ChecksumError: The file is not the published one.
        WeightsError: The file holds no weights, is truncated, or holds objects other than tensors.
    """
    path = _locate(source)
    if sha256 is not None:
        _check_digest(path, sha256)
    return _unwrap(_read_file(path), path)


def read_metadata(source: str | Path) -> dict[str, str]:
    """Read the metadata of a local safetensors file; empty if there is none.

    Args:
        source: As for `read_weights`; nothing is fetched from the hub.
    """
    if str(source).startswith(HUB_PREFIX):
        return {}
    try:
        with safe_open(_locate(source), framework="pt") as file:
            return dict(file.metadata() or {})
    except (WeightsNotFoundError, SafetensorError, OSError):
        return {}


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; call it inside `written_whole`.

    Args:
        state: Tensors by name.
        metadata: Text by key, stored in the file's header.

    Raises:
        OSError: The file cannot be written, or the disk is full.
    """
    # Tensors may share memory or be on a device; safetensors needs plain copies.
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    try:
        save_file(plain, path, metadata={"format": "pt", **metadata})
    except SafetensorError as error:  # raised when the disk is full
        raise OSError(str(error)) from error


def load_strict(module: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copy `state` into `module`; every name and shape must match.

    Args:
        state: Tensors by name.
        where: Names the weights in the message.

    Raises:
        WeightsMismatchError: Lists missing and unexpected names and differing shapes.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {_shape(state[name])}, expected {_shape(own[name])}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    faults = [
        f"{title}: {_some(names)}"
        for title, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("other shape", shapes),
        )
        if names
    ]
    if faults:
        raise WeightsMismatchError(
            f"{where} do not fit the model; {'; '.join(faults)}. "
            "Choose the model they were made for, or other weights"
        )
    module.load_state_dict(dict(state))


def digest_values(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values, independent of their order."""
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _locate(source: str | Path) -> Path:
    folder = _second_place.get()
    if folder is not None and not Path(source).expanduser().is_file():
        beside = folder / Path(source).name
        if beside.is_file():
            return beside
    if isinstance(source, str) and source.startswith(HUB_PREFIX):
        return _fetch(source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsNotFoundError(
            f"there is no weights file '{path}'. Give the path of a safetensors or torch "
            f"checkpoint, or '{HUB_PREFIX}owner/repository/file' to fetch it"
        )
    return path


def _fetch(source: str) -> Path:
    parts = source.removeprefix(HUB_PREFIX).split("/", maxsplit=2)
    if len(parts) != 3 or not all(parts):
        raise WeightsError(
            f"'{source}' does not name a file on the hub; write '{HUB_PREFIX}owner/repository/file'"
        )
    # Slow to import and needed only here.
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id="/".join(parts[:2]), filename=parts[2]))
    except Exception as error:  # the hub's errors come from several libraries
        raise WeightsNotFoundError(
            f"'{source}' is not on this machine and cannot be fetched ({_first_line(error)}). "
            "Fetch it where there is a network and give its path instead"
        ) from error


def _check_digest(path: Path, expected: str) -> None:
    found = digest(path)
    if not found.startswith(expected.lower()):
        raise ChecksumError(
            f"'{path}' is not the published file: SHA-256 is {found}, expected {expected}. "
            "Fetch it again"
        )


def _read_file(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            # torch warns about old checkpoint layouts, which it reads nevertheless.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"'{path}' is not a checkpoint, or holds Python objects besides tensors, which are not "
            f"read for safety ({_first_line(error)}). Convert it to safetensors if you trust it"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, BadZipFile, OSError, ValueError) as error:
        raise WeightsError(
            f"'{path}' cannot be read as weights: {_first_line(error)}. "
            "It may be truncated; fetch or train it again"
        ) from None


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"'{path}' holds {type(content).__name__}, not tensors by name")
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:  # nested: parts of a model by name, each with its tensors
        state = {
            f"{part}.{name}": value
            for part, own in content.items()
            if isinstance(own, Mapping)
            for name, value in own.items()
            if isinstance(value, Tensor)
        }
    if not state:
        raise WeightsError(f"'{path}' holds no tensors by name")
    # Written by DataParallel.
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(name if len(name) <= 100 else f"{name[:100]} …" for name in names[:4]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
