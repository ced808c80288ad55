"""From what a user names to the scenes of a page: a map, a run, a data set, or a sample."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from terrafuse.config import load_run_config
from terrafuse.config.base import STORED_CONFIG
from terrafuse.data import Manifest, Scene, load_manifest
from terrafuse.data.names import absolute_name
from terrafuse.data.remote import state
from terrafuse.errors import (
    ConfigError,
    DataError,
    InUseError,
    OutputError,
    SceneNotFoundError,
    TerrafuseError,
    cut,
    unknown_name,
)
from terrafuse.maps.item import ITEM
from terrafuse.prediction.products import RECORD
from terrafuse.progress import Progress
from terrafuse.web.viewer.copies import Store
from terrafuse.web.viewer.scenes import SUBSETS, Subject
from terrafuse.web.viewer.why import Explainer

if TYPE_CHECKING:
    from terrafuse.api.mapping import TrainedModel
    from terrafuse.weights.run_info import RunInfo

#: Key of `prediction.json` that says what a map was made of.
INPUTS = "inputs"
#: Folder of a run in which its maps of scenes lie.
VIEWS = "views"
#: Products of maps that are made to be looked at.
PRODUCTS = ("class_map", "confidence", "entropy")
ATTRIBUTION = ("attribution", "attribution_margin")
#: Key of `prediction.json` of such maps: a digest of model and files.
MADE_OF = "made_of"
MODEL_JSON = "model.json"
MANIFEST = "dataset.yaml"
_MANIFESTS = (".yaml", ".yml")
_SAMPLE = ".gpkg"
_PLAIN = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,78}[A-Za-z0-9_-])?")
# Names that Windows gives to devices, whatever follows a dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Collection:
    """What a page is of.

    Args:
        title: As people read it.
        subjects: Scenes, by their ids in addresses.
        sample: Reference sample that is labelled; None: there is none.
    """

    title: str
    subjects: Mapping[str, Subject]
    sample: Path | None = None


def find_subjects(
    target: str | Path,
    *,
    scenes: Sequence[str] = (),
    map_: str | Path | None = None,
    subsets: bool = False,
) -> Collection:
    """Find what is to be shown, without reading any pixel.

    Args:
        target: A map (its folder, a folder of such, or a raster of classes), a run folder, a
            manifest, or the GeoPackage of a sample.
        scenes: Of a data set or a run, those to show; of a map, "dataset.yaml#id" of what it is of.
        map_: Of a sample, the map that it was drawn from; default: as it says itself.
        subsets: Of a run, also map each modality alone, and all but one.

    Raises:
        DataError: There is nothing of that kind, or it is empty.
        SceneNotFoundError: There is no such scene.
        ConfigError: The options do not go with what is named.
    """
    path = Path(target).expanduser()
    if map_ is not None and path.suffix.lower() != _SAMPLE:
        raise ConfigError(
            f"--map names the map of a sample, and '{path}' is none. Give the GeoPackage of "
            "`terrafuse sample`, or leave --map out"
        )
    is_run = (path / STORED_CONFIG).exists() and (path / MODEL_JSON).exists()
    if subsets and not is_run:
        raise ConfigError(f"--subsets is of runs, and '{path}' is none. Leave --subsets out")
    if is_run:
        return _of_run(path, scenes, subsets=subsets)
    if not path.exists():
        raise DataError(f"'{path}' does not exist. {_WANTED}")
    if path.is_dir():
        return _of_folder(path, scenes)
    if path.suffix.lower() in _MANIFESTS:
        return _of_manifest(load_manifest(path), scenes)
    if path.suffix.lower() == _SAMPLE:
        return _of_sample(path, scenes, map_)
    return _of_maps(path.stem, [path], scenes)


_WANTED = (
    "Give the folder of a map or of a trained run, dataset.yaml, a raster of classes, or the "
    "GeoPackage of a sample"
)


def _of_folder(path: Path, scenes: Sequence[str]) -> Collection:
    if _is_map(path):
        return _of_maps(path.resolve().name, [path], scenes)
    maps = sorted(p for p in path.iterdir() if p.is_dir() and _is_map(p))
    if not maps and (path / MANIFEST).exists():
        return _of_manifest(load_manifest(path / MANIFEST), scenes)
    if not maps:
        raise DataError(
            f"'{path}' is no folder of a map (it has no class_map.tif), no run, and holds no "
            f"folders of maps. {_WANTED}"
        )
    return _of_maps(path.resolve().name, maps, scenes)


def _is_map(path: Path) -> bool:
    return any((path / f"class_map{end}").exists() for end in (".tif", ".vrt"))


def _of_manifest(manifest: Manifest, scenes: Sequence[str]) -> Collection:
    ids = _chosen(manifest, scenes) if scenes else manifest.ids()
    splits = {entry.id: entry.split for entry in manifest.entries}
    store = Store(manifest.path.parent)
    subjects = (
        Subject(
            id=plain_id(id),
            title=id,
            store=store,
            scene=partial(_scene_of, manifest, id),
            split=splits[id],
            manifest=manifest,
            scene_id=id,
        )
        for id in ids
    )
    return Collection(manifest.path.stem, _by_id(subjects))


def _chosen(manifest: Manifest, scenes: Sequence[str]) -> list[str]:
    known = manifest.ids()
    for id in scenes:
        if id not in known:
            raise SceneNotFoundError(unknown_name("scene", id, known))
    return list(dict.fromkeys(scenes))


def _scene_of(manifest: Manifest, id: str) -> Scene:
    """Open a scene; modalities that it lacks are no fault of what is looked at."""
    rules = {name: replace(rule, required=False) for name, rule in manifest.rules.items()}
    return replace(manifest, rules=rules).scene(id)


def _by_id(subjects: Iterator[Subject]) -> dict[str, Subject]:
    """Subjects by id; of two with one, the later gets a number.

    Some disks take ids that differ in case only for one.
    """
    found: dict[str, Subject] = {}
    taken: set[str] = set()
    for subject in subjects:
        id, n = subject.id, 2
        while id.lower() in taken:
            id, n = f"{subject.id}-{n}", n + 1
        taken.add(id.lower())
        found[id] = replace(subject, id=id)
    return found


def plain_id(text: str) -> str:
    """A name for addresses and folders of any disk: the text itself where it is plain."""
    if _PLAIN.fullmatch(text) and ".." not in text and not _DEVICE.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    start = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:60].strip("_")
    return f"{start or 'scene'}-{digest}"


# Maps


def _of_maps(title: str, maps: Sequence[Path], scenes: Sequence[str]) -> Collection:
    if scenes and (len(maps) > 1 or len(scenes) > 1):
        raise ConfigError(
            "--scene names what one map is of: give it once, as dataset.yaml#id, with one map"
        )
    explainers: dict[Path, Explainer] = {}
    subjects = (_of_map(path, scenes[0] if scenes else None, explainers) for path in maps)
    return Collection(title, _by_id(subjects))


def _of_map(path: Path, named: str | None, explainers: dict[Path, Explainer]) -> Subject:
    folder = path if path.is_dir() else path.parent
    record = _read_json(folder / RECORD) if path.is_dir() else {}
    inputs = _inputs_of(folder, record)
    of_scene: dict[str, Any] = {}
    beside: list[Path] = []
    if named is not None or "scene" in inputs:
        of_scene = _mapped_scene(named, str(inputs.get("scene")))
        beside = [of_scene["manifest"].path.parent] if "manifest" in of_scene else []
    elif "rasters" in inputs:
        model, rasters = inputs.get("model"), inputs["rasters"]
        of_scene = {
            "scene": partial(_scene_of_rasters, model, rasters, str(inputs["id"])),
            "as_trained": partial(_trained_rasters, rasters=rasters),
        }
    elif path.is_dir():
        note = (
            "what the map was made of is not known; its own layers are shown. Name its scene with "
            "--scene dataset.yaml#id"
        )
        of_scene = {"notes": (note,)}
    explainer = _explainer(inputs.get("model"), record, explainers)
    title = str(record.get("scene") or path.resolve().stem)
    return Subject(
        id=plain_id(title),
        title=title,
        store=Store(*beside, folder),
        map=path,
        explainer=explainer,
        **of_scene,
    )


def _mapped_scene(named: str | None, recorded: str) -> dict[str, Any]:
    """What a subject has of the scene of a manifest, "dataset.yaml#id"; else a note.

    Args:
        named: By the user; None: the one that the map records.
        recorded: By the map.
    """
    from terrafuse.api.inputs import split_scene_name

    manifest_path, id = split_scene_name(named or recorded)
    try:
        manifest = load_manifest(manifest_path)
    except (TerrafuseError, OSError) as error:
        if named is not None:
            raise
        note = (
            f"the scene of the map cannot be opened any more: {error}. Name it with --scene "
            "dataset.yaml#id"
        )
        return {"notes": (note,)}
    return {
        "scene": partial(_scene_of, manifest, id),
        "as_trained": partial(_trained_scene, manifest_path=manifest_path, id=id),
        "manifest": manifest,
        "scene_id": id,
        "split": {entry.id: entry.split for entry in manifest.entries}.get(id),
    }


def _explainer(
    model: object, record: Mapping[str, Any], explainers: dict[Path, Explainer]
) -> Explainer | None:
    """What explains pixels of a map, where its model is there; None for converted values."""
    if model is None or record.get("converted") or not Path(str(model)).exists():
        return None
    place = Path(str(model))
    if place not in explainers:
        explainers[place] = Explainer(partial(_load, place))
    return explainers[place]


def _load(place: Path) -> TrainedModel:
    from terrafuse.api import open_model  # torch takes seconds to import

    return open_model(place)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _inputs_of(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a map was made of, with paths that begin at the working directory, or absolute.

    Maps of earlier versions name their model in `item.json`, whose settings name the data.
    """
    found = record.get(INPUTS)
    if isinstance(found, dict):
        return _moved(found, folder)
    try:
        weights = _read_json(folder / ITEM)["assets"]["model"]["href"]
        run = (folder / str(weights)).parent.resolve()
        manifest = load_run_config(run / STORED_CONFIG).data.manifest
    except (KeyError, TypeError, TerrafuseError, OSError):
        return {}
    inputs: dict[str, Any] = {"model": run}
    try:
        known = load_manifest(manifest).ids()
    except (TerrafuseError, OSError):
        return inputs
    id = record.get("scene")
    return inputs | ({"scene": f"{manifest}#{id}"} if id in known else {})


