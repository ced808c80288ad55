"""ONNX files, as far as their metadata and the places of their weights go.

Read from the bytes of the protobuf message, field by field: neither the package `onnx` nor a
runtime is needed, and nothing that the file refers to is opened.

Reference: https://github.com/onnx/onnx/blob/v1.17.0/onnx/onnx.proto, whose numbers of fields these
are; wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from terrafuse.errors import ConfigError, WeightsError, WeightsNotFoundError, cut

#: End of the names of ONNX files.
SUFFIX = ".onnx"
_IR_VERSION, _GRAPH, _METADATA = 1, 7, 14  # of the model
_EXTERNAL = 13  # of a tensor
_KEY, _VALUE = 1, 2
#: Messages that weights lie in → field of each → the message that it holds.
_INNER: Mapping[str, Mapping[int, str]] = {
    "model": {_GRAPH: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
}  # fmt: skip
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_BITS = 64
_DEEPEST = 100  # messages in messages


def names_onnx(path: str | Path) -> bool:
    """Tell whether a path is that of an ONNX file, be it there or not."""
    return Path(path).suffix.lower() == SUFFIX and not Path(path).is_dir()


def refuse_exported(path: str | Path) -> None:
    """Refuse an exported file where the run itself is needed.

    Raises:
        ConfigError: The path is that of an ONNX file.
    """
    if names_onnx(path):
        raise ConfigError(
            f"'{path}' is an exported model, which makes maps (terrafuse predict {path}; in Python "
            "terrafuse.api.open_model); what else there is to do needs the run folder"
        )


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says beside its operators.

    Args:
        metadata: Its `metadata_props`.
        external: Files that hold weights of it, as it names them.
    """

    path: Path
    metadata: Mapping[str, str]
    external: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The file and those of its weights."""
        return (self.path, *(self.path.parent / name for name in self.external))

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(path.stat().st_size for path in self.files)


def read_onnx(path: str | Path) -> OnnxFile:
    """Read the metadata of an ONNX file.

    Raises:
        WeightsNotFoundError: There is no such file, or one of its weights is missing.
        WeightsError: It is no ONNX file, truncated, or its weights lie outside its folder.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # goes with its last view
        found = _read(path, memoryview(held))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise WeightsNotFoundError(
            f"there is no ONNX file '{path}'. Give one that 'terrafuse export RUN --format onnx' "
            "wrote"
        ) from None
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error}") from None
    except ValueError as error:  # also of an empty file, of which there is no map
        raise WeightsError(
            f"'{path}' is no ONNX file, or only the beginning of one ({cut(error)}). Copy it "
            "again, or export the run again (terrafuse export RUN --format onnx)"
        ) from None
    _check_external(found)
    return found


def _check_external(found: OnnxFile) -> None:
    """Refuse weights that a file from elsewhere may have no business with.

    Raises:
        WeightsError: They lie outside its folder.
        WeightsNotFoundError: They are not there.
    """
    folder = found.path.parent.resolve()
    for name in found.external:
        place = folder / name
        if Path(name).is_absolute() or not place.resolve().is_relative_to(folder):
            raise WeightsError(
                f"'{found.path}' takes weights from '{cut(name)}', outside its folder, which is "
                "not read. Export the run again (terrafuse export RUN --format onnx), or bring "
                "all files of the model into one folder"
            )
        if not place.is_file():
            raise WeightsNotFoundError(
                f"'{found.path}' has its weights in '{cut(name)}', which is not beside it. Copy "
                "both files"
            )


def _read(path: Path, view: memoryview) -> OnnxFile:
    metadata: dict[str, str] = {}
    known = set()
    for field, value in _fields(view):
        known.add(field)
        if field == _METADATA:
            key, text = _entry(value)
            metadata[key] = text
    if not known >= {_IR_VERSION, _GRAPH}:
        raise ValueError("it holds no graph")
    return OnnxFile(path, metadata, tuple(sorted(set(_external("model", view)))))


def _external(kind: str, message: memoryview, depth: int = 0) -> Iterator[str]:
    """Names of the files that weights in a message lie in."""
    if depth > _DEEPEST:
        raise ValueError("graphs within graphs without end")
    for field, value in _fields(message):
        if kind == "tensor" and field == _EXTERNAL:
            key, text = _entry(value)
            if key == "location":
                yield text
        elif kind != "tensor" and field in _INNER[kind]:
            yield from _external(_INNER[kind][field], _message(value), depth + 1)


def _entry(value: memoryview | int) -> tuple[str, str]:
    """Key and value of a pair of texts."""
    found = dict(_fields(_message(value)))
    key, text = (bytes(_message(found.get(n, memoryview(b"")))).decode() for n in (_KEY, _VALUE))
    return key, text


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Fields of a message: its number, and its bytes, or its value where it is a whole number."""
    place, end = 0, len(view)
    while place < end:
        tag, place = _varint(view, place)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            number, place = _varint(view, place)
            yield field, number
            continue
        if kind == _BYTES:
            length, place = _varint(view, place)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if field == 0 or place + length > end:
            raise ValueError(f"field {field} of {length} bytes goes beyond its end")
        yield field, view[place : place + length]
        place += length


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    """A whole number of variable length, and where it ends."""
    value = shift = 0
    while shift < _MOST_BITS:
        if place >= len(view):
            raise ValueError("it ends within a number")
        byte = view[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("a number of more than 64 bits")
