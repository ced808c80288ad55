"""Maps of many scenes by one model: those of a manifest, or the items of a STAC document."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from terrafuse.api.inputs import open_item
from terrafuse.api.mapping import TrainedModel
from terrafuse.data import Scene
from terrafuse.data.scene import BandNamesTeller
from terrafuse.data.stac import Entry, list_items
from terrafuse.errors import ConfigError, DataError, ModelError, NotEnoughMemoryError, OutputError
from terrafuse.prediction import DEFAULT_PRODUCTS, WindowSettings
from terrafuse.prediction.areas import AREAS_CSV
from terrafuse.prediction.products import RECORD
from terrafuse.progress import Progress

# Faults of one scene, which do not end the others: what no scene can be mapped with is refused
# before the first.
_OF_A_SCENE = (DataError, OutputError, NotEnoughMemoryError, ConfigError, ModelError)
_LONGEST = 100
# Of `prediction.json`: what the map was made of and how.
_KEY = "made_from"


@dataclass(frozen=True)
class Place:
    """A scene to map.

    Args:
        id: Its name.
        open: Opens it; raises DataError.
    """

    id: str
    open: Callable[[], Scene]


@dataclass(frozen=True)
class Mapped:
    """What became of a scene.

    Args:
        id: Its name.
        folder: Of its map.
        state: "mapped", "there already" or "failed".
        message: Why it failed.
    """

    id: str
    folder: Path
    state: Literal["mapped", "there already", "failed"]
    message: str = ""


def places_of_manifest(
    run: TrainedModel, path: Path | str, split: str | None = None
) -> list[Place]:
    """The scenes of a manifest, or of one of its splits; none is opened.

    Raises:
        ConfigError: Missing or invalid file.
        SceneNotFoundError: No such split.
    """
    dataset = run.dataset(Path(path))
    tell = BandNamesTeller(several=True)
    return [Place(id, partial(dataset.scene, id, tell)) for id in dataset.ids(split)]


def places_of_items(run: TrainedModel, name: str) -> list[Place]:
    """The items of a STAC document: an item, the answer of a search, or a catalogue with links.

    Raises:
        DataError: It cannot be read, or has no items.
    """

    def opened(entry: Entry) -> Scene:
        return open_item(run.info, entry.read())

    return [Place(entry.id, partial(opened, entry)) for entry in list_items(name)]


def predict_batch(
    run: TrainedModel,
    places: Sequence[Place],
    out: Path | str,
    *,
    products: Sequence[str] = DEFAULT_PRODUCTS,
    values: str | None = None,
    areas: bool = False,
    windows: WindowSettings | None = None,
    trust_values: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    **options: Any,
) -> list[Mapped]:
    """Map scenes one after the other, each into a folder of its own in `out`.

    A scene that cannot be mapped does not end the others; its message is in what is returned.

    Args:
        places: As of `places_of_manifest` and `places_of_items`.
        products: As in `Run.predict`, like all that is not named here.
        values: Likewise.
        areas: Likewise.
        windows: Likewise.
        trust_values: Likewise.
        resume: Leave out scenes whose map is there, of the same rasters, model and settings, and go
            on with unfinished ones.
        progress: Called with (scenes done, scenes in all).
        note: Called with a word on the scene that is being mapped.
        options: Likewise.

    Raises:
        ConfigError: Settings that no scene can be mapped with.
        UnknownNameError: No such product.
        ModelError: The model does not have the run's classes, or cannot be sent to workers.
    """
    settings = run.check_settings(
        products=products, values=values, areas=areas, windows=windows, **options
    )
    folders = [Path(out) / name for name in folder_names([place.id for place in places])]
    done: list[Mapped] = []
    with run.unchanging() as model:
        for place, folder in zip(places, folders, strict=True):
            if progress:
                progress(len(done), len(places))
            if note:
                note(place.id)
            try:
                scene = place.open()
                made_from = {"model": model, **settings, "rasters": scene.states()}
                digest = _digest(made_from)
                if resume and _is_there(folder, digest, products, areas):
                    done.append(Mapped(place.id, folder, "there already"))
                    continue
                run.predict(
                    folder,
                    scene=scene,
                    products=products,
                    values=values,
                    areas=areas,
                    windows=windows,
                    trust_values=trust_values,
                    resume=resume,
                    facts={_KEY: digest},
                    **options,
                )
                done.append(Mapped(place.id, folder, "mapped"))
            except _OF_A_SCENE as error:
                done.append(Mapped(place.id, folder, "failed", str(error)))
    if progress:
        progress(len(done), len(places))
    return done


def folder_names(ids: Sequence[str]) -> list[str]:
    """Names of folders for ids: the ids where these are safe as such, and none twice.

    Others keep what is safe of them, with a digest of the id. Ids that differ in case only get one
    too: not all disks tell them apart.
    """
    alike = Counter(id.casefold() for id in ids)
    names = []
    for id in ids:
        safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", id).strip(".-")[:_LONGEST]
        if safe != id or alike[id.casefold()] > 1:
            safe = f"{safe}-{hashlib.sha256(id.encode(errors='replace')).hexdigest()[:8]}"
        names.append(safe.lstrip("-"))
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            f"several scenes have the id of '{repeated[0]}', so that their maps would have one "
            "folder. Give each item an id of its own"
        )
    return names


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_there(folder: Path, digest: str, products: Sequence[str], areas: bool) -> bool:
    """Tell whether a folder holds the finished map of this digest."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(record, dict) or record.get(_KEY) != digest:
        return False
    files = [AREAS_CSV] if areas else []
    for name in products:
        own = record["products"][name]
        files += [own["file"], *own.get("tiles", {}).get("files", ())]
    return all((folder / name).is_file() for name in files)
