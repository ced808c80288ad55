"""Weights files: strict, safe loading, from disk or from the hub if reachable."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from terrafuse.errors import (
    ChecksumError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
    first_line,
)
from terrafuse.weights.digests import digest
from terrafuse.weights.hub import hub_or_cache, plain_where_nobody_looks, why_not

HUB_PREFIX = "hf://"

# Keys under which training programs store the weights, beside optimiser state and the like; the
# first ones hold an average over the steps.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_WRAPPERS = (*_AVERAGES, "state_dict", "model_state_dict", "model", "module")

# Read to tell what a file is: enough for a text's first words.
_START = 512
_ZIP, _PICKLES = b"PK\x03\x04", tuple(bytes([0x80, version]) for version in range(2, 6))
_COUNTER = "num_batches_tracked"

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
    return read_content(source, sha256=sha256)[0]


def read_content(
    source: str | Path, *, sha256: str | None = None
) -> tuple[dict[str, Tensor], str | None]:
    """Read the state dict in a file as `read_weights`, and where in the file it was.

    Returns:
        The tensors, and the key of an average of weights if they are one, else None.
    """
    path = _locate(source)
    if sha256 is not None:
        path = _checked(source, path, sha256)
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
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Put the header's text in order: safetensors writes it in another one each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], *, where: str, own: bool = False
) -> None:
    """Copy `state` into `module`; every name and shape must match.

    Only the counters of batch norms (`num_batches_tracked`), which older programs did not save, may
    be missing: nothing depends on them.

    Args:
        state: Tensors by name.
        where: Names the weights in the message.
        own: True: values that terrafuse trained, which are not examined.

    Raises:
        WeightsMismatchError: Lists missing and unexpected names, differing shapes and kinds.
        WeightsError: Values are not finite.
    """
    wanted = module.state_dict()
    counters = {n: v for n, v in wanted.items() if n.endswith(_COUNTER)}
    state = counters | {n: v.long() if n in counters else v for n, v in state.items()}
    both = [name for name in wanted if name in state]
    shapes = [
        f"{name} is {_shape(state[name])}, expected {_shape(wanted[name])}"
        for name in both
        if wanted[name].shape != state[name].shape
    ]
    kinds = [
        f"{name} is {_kind(state[name])}, expected {_kind(wanted[name])}"
        for name in both
        if wanted[name].is_floating_point() != state[name].is_floating_point()
    ]
    faults = [
        f"{title}: {_some(names)}"
        for title, names in (
            ("missing", [name for name in wanted if name not in state]),
            ("unexpected", [name for name in state if name not in wanted]),
            ("other shape", shapes),
            ("other kind of number", kinds),
        )
        if names
    ]
    if faults:
        raise WeightsMismatchError(
            f"{where} do not fit the model; {'; '.join(faults)}. "
            "Choose the model they were made for, or other weights"
        )
    if not own:
        _check_finite(state, where)
    module.load_state_dict(dict(state))


def _check_finite(state: Mapping[str, Tensor], where: str) -> None:
    floats = {n: v for n, v in state.items() if v.is_floating_point() and not v.is_meta}
    broken = [
        f"{name} ({count} of {value.numel()})"
        for name, value in floats.items()
        if (count := int((~value.isfinite()).sum()))
    ]
    if broken:
        raise WeightsError(
            f"{where} hold values that are NaN or infinite: {_some(broken)}. The training that "
            "made them failed; use an earlier checkpoint of it, or other weights"
        )


def digest_values(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values, independent of their order."""
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


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


def _fetch(source: str, *, again: bool = False) -> Path:
    """Fetch a file from the hub, or find it in the cache.

    Args:
        again: Whether to replace the file in the cache.
    """
    parts = source.removeprefix(HUB_PREFIX).split("/", maxsplit=2)
    if len(parts) != 3 or not all(parts):
        raise WeightsError(
            f"'{source}' does not name a file on the hub; write '{HUB_PREFIX}owner/repository/file'"
        )
    # Slow to import and needed only here.
    from huggingface_hub import hf_hub_download

    repository, how = "/".join(parts[:2]), {"force_download": True} if again else {}
    state = None
    try:
        with hub_or_cache() as state, plain_where_nobody_looks():
            return Path(hf_hub_download(repo_id=repository, filename=parts[2], **how))
    except Exception as error:  # the hub's errors come from several libraries
        remedy = (
            "Check its name and try again, or give the path of a file instead"
            if state == "reached"
            else "Fetch it where there is a network and give its path instead"
        )
        raise WeightsNotFoundError(
            f"'{source}' is not on this machine and cannot be fetched "
            f"({why_not(error, repository)}). {remedy}"
        ) from error