def _moved(inputs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Inputs with the paths that are relative to a map's folder as they are from here."""
    here = folder.resolve()
    found: dict[str, Any] = {}
    if isinstance(inputs.get("model"), str):
        found["model"] = Path(os.path.normpath(here / inputs["model"]))
    if isinstance(inputs.get("scene"), str):
        found["scene"] = os.path.normpath(here / inputs["scene"])
    rasters = inputs.get("rasters")
    if isinstance(rasters, dict):
        found["rasters"] = {
            str(name): [absolute_name(str(path), here) for path in paths]
            for name, paths in rasters.items()
            if isinstance(paths, list)
        }
        found["id"] = str(inputs.get("id", "scene"))
    return found


def _trained_scene(model: TrainedModel, *, manifest_path: Path, id: str) -> Scene:
    """A scene of a manifest as a model reads it."""
    return model.dataset(manifest_path).scene(id)


def _scene_of_rasters(model: object, rasters: Mapping[str, Sequence[str]], id: str) -> Scene:
    """The rasters that a map was made of, as its model describes them."""
    from terrafuse.api.inputs import open_rasters

    info = _info_of(Path(str(model)))
    return open_rasters(info, {name: list(paths) for name, paths in rasters.items()}, id=id)


def _info_of(place: Path) -> RunInfo:
    """What a model says of its rasters, without its weights where it is a run folder."""
    from terrafuse.weights.run_info import RunInfo

    if place.is_file():
        return _load(place).info
    try:
        return RunInfo.from_dict(_read_json(place / MODEL_JSON))
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"the model of the map is not in '{place}' any more, which says what its rasters are"
        ) from None


