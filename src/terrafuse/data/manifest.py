"""`dataset.yaml`: the files of a data set. Every data set becomes one; training reads no other."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from terrafuse.classes import ClassScheme
from terrafuse.config.base import parse_settings, read_yaml
from terrafuse.config.paths import exists, expand_home
from terrafuse.config.yaml_reading import YamlValues
from terrafuse.config.yaml_writing import to_flow, to_yaml
from terrafuse.data.labels import LabelRules
from terrafuse.data.names import absolute_name, is_part, local_file
from terrafuse.data.painted import Painted, PaintedLayer, find_painted
from terrafuse.data.rasters import BEFORE_RULES, RESCALED_UNIT, ReadingRules, RescaleName
from terrafuse.data.scene import BandNamesTeller, Scene, SceneFiles
from terrafuse.data.schema import (
    ManifestSettings,
    SceneEntry,
    check_names,
    check_places,
    check_splits,
    check_unique,
    modality_values,
    to_entry,
    to_modality,
    to_rules,
)
from terrafuse.errors import (
    ConfigError,
    MissingModalityError,
    RasterReadError,
    SceneNotFoundError,
    unknown_name,
)
from terrafuse.modalities import Modality
from terrafuse.writing import written_whole


@dataclass(frozen=True)
class Manifest:
    """A data set: modalities, class scheme and scenes.

    Args:
        path: The file; paths in it are relative to `folder`.
        modalities: Modalities that scenes return, in order. A rescaled one has lost its unit.
        rules: Reading rules per modality.
        grid: Modality whose grid is the scene's, or "labels"; None chooses automatically.
        root: Folder that paths are relative to, as written; None = that of the file.
        known: Every modality of the file; `select` keeps them, so that scenes keep their grid.
        painted: Polygons that lie over the labels of scenes that are learnt from.
    """

    path: Path
    modalities: Mapping[str, Modality]
    scheme: ClassScheme
    entries: tuple[SceneEntry, ...]
    rules: Mapping[str, ReadingRules]
    label_rules: LabelRules = field(default_factory=LabelRules)
    grid: str | None = None
    root: str | None = None
    known: Mapping[str, Modality] = field(default_factory=dict)
    painted: Painted | None = None

    @property
    def folder(self) -> Path:
        """Folder that paths are relative to."""
        return self.path.parent / expand_home(self.root or "")

    @property
    def splits(self) -> dict[str, int]:
        """Number of scenes per split, in order of appearance."""
        counts: dict[str, int] = {}
        for entry in self.entries:
            if entry.split is not None:
                counts[entry.split] = counts.get(entry.split, 0) + 1
        return counts

    def select(self, names: Sequence[str] | None) -> Manifest:
        """Return the manifest with these modalities, in this order; None changes nothing.

        Raises:
            ConfigError: A name is unknown or given twice.
        """
        if names is None:
            return self
        for name in names:
            if name not in self.known:
                raise ConfigError(unknown_name("modality", name, self.known))
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"modalities must name at least one, each once; got {list(names)}")
        return self._returning(names)

    def with_rescale(self, wanted: Mapping[str, RescaleName | None]) -> Manifest:
        """Return the manifest with other `rescale` rules; modalities it does not have are ignored.

        Args:
            wanted: Modality → its rescaling, or None for its physical values.
        """
        rules = {
            name: replace(rule, rescale=wanted.get(name, rule.rescale))
            for name, rule in self.rules.items()
        }
        return replace(self, rules=rules)._returning(self.modalities)

    def read_as_trained(self, trained: Mapping[str, ReadingRules]) -> Manifest:
        """The manifest, rescaled and with pixels without data as those that a model learned from.

        Args:
            trained: How its modalities were read; ones that the manifest lacks are left out.
        """
        rules = dict(self.rules)
        for name in rules.keys() & trained.keys():
            rule = trained[name]
            rules[name] = replace(rules[name], nodata_rule=rule.nodata_rule)
            if rule.band_names == "descriptions" and rules[name].band_names == "use":
                rules[name] = replace(rules[name], band_names="descriptions")
        return replace(self, rules=rules).with_rescale({n: r.rescale for n, r in trained.items()})

    def read_as_before(self) -> Manifest:
        """The manifest, read as before it could say `nodata_rule` and `band_names`."""
        return replace(self, rules={n: replace(r, **BEFORE_RULES) for n, r in self.rules.items()})

    def paint(self, setting: str | Path, train_splits: Sequence[str]) -> Manifest:
        """The manifest with painted polygons over the labels of scenes that are learnt from.

        Args:
            setting: `data.painted`: "auto", "ignore" or a path.
            train_splits: Splits that are learnt from.

        Raises:
            ConfigError: There is no file of the path given.
            DataError: The file of painted polygons cannot be read.
            LabelError: A polygon to be learnt from has no class of the scheme.
        """
        splits = {entry.id: entry.split for entry in self.entries}
        names = self.scheme.names
        return replace(self, painted=find_painted(setting, self.path, splits, train_splits, names))

    def unpainted(self) -> Manifest:
        """The manifest with the labels that it names alone: the truth of what is scored."""
        return self if self.painted is None else replace(self, painted=None)

    def is_labelled(self, entry: SceneEntry) -> bool:
        """Tell whether a scene has labels to train on: a file of the manifest, or painted ones."""
        return entry.labels is not None or self._painted_layer(entry) is not None

    def _painted_layer(self, entry: SceneEntry) -> PaintedLayer | None:
        return None if self.painted is None else self.painted.layers.get(entry.id)

    def rules_of(self, id: str) -> Mapping[str, ReadingRules]:
        """Return the reading rules of a scene's modalities, with its own scales.

        Raises:
            SceneNotFoundError: No such scene.
        """
        return _own_rules(self.rules, self._entry(id))

    def scenes(self, split: str | None = None) -> list[Scene]:
        """Return all scenes, or those of a split; each is opened when it is first needed.

        Only what can be seen without opening rasters is checked at once, that the files exist.

        Raises:
            SceneNotFoundError: No such split.
            RasterReadError: A file is missing, or no file matches.
            MissingModalityError: A required modality is absent.
        """
        if split is not None and split not in self.splits:
            raise SceneNotFoundError(unknown_name("split", split, self.splits))
        chosen = [entry for entry in self.entries if split is None or entry.split == split]
        tell = BandNamesTeller(several=len(chosen) > 1)
        scenes = []
        for entry in chosen:
            files = self._scene_files(entry)
            if not all(map(_may_exist, files.paths())):
                Scene(files)  # raises what is the matter
            scenes.append(Scene(files, on_opening=tell))
        return scenes

    def scene(self, id: str, tell: Callable[[Scene], None] | None = None) -> Scene:
        """Open one scene.

        Args:
            tell: Of several scenes opened one by one, what warns of their bands once.

        Raises:
            SceneNotFoundError: No such scene.
            RasterReadError: A file is missing, or no file matches.
            MissingModalityError: A required modality is absent.
            DataError: As raised by `Scene`.
        """
        scene = Scene(self._scene_files(self._entry(id)))
        (tell or BandNamesTeller())(scene)
        return scene

    def ids(self, split: str | None = None) -> list[str]:
        """Names of all scenes, or of those of a split.

        Raises:
            SceneNotFoundError: No such split.
        """
        if split is not None and split not in self.splits:
            raise SceneNotFoundError(unknown_name("split", split, self.splits))
        return [entry.id for entry in self.entries if split is None or entry.split == split]

    def local_files(self, entry: SceneEntry) -> dict[str, tuple[Path, ...]]:
        """Return the files of a scene on this disk, whether they exist or not, without opening any.

        Returns:
            Per modality returned, "labels" and "labels_eroded".

        Raises:
            RasterReadError: No file matches a pattern.
        """
        found = {
            name: self._files(entry, name) for name in self.modalities if name in entry.rasters
        }
        for name, path in (("labels", entry.labels), ("labels_eroded", entry.labels_eroded)):
            if path is not None:
                found[name] = (self._resolve(path),)
        return {
            name: tuple(file for path in paths if (file := local_file(path)) is not None)
            for name, paths in found.items()
        }

    def files_named(self, entry: SceneEntry) -> Iterator[str]:
        """Every raster and label file of a scene as GDAL names it, without opening any.

        Raises:
            RasterReadError: No file matches a pattern.
        """
        for name in entry.rasters:
            yield from self._files(entry, name)
        yield from (self._resolve(path) for path in (entry.labels, entry.labels_eroded) if path)

    @property
    def area_file(self) -> str | None:
        """File of the labelled area as GDAL names it."""
        area = self.label_rules.area
        return None if area is None else self._resolve(area)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in the file, with every modality."""
        values: dict[str, Any] = {} if self.root is None else {"root": self.root}
        values |= self.scheme.to_dict()
        values["modalities"] = {
            name: modality_values(modality, self.rules[name])
            for name, modality in self.known.items()
        }
        if self.grid is not None:
            values["grid"] = self.grid
        rules = {k: v for k, v in vars(self.label_rules).items() if v is not None}
        if rules:
            values["labels"] = rules
        return values | {"scenes": [entry.to_dict() for entry in self.entries]}

    def check_area(self) -> None:
        """Refuse a file of the labelled area that does not exist.

        Raises:
            ConfigError: Names it.
        """
        if self.label_rules.area is None:
            return
        file = local_file(self._resolve(self.label_rules.area))
        if file is not None and not exists(file):
            raise ConfigError(
                f"labels.area: there is no file '{file}'. Correct the path, or leave 'area' out if "
                "all pixels between the polygons are labelled"
            )

    def _returning(self, names: Iterable[str]) -> Manifest:
        modalities = {name: _as_read(self.known[name], self.rules[name]) for name in names}
        return replace(self, modalities=modalities)

    def _entry(self, id: str) -> SceneEntry:
        entries = self._by_id
        if id not in entries:
            near = unknown_name("scene", id, list(entries)[:20])
            more = "" if len(entries) <= 20 else f" … {len(entries)} scenes in '{self.path}'"
            raise SceneNotFoundError(near + more)
        return entries[id]

    @cached_property
    def _by_id(self) -> dict[str, SceneEntry]:
        return {entry.id: entry for entry in self.entries}

    def _scene_files(self, entry: SceneEntry) -> SceneFiles:
        for name in self.modalities:
            if self.rules[name].required and name not in entry.rasters:
                raise MissingModalityError(
                    f"scene '{entry.id}' has no raster for modality '{name}'. Add it in "
                    f"'{self.path}', or set 'required: false' on the modality"
                )
        area = self.label_rules.area
        return SceneFiles(
            id=entry.id,
            modalities=tuple(self.modalities.values()),
            rasters={name: self._files(entry, name) for name in entry.rasters},
            known=self.known,
            rules=_own_rules(self.rules, entry),
            grid=self.grid,
            labels=entry.labels and self._resolve(entry.labels),
            labels_eroded=entry.labels_eroded and self._resolve(entry.labels_eroded),
            label_rules=replace(self.label_rules, area=area and self._resolve(area)),
            scheme=self.scheme,
            split=entry.split,
            window=entry.window,
            shared_labels=self._label_uses[entry.labels] > 1,
            place=entry.place,
            painted=self._painted_layer(entry),
        )

    def only(self, id: str) -> Manifest:
        """Return the manifest of one scene; label files shared with others still count as shared.

        Raises:
            SceneNotFoundError: No such scene.
        """
        one = replace(self, entries=(self._entry(id),))
        vars(one)["_label_uses"] = self._label_uses
        return one

    @cached_property
    def _label_uses(self) -> Counter[str | None]:
        """Count the scenes of each label file."""
        return Counter(entry.labels for entry in self.entries)

    def _files(self, entry: SceneEntry, name: str) -> tuple[str, ...]:
        found: list[str] = []
        for pattern in entry.rasters[name]:
            path = self._resolve(pattern)
            if is_part(path) or exists(path) or not glob.has_magic(path):
                found.append(path)
                continue
            matches = glob.glob(path, recursive=True)  # noqa: PTH207  (absolute patterns)
            if not matches:
                raise RasterReadError(
                    f"modality '{name}' of scene '{entry.id}': no file matches '{pattern}' in "
                    f"'{self.folder}'"
                )
            found += _in_band_order(matches, self.known[name].bands)
        return tuple(found)

    def _resolve(self, path: str) -> str:
        return absolute_name(path, self.folder)


