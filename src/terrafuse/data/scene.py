"""`Scene`: the rasters of one place by modality, and its labels, on one reference grid."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.data.band_names import BandNamesWarning, BandNotice
from terrafuse.data.grid import Grid, own_window
from terrafuse.data.label_files import (
    LabelMask,
    MaskedLabels,
    ReferenceName,
    inspect_labels,
    open_labels,
)
from terrafuse.data.labels import LabelRules, Labels, RasterLabels
from terrafuse.data.names import local_file
from terrafuse.data.painted import PaintedLabels, PaintedLayer
from terrafuse.data.placement import Placement, place_further, place_rasters
from terrafuse.data.polygons import PolygonLabels
from terrafuse.data.raster_file import RasterFile, inspect_pages
from terrafuse.data.rasters import RasterSource, ReadingRules
from terrafuse.data.recent import RecentWindows
from terrafuse.data.remote import state
from terrafuse.data.stored import plain_path
from terrafuse.data.value_conversion import ValueConversion
from terrafuse.errors import DataError, LabelError, MissingModalityError, unknown_name
from terrafuse.modalities import Modality, window_alignment
from terrafuse.samples import IGNORE_INDEX, Sample, Window, blocks


@dataclass(frozen=True)
class SceneFiles:
    """The files of a scene and the rules by which they are read.

    Args:
        modalities: Modalities that `read` returns, in order.
        rasters: Files per modality; may include modalities that are not read but define the grid.
        known: Every modality of `rasters`, read or not; default: `modalities`.
        rules: Reading rules per modality; default: by kind.
        grid: Modality whose grid is the scene's, or "labels"; None chooses automatically.
        labels: Raster or vector file.
        labels_eroded: Likewise, without the boundaries between classes; used only for scoring.
        label_rules: Reading rules of both.
        window: Part of the reference grid that is the scene; None = all.
        shared_labels: Whether the label file is of several scenes: polygons then may lie in others.
        place: Name of the place or event; scenes of one are not independent.
        painted: Polygons over the labels, or in their stead.
    """

    id: str
    modalities: tuple[Modality, ...]
    rasters: Mapping[str, tuple[str, ...]]
    known: Mapping[str, Modality] = field(default_factory=dict)
    rules: Mapping[str, ReadingRules] = field(default_factory=dict)
    grid: str | None = None
    labels: str | None = None
    labels_eroded: str | None = None
    label_rules: LabelRules = field(default_factory=LabelRules)
    scheme: ClassScheme | None = None
    split: str | None = None
    window: Window | None = None
    shared_labels: bool = False
    place: str | None = None
    painted: PaintedLayer | None = None

    @property
    def references(self) -> dict[ReferenceName, str]:
        """Label files that can be read."""
        named: dict[ReferenceName, str | None] = {
            "labels": self.labels,
            "labels_eroded": self.labels_eroded,
        }
        return {k: path for k, path in named.items() if path is not None and self.scheme}

    def has_reference(self, name: ReferenceName) -> bool:
        """Tell whether there are these labels."""
        return name in self.references or (name == "labels" and self.painted is not None)

    def paths(self) -> Iterator[str]:
        """Every file that opening reads."""
        for own in self.rasters.values():
            yield from own
        if self.labels is not None:
            yield self.labels


@dataclass(frozen=True)
class _Opened:
    """What opening finds out about a scene.

    Args:
        grid: The scene's.
        reference: Full grid of which it is a part.
        sources: Rasters per modality that the scene has and returns.
        labels: Labels by name; those for scoring are added when first read.
    """

    grid: Grid
    reference: Grid
    sources: Mapping[str, RasterSource]
    labels: dict[ReferenceName, Labels]


PathLike = str | Path
_T = TypeVar("_T")


class Scene:
    """Rasters and labels of one place, read window by window.

    Opening checks all that needs no pixels: files, bands, CRS, overlap. The scene holds no open
    files (handles live in a pool per process), so it is cheap to keep and to pickle.

    Args:
        on_opening: Called with the scene when it is first needed, which opens it; None: it is
            opened at once.

    Raises:
        RasterReadError: A file is missing or not a raster.
        BandError: The bands of a raster do not fit its modality.
        GridMismatchError: Rasters cannot be brought onto one grid.
        LabelError: Polygons do not fit the class scheme.
    """

    def __init__(
        self, files: SceneFiles, *, on_opening: Callable[[Scene], None] | None = None
    ) -> None:
        self._files = files
        self._conversions: Mapping[str, ValueConversion] = {}
        self._on_opening = on_opening
        self._memory: RecentWindows | None = None
        self._parts = None if on_opening else self._open()

    @property
    def _opened(self) -> _Opened:
        if self._parts is None:
            self._parts = self._open()
            if self._on_opening:
                self._on_opening(self)
        return self._parts

    def adopt(self, other: Scene) -> None:
        """Take over what opening found out of the same files read by the same rules."""
        if self._parts is None and self._files == other._files:
            self._parts = other._opened
            if self._on_opening:
                self._on_opening(self)

    def tell_bands(self, notices: Mapping[str, BandNotice]) -> None:
        """Warn, before opening, of the bands that an earlier opening found; opening then does not.

        Args:
            notices: Its `band_notices`.
        """
        if self._parts is None and isinstance(self._on_opening, BandNamesTeller):
            self._on_opening.tell(self.id, notices)
            self._on_opening = None

    def remember_windows(self) -> None:
        """Keep the windows read last until `close`, for readers that follow one another.

        They get the same arrays, which are not to be changed.
        """
        self._memory = RecentWindows()

    def _open(self) -> _Opened:
        files = self._files
        inspected = {name: _inspect(files, name) for name in files.rasters}
        placement = place_rasters(
            inspected,
            inspect_labels(files.labels, _labels_where(files.id, "labels"), files.label_rules.page),
            {m.name: m for m in files.modalities} | dict(files.known),
            chosen=files.grid,
            window=files.window,
            where=f"scene '{files.id}'",
        )
        grid, reference = placement.grid, placement.reference
        sources = {
            modality.name: self._source(modality, placement)
            for modality in files.modalities
            if modality.name in placement.files
        }
        labels: dict[ReferenceName, Labels] = {}
        if "labels" in files.references:
            labels["labels"] = self._open_labels("labels", placement.labels, grid, reference)
        if files.painted is not None:
            labels["labels"] = self._paint(labels.get("labels"), files.painted, grid)
        return _Opened(grid, reference, sources, labels)

    @property
    def grid(self) -> Grid:
        """CRS, transform and size."""
        return self._opened.grid

    @property
    def _sources(self) -> Mapping[str, RasterSource]:
        return self._opened.sources

    @property
    def id(self) -> str:
        """Name of the scene, unique in its manifest."""
        return self._files.id

    @property
    def split(self) -> str | None:
        """Split that the scene belongs to, such as "train"."""
        return self._files.split

    @property
    def place(self) -> str | None:
        """Name of the place or event that it is of, if the manifest says so."""
        return self._files.place

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities that `read` returns, in order, whether the scene has them or not."""
        return self._files.modalities

    @property
    def scheme(self) -> ClassScheme | None:
        """Class scheme of the labels."""
        return self._files.scheme

    @property
    def alignment(self) -> int:
        """Scene pixels that the origin and size of windows must be multiples of."""
        return window_alignment(self.modalities)

    @property
    def grid_name(self) -> str | None:
        """Modality whose grid was chosen for the scene, or "labels"; None = automatic choice."""
        return self._files.grid

    @property
    def has_labels(self) -> bool:
        """True if there are labels to train on."""
        return self.has_reference("labels")

    @property
    def class_without_data(self) -> int | None:
        """Class whose code is the nodata value of the label raster, if there is one."""
        labels = self._named_labels("labels")
        return labels.class_without_data if isinstance(labels, RasterLabels) else None

    @property
    def missing(self) -> frozenset[str]:
        """Modalities without a raster here."""
        return frozenset(m.name for m in self.modalities if m.name not in self._files.rasters)

    @property
    def full_window(self) -> Window:
        """The whole scene, rounded up to the alignment."""
        n = self.alignment
        return Window(0, 0, -(-self.grid.height // n) * n, -(-self.grid.width // n) * n)

    def has_reference(self, name: ReferenceName) -> bool:
        """Tell whether the scene has these labels to score against."""
        return self._files.has_reference(name)

    @property
    def painted_pixels(self) -> int:
        """Number of pixels with a painted class over the labels."""
        labels = self._opened.labels.get("labels")
        return labels.count_pixels() if isinstance(labels, PaintedLabels) else 0

    @property
    def conversions(self) -> Mapping[str, ValueConversion]:
        """Conversions of values on reading, per modality (`convert_values`)."""
        return self._conversions

    @property
    def files(self) -> dict[str, tuple[RasterFile, ...]]:
        """Raster files per modality present."""
        return {name: source.files for name, source in self._sources.items()}

    @property
    def band_notices(self) -> dict[str, BandNotice]:
        """Per modality whose files name their bands otherwise than it does, what was done."""
        notices = {name: source.choice.notice for name, source in self._sources.items()}
        return {name: notice for name, notice in notices.items() if notice is not None}

    @property
    def block_shape(self) -> tuple[int, int]:
        """Scene pixels, rows and columns, of the largest blocks that its rasters are decoded by.

        Files of one block do not count; if there are no others, it is the scene.

        Raises:
            RasterReadError: A file cannot be opened.
        """
        found = [
            (max(1, round(rows * m.scale)), max(1, round(cols * m.scale)))
            for m in self.modalities
            if m.name in self._sources
            for rows, cols in self._sources[m.name].block_shapes
        ]
        whole = (self.grid.height, self.grid.width)
        parts = [shape for shape in found if shape[0] < whole[0] or shape[1] < whole[1]]
        return max(parts, key=lambda shape: shape[0] * shape[1], default=whole)

    @property
    def made_of(self) -> SceneFiles:
        """Its files as they are named, and the rules by which they are read."""
        return self._files

    def source(self, modality: str) -> RasterSource:
        """Rasters of a modality that the scene has."""
        return self._sources[modality]

    def paths(self) -> dict[str, tuple[Path, ...]]:
        """Files on this disk that are read, per modality, "labels" and "labels_eroded"."""
        paths = {
            name: tuple(_on_disk(file.path for file in source.files))
            for name, source in self._sources.items()
        }
        labels = {k: tuple(_on_disk([path])) for k, path in self._files.references.items()}
        return paths | {k: found for k, found in labels.items() if found}

    def states(self) -> list[tuple[str | int, ...]]:
        """What tells for each file that is read whether it has changed, on this disk or not."""
        far = {
            file.path: state(file.path)
            for source in self._sources.values()
            for file in source.files
            if local_file(file.path) is None
        }
        near = [state(str(path)) for paths in self.paths().values() for path in paths]
        return [*near, *far.values(), *self._painted_state()]

    def _painted_state(self) -> list[tuple[str | int, ...]]:
        layer = self._files.painted
        return [] if layer is None else [("painted", layer.etag)]

    def states_as_named(self) -> list[tuple[str | int, ...]]:
        """`states` of the files that the scene is made of, without opening any.

        Raises:
            OSError: A file on this disk is not there.
        """
        files = self._files
        further = (files.labels_eroded, files.label_rules.area)
        named = [*files.paths(), *(path for path in further if path is not None)]
        return [*(state(str(local_file(path) or path)) for path in named), *self._painted_state()]

    def read(
        self, window: Window, *, labels: bool = True, arrays: bool = False, stored: bool = False
    ) -> Sample:
        """Read images, validity and labels of a window.

        Args:
            window: Scene pixels; may extend beyond the scene. Origin and size are multiples of
                `alignment`.
            labels: Whether to read labels, if there are any.
            arrays: Give NumPy arrays instead of tensors, for which torch is imported.
            stored: Leave images integers where they are stored as such, and are physical values
                (see `Sample`).

        Returns:
            Images (C_m, H_m, W_m) float32 in physical units, NaN without data; valid (H_m, W_m);
            labels (H, W) int64, 255 = ignore.

        Raises:
            RasterReadError: Pixels cannot be decoded.
            LabelError: Label values outside the class scheme.
        """
        give = _same if arrays else _tensor_maker()
        images, valid = {}, {}
        for modality in self.modalities:
            if stored and self._keeps_integers(modality.name):
                part = own_window(modality, window)
                image, known = self._sources[modality.name].read_stored(part)
            else:
                reading = partial(self._read_modality, modality, window)
                image, known = self._recall(modality.name, window, reading)
            images[modality.name] = give(image)
            valid[modality.name] = give(known)
        read = self.read_labels(window) if labels and self.has_labels else None
        return Sample(
            images=images,
            valid=valid,
            labels=None if read is None else give(read.astype(np.int64)),
            window=window,
            scene_id=self.id,
        )

    def is_surely_empty(self, window: Window, names: Iterable[str]) -> bool:
        """Tell whether modalities have no data in a window, where no pixel need be read for that.

        Args:
            window: Scene pixels, as for `read`.
            names: Of the modalities.

        Returns:
            False where there may be data.

        Raises:
            RasterReadError: A file cannot be opened.
        """
        by_name = {modality.name: modality for modality in self.modalities}
        return all(
            self._sources[name].is_surely_empty(own_window(by_name[name], window))
            for name in names
            if name in self._sources
        )

    def read_labels(self, window: Window, reference: ReferenceName = "labels") -> NDArray[np.uint8]:
        """Read class indices (h, w) of a window; 255 = ignore, also beyond the scene.

        Args:
            window: Scene pixels.
            reference: Labels other than "labels" are opened when first read.

        Raises:
            LabelError: The scene has no such labels, or values outside the class scheme.
            RasterReadError: A file is missing, or pixels cannot be decoded.
            GridMismatchError: The labels do not lie on the scene's grid.
        """
        if not self.has_reference(reference):
            raise LabelError(
                f"scene '{self.id}' has no {reference}; name a file under '{reference}'"
            )
        return self._recall(reference, window, partial(self._read_labels, window, reference))

    def _read_labels(self, window: Window, reference: ReferenceName) -> NDArray[np.uint8]:
        opened = self._opened
        if reference not in opened.labels:
            where = _labels_where(self.id, reference)
            page = self._files.label_rules.page
            file = inspect_labels(self._files.references[reference], where, page)
            file = file and place_further(file, opened.reference, where)
            opened.labels[reference] = self._open_labels(
                reference, file, opened.grid, opened.reference
            )
        return opened.labels[reference].read(window)

    def unknown_labels(self, reference: ReferenceName = "labels") -> Counter[str]:
        """Count pixels per raw value that `unknown` replaced, in all windows read so far."""
        labels = self._named_labels(reference)
        return Counter(labels.unknown) if isinstance(labels, RasterLabels) else Counter()

    @property
    def astray(self) -> str:
        """Why no polygon of its labels lies within the scene although there are some, or ""."""
        labels = self._named_labels("labels")
        return labels.astray if isinstance(labels, PolygonLabels) else ""

    def _named_labels(self, name: ReferenceName) -> Labels | None:
        """Labels of the file that the manifest names, without what is painted over them."""
        labels = self._opened.labels.get(name)
        return labels.base if isinstance(labels, PaintedLabels) else labels

    def keep_labels(self, area: LabelMask) -> Scene:
        """Return the scene, which must have labels, with training labels void outside an area."""
        opened, scene = self._opened, copy(self)
        scene._memory = None
        masked: Labels = MaskedLabels(opened.labels["labels"], area)
        scene._parts = replace(opened, labels=opened.labels | {"labels": masked})
        return scene

    def convert_values(self, conversions: Mapping[str, ValueConversion]) -> Scene:
        """The scene with values of these modalities converted as they are read."""
        scene = copy(self)
        scene._memory = None
        scene._conversions = dict(conversions)
        return scene

    def read_decimated(self, step: int) -> dict[str, NDArray[np.float32]]:
        """Read the whole scene at low resolution, for display and for comparisons between scenes.

        Args:
            step: Every modality returns one pixel per about `step` scene pixels, along rows and
                columns, from overviews where its files have some.

        Returns:
            Per modality present, float32 (C, h, w) in physical units, NaN without data. Sizes
            differ between modalities of other scales.

        Raises:
            RasterReadError: Pixels cannot be decoded.
        """
        return {
            m.name: self._convert(
                m.name, self._sources[m.name].read_decimated(max(1, round(step / m.scale)))
            )
            for m in self.modalities
            if m.name in self._sources
        }

    def read_labels_decimated(self, step: int) -> NDArray[np.uint8]:
        """Return class indices (ceil(H / step), ceil(W / step)), 255 = ignore; reads all labels."""
        rows, cols = (-(-n // step) for n in (self.grid.height, self.grid.width))
        small = np.full((rows, cols), IGNORE_INDEX, np.uint8)
        side = max(1, 1024 // (step * self.alignment)) * step * self.alignment
        for window in blocks(self.grid.height, self.grid.width, side, self.alignment):
            row, col = window.row // step, window.col // step
            part = self.read_labels(window)[step // 2 :: step, step // 2 :: step]
            part = part[: rows - row, : cols - col]
            small[row : row + part.shape[0], col : col + part.shape[1]] = part
        return small

    def close(self) -> None:
        """Close the scene's files that this process has open; reading reopens them."""
        self._memory = None
        if self._parts is None:
            return
        for source in self._parts.sources.values():
            source.close()
        for labels in self._parts.labels.values():
            labels.close()

    def __repr__(self) -> str:
        names = ", ".join(self._files.rasters)
        if self._parts is None:
            return f"Scene('{self.id}', {names}, not opened)"
        return f"Scene('{self.id}', {self.grid.height} × {self.grid.width}, {names})"

    def _recall(self, name: str, window: Window, read: Callable[[], _T]) -> _T:
        """Return what is remembered of a window of a modality or of labels, or read it."""
        return read() if self._memory is None else self._memory.get((name, window), read)

    def _keeps_integers(self, name: str) -> bool:
        source = self._sources.get(name)
        is_stored = source is not None and source.stored_dtype is not None
        return is_stored and name not in self._conversions

    def _read_modality(
        self, modality: Modality, window: Window
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        part = own_window(modality, window)
        source = self._sources.get(modality.name)
        if source is not None:
            image, valid = source.read(part)
            if modality.name in self._conversions:
                image = self._convert(modality.name, image)
                valid = np.asarray(~np.isnan(image).all(axis=0))
            return image, valid
        shape = (len(modality.bands), part.height, part.width)
        return np.full(shape, np.nan, np.float32), np.zeros(shape[1:], bool)

    def _convert(self, name: str, image: NDArray[np.float32]) -> NDArray[np.float32]:
        conversion = self._conversions.get(name)
        return image if conversion is None else conversion.apply(image)

    def _source(self, modality: Modality, placement: Placement) -> RasterSource:
        ratio = modality.scale_ratio
        return RasterSource(
            modality,
            placement.files[modality.name],
            self._files.rules.get(modality.name, ReadingRules.for_kind(modality.kind)),
            grid=placement.grid.scaled(ratio),
            reference=placement.reference.scaled(ratio),
            where=_where(self.id, modality.name),
        )

    def _paint(self, base: Labels | None, layer: PaintedLayer, grid: Grid) -> Labels:
        scheme = self._files.scheme
        assert scheme is not None
        return PaintedLabels(base, layer, scheme, grid, f"painted polygons of scene '{self.id}'")

    def _open_labels(
        self, name: ReferenceName, file: RasterFile | None, grid: Grid, reference: Grid
    ) -> Labels:
        files = self._files
        assert files.scheme is not None
        where = _labels_where(files.id, name)
        return open_labels(
            files.references[name], file, files.scheme, files.label_rules,
            grid, reference, where, shared=files.shared_labels,
        )  # fmt: skip


def scene_from_rasters(
    modalities: Sequence[Modality],
    rasters: Mapping[str, PathLike | Sequence[PathLike]],
    *,
    grid: str | None = None,
    id: str = "scene",
    sources: Mapping[str, ReadingRules] | None = None,
    labels: PathLike | None = None,
    labels_eroded: PathLike | None = None,
    label_rules: LabelRules | None = None,
    scheme: ClassScheme | None = None,
    split: str | None = None,
    window: Window | None = None,
) -> Scene:
    """Open a scene from explicit rasters, without a manifest.

    Args:
        modalities: Modalities to read, in order; those without rasters are absent.
        rasters: Per modality one file, or several whose bands are concatenated.
        grid: Modality whose grid is the scene's, or "labels". Default: the labels' (if a raster),
            else the finest raster's.
        id: Name of the scene in messages and samples.
        sources: Reading rules per modality; default: by kind.
        labels: Raster or vector file.
        labels_eroded: Likewise, without the boundaries between classes; used only for scoring.
        label_rules: Reading rules of both.
        scheme: Class scheme of the labels; required with labels.
        window: Part of the grid that is the scene; default: all.

    Raises:
        DataError: A raster is given for an unknown modality; or as raised by `Scene`.
    """
    names = [modality.name for modality in modalities]
    for name in rasters:
        if name not in names:
            raise DataError(unknown_name("modality", name, names))
    if (labels is not None or labels_eroded is not None) and scheme is None:
        raise DataError("labels need a class scheme that says what their values mean")
    if not rasters:
        raise MissingModalityError(f"scene '{id}' has no raster; give one of {', '.join(names)}")
    scene = Scene(
        SceneFiles(
            id=id,
            modalities=tuple(modalities),
            rasters={name: _paths(given) for name, given in rasters.items()},
            rules=dict(sources or {}),
            grid=grid,
            labels=None if labels is None else plain_path(str(labels)),
            labels_eroded=None if labels_eroded is None else plain_path(str(labels_eroded)),
            label_rules=label_rules or LabelRules(),
            scheme=scheme,
            split=split,
            window=window,
        )
    )
    BandNamesTeller()(scene)
    return scene


class BandNamesTeller:
    """A warning of bands that were taken by name or may be others, once for all scenes alike.

    Args:
        several: Whether further scenes may be alike.
    """

    def __init__(self, several: bool = False) -> None:
        self._told: set[tuple[str, str]] = set()
        self._more = " (told once for all scenes alike)" if several else ""

    def __call__(self, scene: Scene) -> None:
        """Warn of a scene's bands, unless of others like them."""
        self.tell(scene.id, scene.band_notices)

    def tell(self, id: str, notices: Mapping[str, BandNotice]) -> None:
        """Warn of the bands of the scene of this name, unless of others like them."""
        for name, notice in notices.items():
            if (name, notice.text) not in self._told:
                self._told.add((name, notice.text))
                said = f"{_where(id, name)}: '{notice.path}'{self._more} {notice.text}"
                warning = BandNamesWarning(said, is_doubtful=notice.is_doubtful)
                warnings.warn(warning, stacklevel=4)


def _same(array: NDArray[Any]) -> Any:
    return array


def _tensor_maker() -> Callable[[NDArray[Any]], Any]:
    import torch  # callers that need only labels, grids, arrays or previews do not wait for it

    return torch.from_numpy


def _inspect(files: SceneFiles, name: str) -> tuple[RasterFile, ...]:
    rules = files.rules.get(name)
    found: list[RasterFile] = []
    for path in files.rasters[name]:
        # Whether an alpha band is data depends on the bands that are asked for.
        found += inspect_pages(
            path, rules.page if rules else None, _where(files.id, name), judge_alpha=False
        )
    return tuple(found)


def _on_disk(paths: Iterable[str]) -> list[Path]:
    return [file for path in paths if (file := local_file(path)) is not None]


def _where(scene_id: str, modality: str) -> str:
    return f"modality '{modality}' of scene '{scene_id}'"


def _labels_where(scene_id: str, name: ReferenceName) -> str:
    return f"{name} of scene '{scene_id}'"


def _paths(given: PathLike | Sequence[PathLike]) -> tuple[str, ...]:
    return (str(given),) if isinstance(given, PathLike) else tuple(str(path) for path in given)