def _checked(source: str | Path, path: Path, expected: str) -> Path:
    """Return the path of the file that has a digest; a damaged one in the cache is replaced.

    Raises:
        ChecksumError: There is no such file.
    """
    found = digest(path)
    if found.startswith(expected.lower()):
        return path
    if not str(source).startswith(HUB_PREFIX) or path.parent == _second_place.get():
        raise ChecksumError(
            f"'{path}' is not the published file: SHA-256 is {found}, expected {expected}. "
            "Fetch it again"
        )
    try:
        path = _fetch(str(source), again=True)
    except WeightsNotFoundError as error:
        raise ChecksumError(
            f"'{path}', as fetched before, is not the published '{source}': SHA-256 is {found}, "
            f"expected {expected}. Go where there is a network: it is fetched again then"
        ) from error
    found = digest(path)
    if not found.startswith(expected.lower()):
        raise ChecksumError(
            f"'{source}' is not the published file any more, although fetched twice: SHA-256 is "
            f"{found}, expected {expected}. Give the path of the published one instead"
        )
    return path


def _read_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except PermissionError:
        raise WeightsError(
            f"'{path}' may not be read by you (permission denied). Change its permissions, or copy "
            "it to where you may read it"
        ) from None
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error.strerror}. Check the disk") from None
    told = _what_else(start, path)
    if told is not None:
        raise WeightsError(f"'{path}' {told}")
    try:
        if _is_safetensors(start, path):
            return load_file(path)
        # An open file: torch judges a path by its suffix.
        with path.open("rb") as file, warnings.catch_warnings():
            # torch warns about old checkpoint layouts, which it reads nevertheless.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"'{path}' is not a checkpoint, or holds Python objects besides tensors, which are not "
            f"read for safety ({first_line(error)}). Convert it to safetensors if you trust it"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # on damaged files the readers fail in any way
        raise WeightsError(
            f"'{path}' cannot be read as weights: {first_line(error)}. "
            "It may be truncated; fetch or train it again"
        ) from None


def _is_safetensors(start: bytes, path: Path) -> bool:
    """By content where that is plain, else by the name's end."""
    if start[8:9] == b"{":  # after the length of the header
        return True
    return path.suffix == ".safetensors" and not start.startswith((_ZIP, *_PICKLES))


def _what_else(start: bytes, path: Path) -> str | None:
    """Say of a file that holds no weights what it is; None where it may hold some."""
    text = start.lstrip().lower()
    if not start:
        return "cannot be read as weights: it is empty. Fetch it again"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return (
            "is a web page, not a file of weights: the link led to the page about it. Fetch the "
            "file itself (on Hugging Face its link contains '/resolve/')"
        )
    if start.startswith(b"version https://git-lfs"):
        return (
            "is a pointer of Git LFS, which stands for the weights but does not hold them. Run "
            "'git lfs pull' in its repository, or fetch the file itself"
        )
    if start.startswith(b"{") and start[8:9] != b"{":
        return "is a text (JSON), not a file of weights. Give the file of weights it belongs to"
    if start.startswith(b"\x89HDF"):
        return "is an HDF5 file (Keras), which is not read. Convert it to safetensors"
    return _what_zip(path) if start.startswith(_ZIP) else None


def _what_zip(path: Path) -> str | None:
    """Say of a zip archive why it is no checkpoint of torch; None where it is one."""
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # of a damaged archive, anything
        size = path.stat().st_size
        return f"cannot be read as weights: it is truncated ({size:,} bytes). Fetch it again"
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "is a TorchScript program, which is not run. Save its weights alone: "
            "torch.save(torch.jit.load(file).state_dict(), new_file)"
        )
    if any(name.endswith("data.pkl") for name in names):
        return None
    return (
        f"is a zip archive ({_some(names) or 'empty'}), not a checkpoint. Unpack it and give the "
        "file of weights in it"
    )


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], str | None]:
    average = None
    for key in _wrappers_of(content):
        content = content[key]
        average = key if key in _AVERAGES else average
    if not isinstance(content, Mapping):
        raise WeightsError(f"'{path}' holds {type(content).__name__}, not tensors by name")
    state = _tensors_in(content)
    if not state:
        raise WeightsError(f"'{path}' holds no tensors by name")
    odd = [name for name, v in state.items() if v.layout is not torch.strided or v.is_meta]
    if odd:
        raise WeightsError(
            f"'{path}' holds tensors without plain values (sparse, or shapes only): {_some(odd)}. "
            "Save the model's state_dict() as plain tensors"
        )
    return state, average


def _wrappers_of(content: Any) -> list[str]:
    """Keys that lead to the weights, from the outside in."""
    found: list[str] = []
    while isinstance(content, Mapping) and len(found) < len(_WRAPPERS):
        inner = (k for k in _WRAPPERS if isinstance(content.get(k), Mapping))
        key = next((k for k in inner if _tensors_in(content[k])), None)
        if key is None:
            break
        found.append(key)
        content = content[key]
    return found


def _tensors_in(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Tensors by name; of parts that hold theirs apart, with the part's name in front."""
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return state or {
        f"{part}.{name}": value
        for part, own in content.items()
        if isinstance(own, Mapping)
        for name, value in own.items()
        if isinstance(value, Tensor)
    }


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(name if len(name) <= 100 else f"{name[:100]} …" for name in names[:4]) + more