def load_manifest(path: Path | str) -> Manifest:
    """Read `dataset.yaml`; its rasters are opened with the scenes.

    Raises:
        ConfigError: Missing or invalid file; names the key or scene, and the nearest valid key.
    """
    path = expand_home(path).absolute()
    values, where = read_yaml(path, text_keys=("id", "split", "place")), str(path)
    settings = parse_settings(ManifestSettings, values, where)
    modalities, rules = {}, {}
    for name, item in settings.modalities.items():
        with _placed(values, where, "modalities", name):
            modalities[name], rules[name] = to_modality(name, item), to_rules(name, item)
    with _placed(values, where, "classes"):
        classes = [item.model_dump(exclude_none=True) for item in settings.classes]
        labels = {"classes": classes, "void": settings.void, "unknown": settings.unknown}
        scheme = ClassScheme.from_dict(labels)
    with _placed(values, where):
        check_names(settings, modalities)
    manifest = Manifest(
        path=path,
        modalities={name: _as_read(modality, rules[name]) for name, modality in modalities.items()},
        scheme=scheme,
        entries=tuple(_entries(settings, values, modalities, where)),
        rules=rules,
        label_rules=LabelRules(**settings.labels.model_dump()),
        grid=settings.grid,
        root=settings.root,
        known=modalities,
    )
    with _placed(values, where, "labels", "area"):
        manifest.check_area()
    return manifest