def _trained_rasters(model: TrainedModel, *, rasters: Mapping[str, Sequence[str]]) -> Scene:
    from terrafuse.api.inputs import open_rasters

    return open_rasters(model.info, {name: list(paths) for name, paths in rasters.items()})


# Runs


def _of_run(folder: Path, scenes: Sequence[str], *, subsets: bool) -> Collection:
    config = load_run_config(folder / STORED_CONFIG)
    path = config.data.manifest
    if not path.exists():
        raise ConfigError(
            f"the dataset that '{folder}' was trained on is not there: no file '{path}'. Map other "
            f"rasters (terrafuse predict {folder}), and look at the map"
        )
    manifest = load_manifest(path).select(config.data.modalities)
    splits = {entry.id: entry.split for entry in manifest.entries}
    judged = {config.training.validation_split, config.evaluation.split}
    ids = _chosen(manifest, scenes) if scenes else [
        id for id, split in splits.items() if split in judged
    ]  # fmt: skip
    if not ids:
        raise DataError(
            f"'{path}' has no scenes in the splits {' and '.join(sorted(judged))}, which are shown "
            "of a run. Name some with --scene ID"
        )
    explainer = Explainer(partial(_load, folder))
    store = Store(manifest.path.parent)
    views = _views_folder(folder, store)
    subjects = (
        _of_run_scene(
            _MapMaker(folder, views / plain_id(id), manifest, id, explainer, subsets),
            store,
            splits[id],
            config.data.train_splits,
        )
        for id in ids
    )
    return Collection(folder.resolve().name, _by_id(subjects))


def _of_run_scene(
    maker: _MapMaker, store: Store, split: str | None, train_splits: Sequence[str]
) -> Subject:
    manifest, id = maker.manifest, maker.id
    return Subject(
        id=plain_id(id),
        title=id,
        store=store,
        scene=partial(_scene_of, manifest, id),
        map=maker.out,
        split=split,
        is_made=maker.is_made,
        make=maker.make,
        explainer=maker.explainer,
        as_trained=partial(_trained_scene, manifest_path=manifest.path, id=id),
        manifest=manifest,
        scene_id=id,
        train_splits=tuple(train_splits),
    )


