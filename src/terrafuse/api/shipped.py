"""Settings files shipped with the package: list them, and copy some to start from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from terrafuse.config.base import read_yaml
from terrafuse.errors import ConfigError, OutputError, unknown_name
from terrafuse.writing import claimed, written_whole

ConfigKind = Literal["run", "pre-training", "dataset", "methods"]


@dataclass(frozen=True)
class ShippedConfig:
    """A shipped settings file.

    Args:
        name: Path below the folder of settings files, without ".yaml" ("upseg/gid5").
        kind: File for train, for pretrain, a manifest, or methods for sweep.
        description: First sentence of its head comment.
    """

    name: str
    kind: ConfigKind
    description: str


@dataclass(frozen=True)
class CopiedConfigs:
    """Result of `copy_configs`.

    Args:
        kept: Files that those refer to and that existed already, unchanged.
        notes: Files or folders that the copies refer to and that are missing, with what to do.
    """

    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    notes: tuple[str, ...]


def list_configs() -> list[ShippedConfig]:
    """List all shipped settings files."""
    folder = _folder()
    return [
        ShippedConfig(name, _kind(read_yaml(path)), _first_sentence(path))
        for name, path in _named(folder).items()
    ]


def copy_configs(name: str, out: str | Path = "configs") -> CopiedConfigs:
    """Copy a settings file, or a folder of them, with the shipped files they refer to.

    The folder structure is kept, so that references between files stay valid.

    Args:
        name: Name as in `list_configs` ("upseg/gid5"), or a folder ("upseg/ablation").
        out: Folder to copy into.

    Raises:
        ConfigError: No shipped file has this name.
        OutputError: A requested file exists already, a target lies outside `out`, or another
            process writes there.
    """
    folder, target = _folder(), Path(out)
    named = _named(folder)
    wanted_name = name.removesuffix(".yaml").rstrip("/")
    wanted = [p for n, p in named.items() if n == wanted_name or n.startswith(f"{wanted_name}/")]
    if not wanted:
        raise ConfigError(unknown_name("settings file", name, named))
    places = {path: target / path.relative_to(folder) for path in _with_named(wanted, folder)}
    for place in places.values():
        if not place.resolve().is_relative_to(target.resolve()):
            raise OutputError(f"'{place}' lies outside '{target}'; copy into another folder")
    with claimed(target, "configs copy"):
        there = [places[path] for path in wanted if places[path].exists()]
        if there:
            raise OutputError(
                f"'{there[0]}' exists and would be overwritten; choose another folder, or remove it"
            )
        kept = tuple(place for place in places.values() if place.exists())
        written = []
        for path, place in places.items():
            if place not in kept:
                with written_whole(place) as (partial,):
                    partial.write_bytes(path.read_bytes())
                written.append(place)
        return CopiedConfigs(tuple(written), kept, tuple(_missing(written, target)))


def _folder() -> Path:
    """Return the folder of settings: in the installed package, or beside `src` in a checkout."""
    package = Path(str(files("terrafuse")))
    shipped = package / "configs"
    return shipped if shipped.is_dir() else package.parents[1] / "configs"


def _named(folder: Path) -> dict[str, Path]:
    paths = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _kind(values: dict[str, Any]) -> ConfigKind:
    if "scenes" in values:
        return "dataset"
    if "objective" in values:
        return "pre-training"
    return "run" if "method" in values and "data" in values else "methods"


def _first_sentence(path: Path) -> str:
    """Read the first sentence of the head comment; a colon at a line's end ends it too."""
    sentence = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words, stop, _ = f"{line.lstrip('# ')} ".partition(". ")
        sentence += words
        if stop or words.endswith(": "):
            break
    return sentence.rstrip(": ")


def _with_named(wanted: list[Path], folder: Path) -> list[Path]:
    """Add the files of the folder that the wanted ones refer to, directly or indirectly."""
    found = list(wanted)
    for path in found:  # grows while it is iterated over
        if path.suffix != ".yaml":
            continue
        for text in _texts(read_yaml(path)):
            other = (path.parent / text).resolve()
            if other.is_relative_to(folder.resolve()) and other.is_file():
                inside = folder / other.relative_to(folder.resolve())
                if inside not in found:
                    found.append(inside)
    return found


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        for value in values.values():
            yield from _texts(value)
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value)
    elif isinstance(values, str) and values:
        yield values


def _missing(written: list[Path], target: Path) -> Iterator[str]:
    """Yield a sentence per copied file that refers to missing files or folders."""
    for path in written:
        if path.suffix != ".yaml":
            continue
        values, name = read_yaml(path), path.relative_to(target)
        if _kind(values) == "dataset":
            root = path.parent / str(values.get("root", "."))
            if not root.is_dir():
                yield f"{name}: root '{values['root']}' does not exist; set the dataset's folder"
                continue
            climbing = [t for t in _texts(values["scenes"]) if t.startswith("../")]
            gone = [text for text in climbing if not (root / text).exists()]
            if gone:
                yield f"{name}: {len(gone)} of its rasters are missing: '{gone[0]}' …"
        elif "data" in values:
            manifest = values["data"]["manifest"]
            if not (path.parent / manifest).exists():
                yield (
                    f"{name}: data.manifest '{manifest}' does not exist; write it (the head of the "
                    "file may say how; terrafuse data describe), or set your own"
                )