def _entries(
    settings: ManifestSettings, values: YamlValues, modalities: Mapping[str, Modality], where: str
) -> list[SceneEntry]:
    """Parse the scenes; errors give the line."""

    def place(index: int) -> str:
        return values.place(("scenes", index))

    entries = []
    for index, item in enumerate(settings.scenes):
        try:
            entries.append(to_entry(item, index + 1, modalities, where))
        except ConfigError as error:
            raise ConfigError(f"{error}{place(index)}") from None
    check_unique(entries, where, place)
    check_splits(entries, where, place)
    check_places(entries, where, place)
    return entries


@contextmanager
def _placed(values: YamlValues, where: str, *keys: str) -> Iterator[None]:
    """Let errors begin with the file and end with the line of what the keys lead to."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}{values.place(keys)}") from None


def write_manifest(values: Mapping[str, Any], path: Path | str) -> Path:
    """Write manifest values as YAML, atomically.

    Raises:
        OutputError: The folder is not writable.
    """
    path = Path(path)
    text = "".join(_to_yaml(key, value) for key, value in values.items())
    with written_whole(path) as (partial,):
        partial.write_text(text, encoding="utf-8")
    return path


def _may_exist(path: str) -> bool:
    file = local_file(path)
    return file is None or exists(file)


def _own_rules(rules: Mapping[str, ReadingRules], entry: SceneEntry) -> Mapping[str, ReadingRules]:
    """The rules with the scales that a scene has of its own."""
    own = dict(rules)
    for key in ("value_scale", "value_offset"):
        for name, number in getattr(entry, key).items():
            own[name] = replace(own[name], **{key: number})
    return own


def _as_read(modality: Modality, rules: ReadingRules) -> Modality:
    """Return the modality as scenes return it."""
    return replace(modality, unit=RESCALED_UNIT) if rules.rescale else modality


def _to_yaml(key: str, value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{key}:\n" + "".join(f"  - {to_flow(item)}\n" for item in value)  # a line each
    return to_yaml({key: value})


def _in_band_order(paths: Sequence[str], bands: Sequence[str]) -> list[str]:
    """Order files found by a pattern: as the bands they are named after, else naturally."""
    if len(paths) == len(bands) > 1:
        named = [[path for path in paths if _is_named(path, band)] for band in bands]
        if all(len(found) == 1 for found in named):
            return [found[0] for found in named]
    return sorted(paths, key=_natural_key)


def _is_named(path: str, band: str) -> bool:
    word = rf"(?<![A-Za-z0-9]){re.escape(band)}(?![A-Za-z0-9])"
    return re.search(word, Path(path).stem, re.IGNORECASE) is not None


def _natural_key(path: str) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]