def _views_folder(run: Path, store: Store) -> Path:
    """Where maps of a run lie: in the run itself, else where copies are kept."""
    own = run / VIEWS
    if os.access(own if own.exists() else run, os.W_OK | os.X_OK):
        return own
    digest = hashlib.sha256(str(run.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
    return store.folder / f"run-{digest}"


@dataclass(frozen=True)
class _MapMaker:
    """A map of a scene by a run, that is made to be looked at.

    Args:
        run: The run folder.
        out: Folder of the map.
        manifest: With the scene.
        id: Of the scene.
        explainer: Holds the model.
        subsets: Whether the maps of subsets of the modalities are made, too.
    """

    run: Path
    out: Path
    manifest: Manifest
    id: str
    explainer: Explainer
    subsets: bool = False

    def is_made(self) -> bool:
        """Tell whether the map is there, by the model as it is now, of the files as they are."""
        try:
            made_of = self._made_of()
        except OSError:  # a raster is gone: the map that was made of it is shown
            return bool(_read_json(self.out / RECORD))
        folders = [self.out, *(self._subset_folders() if self.subsets else ())]
        return all(_read_json(own / RECORD).get(MADE_OF) == made_of for own in folders)

    def make(self, progress: Progress | None = None) -> None:
        """Make it, or go on with it."""
        _anew_where_it_must(partial(self._predict, progress))
        for folder in self._subset_folders() if self.subsets else ():
            _anew_where_it_must(partial(self._predict_subset, folder, progress))

    def _predict(self, progress: Progress | None, *, resume: bool) -> None:
        model = self.explainer.model
        products = PRODUCTS + (ATTRIBUTION if len(model.info.modalities) > 1 else ())
        model.predict(
            self.out,
            scene=f"{self.manifest.path}#{self.id}",
            products=products,
            facts={MADE_OF: self._made_of()},
            trust_values=True,  # of the run's own data; doubts are warned of, and recorded
            resume=resume,
            progress=progress,
        )

    def _predict_subset(self, folder: Path, progress: Progress | None, *, resume: bool) -> None:
        predictor, _ = self.explainer.model.predictor()
        scene = self.explainer.model.dataset(self.manifest.path).scene(self.id)
        kept = folder.name.split("+")
        predictor.predict(
            scene,
            folder,
            scheme=self.explainer.model.info.scheme,
            products=("class_map",),
            without={m.name for m in scene.modalities if m.name not in kept},
            facts={MADE_OF: self._made_of()},
            resume=resume,
            progress=progress,
        )
        scene.close()

    def _subset_folders(self) -> list[Path]:
        """Folders of the maps of each modality alone, and of all but one.

        Raises:
            ConfigError: The model needs every modality.
        """
        model = self.explainer.model.predictor()[0].model
        if not model.supports_missing:
            raise ConfigError(
                f"--subsets: {model.name} needs every modality. Leave --subsets out, or train a "
                "method that supports missing modalities (terrafuse methods)"
            )
        (entry,) = self.manifest.only(self.id).entries
        present = [m.name for m in model.modalities if m.name in entry.rasters]
        kept = [[name] for name in present]
        kept += [[name for name in present if name != left] for left in present]
        names = dict.fromkeys("+".join(own) for own in kept if 0 < len(own) < len(present))
        return [self.out / SUBSETS / name for name in names]

    def _made_of(self) -> str:
        """Digest of the model and of the scene's files."""
        weights = _read_json(self.run / MODEL_JSON).get("state_sha256")
        (entry,) = self.manifest.only(self.id).entries
        states = [state(name) for name in self.manifest.files_named(entry)]
        return hashlib.sha256(repr((weights, states)).encode(errors="surrogateescape")).hexdigest()


class _Predicting(Protocol):
    def __call__(self, *, resume: bool) -> None: ...


def _anew_where_it_must(predict: _Predicting) -> None:
    """Go on with a map, unless what is unfinished is of an earlier model or of other files."""
    try:
        predict(resume=True)
    except InUseError:
        raise
    except OutputError:
        predict(resume=False)


# Samples


def _of_sample(path: Path, scenes: Sequence[str], map_: str | Path | None) -> Collection:
    from terrafuse.maps.sample_file import read_sample

    sample = read_sample(path)
    found = Path(map_) if map_ is not None else Path(str(sample.about.get("map", "")))
    if map_ is None and not found.exists():
        beside = path.parent / found.name
        found = beside if beside.exists() else found
    if not found.exists():
        raise DataError(
            f"the map that '{path}' was drawn from is not there: no '{cut(found)}'. Name it with "
            "--map"
        )
    of_map = found.parent if found.is_file() and _is_map(found.parent) else found
    collection = _of_maps(path.stem, [of_map], scenes)
    return replace(collection, sample=path)
