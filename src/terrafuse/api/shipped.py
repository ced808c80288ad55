"""The settings files that ship with the package: list them, and copy some to work from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from terrafuse.config.base import read_yaml
from terrafuse.errors import ConfigError, OutputError, unknown_name
from terrafuse.writing import written_whole

ConfigKind = Literal["run", "pre-training", "dataset", "methods"]


@dataclass(frozen=True)
class ShippedConfig:
    """A settings file that ships.

    Args:
        name: Its path below the folder of them, without ".yaml" ("upseg/gid5").
        kind: For train, for pretrain, a manifest, or methods for sweep.
        description: The first sentence of its head.
    """

    name: str
    kind: ConfigKind
    description: str


@dataclass(frozen=True)
class CopiedConfigs:
    """What `copy_configs` did.

    Args:
        written: The files.
        kept: Files that those name and that were there already; left as they are.
        notes: What the copies name and is not there: what to write, or which key to change.
    """

    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    notes: tuple[str, ...]


def list_configs() -> list[ShippedConfig]:
    """Every settings file that ships."""
    folder = _folder()
    return [
        ShippedConfig(name, _kind(read_yaml(path)), _first_sentence(path))
        for name, path in _named(folder).items()
    ]


def copy_configs(name: str, out: str | Path = "configs") -> CopiedConfigs:
    """Copy a settings file, or all below a folder of them, with the shipped files that they name.

    Folders are kept as they ship, so that what names another file finds it.

    Args:
        name: As `list_configs` has it ("upseg/gid5"), or a folder ("upseg/ablation").
        out: Folder to copy into.

    Raises:
        ConfigError: No such file ships.
        OutputError: A file that was asked for exists, or a place lies outside `out`.
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
            raise OutputError(f"'{place}' leads out of '{target}'; copy into another folder")
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
    """In the installed package; of a checkout beside `src`."""
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
    """Of the comment at the top; a colon at the end of a line ends it as well: commands follow."""
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
    """Files, and those of the folder that they name, directly or through others."""
    found = list(wanted)
    for path in found:  # grows while it is walked
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
    """What the copies name and is not there, one sentence a file."""
    for path in written:
        if path.suffix != ".yaml":
            continue
        values, name = read_yaml(path), path.relative_to(target)
        if _kind(values) == "dataset":
            root = path.parent / str(values.get("root", "."))
            if not root.is_dir():
                yield f"{name}: root '{values['root']}' is not there; name the data set's folder"
                continue
            climbing = [t for t in _texts(values["scenes"]) if t.startswith("../")]
            gone = [text for text in climbing if not (root / text).exists()]
            if gone:
                yield f"{name}: {len(gone)} of its rasters not there: '{gone[0]}' …"
        elif "data" in values:
            manifest = values["data"]["manifest"]
            if not (path.parent / manifest).exists():
                yield (
                    f"{name}: data.manifest '{manifest}' is not there; write it (the head of the "
                    "file may say how; terrafuse data describe), or name yours"
                )
