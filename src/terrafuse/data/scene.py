"""`Scene`: the rasters of one place by modality, and its labels, on one reference grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.data.files import RasterFile, inspect_raster
from terrafuse.data.grid import Grid
from terrafuse.data.handles import is_remote
from terrafuse.data.labels import LabelRules, Labels, RasterLabels
from terrafuse.data.placement import Placement, place_rasters
from terrafuse.data.polygons import PolygonLabels, is_vector
from terrafuse.data.rasters import RasterSource, ReadingRules
from terrafuse.errors import DataError, LabelError, MissingModalityError, unknown_name
from terrafuse.modalities import Modality, window_alignment
from terrafuse.samples import Sample, Window

PathLike = str | Path


@dataclass(frozen=True)
class SceneFiles:
    """What a scene is made of.

    Args:
        id: Name of the scene.
        modalities: What `read` returns, in order.
        rasters: Files per modality; may hold modalities that are not read but have the grid.
        known: Every modality of `rasters`, read or not; default: `modalities`.
        rules: How modalities are read; default: by kind.
        grid: Modality whose grid is the scene's, or "labels"; None chooses.
        labels: Raster or vector file.
        label_rules: How it is read.
        scheme: What label values mean.
        split: Part of the data set the scene belongs to.
        window: Part of the reference grid that is the scene; None = all.
    """

    id: str
    modalities: tuple[Modality, ...]
    rasters: Mapping[str, tuple[str, ...]]
    known: Mapping[str, Modality] = field(default_factory=dict)
    rules: Mapping[str, ReadingRules] = field(default_factory=dict)
    grid: str | None = None
    labels: str | None = None
    label_rules: LabelRules = field(default_factory=LabelRules)
    scheme: ClassScheme | None = None
    split: str | None = None
    window: Window | None = None


class Scene:
    """Rasters and labels of one place, read window by window.

    Opening checks what can be known without pixels: files, bands, CRS, overlap. Nothing stays open
    in it (handles live in a pool per process), so a scene is cheap to keep and to pickle.

    Args:
        files: What the scene is made of.

    Raises:
        RasterReadError: A file is missing or no raster.
        BandError: A raster has other bands than its modality.
        GridMismatchError: Rasters cannot be brought onto one grid.
        LabelError: Polygons do not fit the class scheme.
    """

    def __init__(self, files: SceneFiles) -> None:
        self._files = files
        inspected = {
            name: tuple(inspect_raster(path, _where(files.id, name)) for path in paths)
            for name, paths in files.rasters.items()
        }
        placement = place_rasters(
            inspected,
            _inspect_labels(files),
            {m.name: m for m in files.modalities} | dict(files.known),
            chosen=files.grid,
            window=files.window,
            where=f"scene '{files.id}'",
        )
        self.grid: Grid = placement.grid
        self._sources = {
            modality.name: self._source(modality, placement)
            for modality in files.modalities
            if modality.name in placement.files
        }
        self._labels = self._open_labels(placement)

    @property
    def id(self) -> str:
        """Name of the scene, unique in its manifest."""
        return self._files.id

    @property
    def split(self) -> str | None:
        """Part of the data set the scene belongs to."""
        return self._files.split

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What `read` returns, in order, whether the scene has it or not."""
        return self._files.modalities

    @property
    def scheme(self) -> ClassScheme | None:
        """What the labels mean."""
        return self._files.scheme

    @property
    def alignment(self) -> int:
        """Scene pixels to whose multiples windows must start and measure."""
        return window_alignment(self.modalities)

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return self._labels is not None

    @property
    def missing(self) -> frozenset[str]:
        """Modalities without a raster here."""
        return frozenset(m.name for m in self.modalities if m.name not in self._sources)

    @property
    def full_window(self) -> Window:
        """The whole scene, rounded up to the alignment."""
        n = self.alignment
        return Window(0, 0, -(-self.grid.height // n) * n, -(-self.grid.width // n) * n)

    def paths(self) -> dict[str, tuple[Path, ...]]:
        """Files on this disk, per modality and "labels"."""
        paths = {
            name: tuple(Path(file.path) for file in source.files if not is_remote(file.path))
            for name, source in self._sources.items()
        }
        labels = self._files.labels
        if labels is not None and not is_remote(labels):
            paths["labels"] = (Path(labels),)
        return paths

    def read(self, window: Window, *, labels: bool = True) -> Sample:
        """Everything of one window.

        Args:
            window: Scene pixels; may reach beyond the scene. Start and size are multiples of
                `alignment`.
            labels: Whether to read labels, if there are any.

        Returns:
            Images (C_m, H_m, W_m) float32 in physical units, NaN without data; valid (H_m, W_m);
            labels (H, W) int64, 255 = ignore.

        Raises:
            RasterReadError: Pixels cannot be decoded.
            LabelError: Label values outside the class scheme.
        """
        images, valid = {}, {}
        for modality in self.modalities:
            image, known = self._read_modality(modality, window)
            images[modality.name] = torch.from_numpy(image)
            valid[modality.name] = torch.from_numpy(known)
        read = self.read_labels(window) if labels and self.has_labels else None
        return Sample(
            images=images,
            valid=valid,
            labels=None if read is None else torch.from_numpy(read).long(),
            window=window,
            scene_id=self.id,
        )

    def read_labels(self, window: Window) -> NDArray[np.uint8]:
        """Class indices (h, w) of a window, 255 = ignore, also beyond the scene.

        Raises:
            LabelError: The scene has no labels, or values outside the class scheme.
            RasterReadError: Pixels cannot be decoded.
        """
        if self._labels is None:
            raise LabelError(f"scene '{self.id}' has no labels; name a file under 'labels'")
        return self._labels.read(window)

    def close(self) -> None:
        """Close the scene's files, as far as this process has them open; reading reopens them."""
        for source in self._sources.values():
            source.close()
        if self._labels is not None:
            self._labels.close()

    def __repr__(self) -> str:
        names = ", ".join(self._sources)
        return f"Scene('{self.id}', {self.grid.height} × {self.grid.width}, {names})"

    def _read_modality(
        self, modality: Modality, window: Window
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        part = own_window(modality, window)
        source = self._sources.get(modality.name)
        if source is not None:
            return source.read(part)
        shape = (len(modality.bands), part.height, part.width)
        return np.full(shape, np.nan, np.float32), np.zeros(shape[1:], bool)

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

    def _open_labels(self, placement: Placement) -> Labels | None:
        files = self._files
        if files.labels is None or files.scheme is None:
            return None
        where, rules = f"labels of scene '{files.id}'", files.label_rules
        if placement.labels is None:
            return PolygonLabels(files.labels, files.scheme, rules, placement.grid, where)
        return RasterLabels(
            placement.labels, files.scheme, rules, placement.grid, placement.reference, where
        )


def own_window(modality: Modality, window: Window) -> Window:
    """A window of the scene in pixels of a modality.

    Raises:
        ConfigError: The window does not fit the modality's scale.
    """
    if modality.scale == 1:
        return window
    return Window(
        modality.size_at(window.row),
        modality.size_at(window.col),
        modality.size_at(window.height),
        modality.size_at(window.width),
    )


def scene_from_rasters(
    modalities: Sequence[Modality],
    rasters: Mapping[str, PathLike | Sequence[PathLike]],
    *,
    grid: str | None = None,
    id: str = "scene",
    sources: Mapping[str, ReadingRules] | None = None,
    labels: PathLike | None = None,
    label_rules: LabelRules | None = None,
    scheme: ClassScheme | None = None,
    split: str | None = None,
    window: Window | None = None,
) -> Scene:
    """Open a scene of explicit rasters, without a manifest.

    Args:
        modalities: What to read, in order; those without rasters are absent.
        rasters: One file, or several whose bands follow one another, per modality.
        grid: Modality whose grid is the scene's, or "labels". Default: the labels' (if a raster),
            else the finest raster's.
        id: Name of the scene in messages and samples.
        sources: Reading rules per modality; default: by kind.
        labels: Raster or vector file.
        label_rules: How it is read.
        scheme: What label values mean; needed with `labels`.
        split: Part of the data set the scene belongs to.
        window: Part of the grid that is the scene; default: all.

    Raises:
        DataError: A raster of a modality that does not exist; or what `Scene` raises.
    """
    names = [modality.name for modality in modalities]
    for name in rasters:
        if name not in names:
            raise DataError(unknown_name("modality", name, names))
    if labels is not None and scheme is None:
        raise DataError("labels need a class scheme that says what their values mean")
    if not rasters:
        raise MissingModalityError(f"scene '{id}' has no raster; give one of {', '.join(names)}")
    return Scene(
        SceneFiles(
            id=id,
            modalities=tuple(modalities),
            rasters={name: _paths(given) for name, given in rasters.items()},
            rules=dict(sources or {}),
            grid=grid,
            labels=None if labels is None else str(labels),
            label_rules=label_rules or LabelRules(),
            scheme=scheme,
            split=split,
            window=window,
        )
    )


def _where(scene_id: str, modality: str) -> str:
    return f"modality '{modality}' of scene '{scene_id}'"


def _paths(given: PathLike | Sequence[PathLike]) -> tuple[str, ...]:
    return (str(given),) if isinstance(given, PathLike) else tuple(str(path) for path in given)


def _inspect_labels(files: SceneFiles) -> RasterFile | None:
    if files.labels is None or is_vector(files.labels):
        return None
    return inspect_raster(files.labels, f"labels of scene '{files.id}'")
