"""Look for faults in a data set before a model learns from it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from terrafuse.data.findings import Finding
from terrafuse.data.footprints import overlapping_grids
from terrafuse.data.grid import Grid
from terrafuse.data.handles import pool
from terrafuse.data.manifest import Manifest
from terrafuse.data.scene import Scene
from terrafuse.data.statistics import class_counts
from terrafuse.data.streaming import cover
from terrafuse.errors import (
    BandError,
    GridMismatchError,
    LabelError,
    MissingModalityError,
    RasterReadError,
    TerrafuseError,
)
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX

_Range = tuple[NDArray[np.float32], NDArray[np.float32]]

_CODES: dict[type[TerrafuseError], str] = {
    RasterReadError: "unreadable",
    GridMismatchError: "grid",
    BandError: "bands",
    MissingModalityError: "modality",
    LabelError: "labels",
}


@dataclass(frozen=True)
class _Splits:
    """What the splits of a manifest are for."""

    train: tuple[str, ...]
    validation: str

    @property
    def name(self) -> str:
        """The training splits, as messages call them."""
        listed = ", ".join(f"'{split}'" for split in self.train)
        return f"split {listed}" if len(self.train) == 1 else f"splits {listed}"


@dataclass
class _Survey:
    """What was seen in one scene."""

    id: str
    split: str | None
    grid: Grid
    has_labels: bool
    counts: NDArray[np.int64]
    with_data: dict[str, bool] = field(default_factory=dict)
    ranges: dict[str, _Range] = field(default_factory=dict)


def check_manifest(
    manifest: Manifest,
    *,
    deep: bool = True,
    train_splits: Sequence[str] = ("train",),
    validation_split: str = "val",
    progress: Progress | None = None,
) -> list[Finding]:
    """Everything found wrong with a data set, one scene after the other.

    Args:
        manifest: The data set, with the modalities to be used (`Manifest.select`).
        deep: Decode every pixel. Otherwise labels are read entirely, but of each raster only the
            first and last block and what is needed to see that there is data.
        train_splits: Splits to learn from.
        validation_split: Split that chooses the weights to keep.
        progress: Called with (scenes done, scenes in total).

    Returns:
        Findings by scene, then those about splits; empty for a sound data set.
    """
    # Values as they are in the files: rescaling would read all of a scene to see one block.
    manifest = manifest.with_rescale(dict.fromkeys(manifest.rules))
    splits = _Splits(tuple(train_splits), validation_split)
    findings: list[Finding] = []
    surveys: list[_Survey] = []
    for done, entry in enumerate(manifest.entries, start=1):
        with warnings.catch_warnings(record=True) as caught:
            # Ours, about the data; those of libraries about code say nothing to the data's owner.
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            single = replace(manifest, entries=(entry,))
            found, survey = _check_scene(single, entry.id, splits, deep)
        findings += found
        findings += [Finding("warning", "reading", str(w.message), entry.id) for w in caught]
        if survey is not None:
            surveys.append(survey)
        if progress:
            progress(done, len(manifest.entries))
    findings += _check_training(manifest, surveys, splits, deep)
    findings += _check_overlap(surveys, splits)
    return findings


def _check_scene(
    manifest: Manifest, id: str, splits: _Splits, deep: bool
) -> tuple[list[Finding], _Survey | None]:
    try:
        scene = manifest.scene(id)
    except TerrafuseError as error:
        return [_from_error(error, id)], None
    survey = _Survey(id, scene.split, scene.grid, scene.has_labels, np.zeros(0, np.int64))
    try:
        findings = _check_files(scene, manifest, deep)
        if any(finding.severity == "error" for finding in findings):
            return findings, None  # reading on would repeat the same fault
        if scene.has_labels:
            survey.counts = class_counts([scene], manifest.scheme)
        findings += _check_eroded(scene)
        _look_at_images(scene, survey, deep)
    except TerrafuseError as error:
        return [_from_error(error, id)], None
    finally:
        scene.close()
    return findings + list(_judge_scene(survey, splits)), survey


def _from_error(error: TerrafuseError, id: str) -> Finding:
    code = next((c for kind, c in _CODES.items() if isinstance(error, kind)), "data")
    message = str(error)
    if id not in message:
        message = f"scene '{id}': {message}"
    return Finding("error", code, message, id)


def _check_files(scene: Scene, manifest: Manifest, deep: bool) -> list[Finding]:
    findings = []
    # Labels may be vectors, and are read entirely in any case.
    for name in (modality.name for modality in scene.modalities):
        for path in scene.paths().get(name, ()):
            if not path.is_file():
                continue  # remote, or inside an archive: reading the scene will tell
            try:
                with pool.borrow(str(path)) as dataset:
                    _decode_ends(dataset)
                    if deep:
                        findings += _check_nan(dataset, manifest.rules[name].nodata, scene.id, path)
            except (RasterioError, OSError) as error:
                reason = error.__cause__ or error
                message = f"'{path}' (modality '{name}' of scene '{scene.id}'): {reason}"
                remedy = "The file is damaged or cut off; copy or download it again"
                findings.append(Finding("error", "unreadable", message, scene.id, path, remedy))
    return findings


def _decode_ends(dataset: Any) -> None:
    """Read the first and the last block of all bands; a file cut off fails at the last."""
    rows, cols = dataset.block_shapes[0]
    last = ((dataset.height - 1) // rows * rows, (dataset.width - 1) // cols * cols)
    for row, col in {(0, 0), last}:
        height, width = min(rows, dataset.height - row), min(cols, dataset.width - col)
        dataset.read(window=RasterWindow(col, row, width, height))


def _check_nan(dataset: Any, override: float | None, id: str, path: Path) -> list[Finding]:
    nodata = dataset.nodata if override is None else override
    if nodata is None or np.isnan(nodata) or not np.issubdtype(dataset.dtypes[0], np.floating):
        return []
    count = 0
    for row in range(0, dataset.height, 1024):
        for col in range(0, dataset.width, 1024):
            height, width = min(1024, dataset.height - row), min(1024, dataset.width - col)
            values = dataset.read(window=RasterWindow(col, row, width, height))
            count += int(np.isnan(values).sum())
    if not count:
        return []
    message = f"'{path}' has nodata value {nodata:g}, but also {count} NaN values"
    remedy = "Both count as no data; if NaN means something else, repair the file"
    return [Finding("warning", "nan-beside-nodata", message, id, path, remedy)]


def _check_eroded(scene: Scene) -> list[Finding]:
    """Faults of the labels to score with; the scene can be learned from all the same."""
    if not scene.has_reference("labels_eroded"):
        return []
    try:
        known = [
            (scene.read_labels(window, "labels_eroded") != IGNORE_INDEX).any()
            for window in cover(scene, 2048)
        ]
    except TerrafuseError as error:
        return [_from_error(error, scene.id)]
    if any(known):
        return []
    message = f"labels_eroded of scene '{scene.id}' are all ignored: there is nothing to score"
    return [Finding("warning", "labels-ignored", message, scene.id)]


def _look_at_images(scene: Scene, survey: _Survey, deep: bool) -> None:
    here = [m for m in scene.modalities if m.name not in scene.missing]
    survey.with_data = {m.name: False for m in here}
    if deep:
        survey.ranges = {m.name: _empty_range(len(m.bands)) for m in here}
    for window in cover(scene, 512):
        sample = scene.read(window, labels=False)
        for name in survey.with_data:
            survey.with_data[name] |= bool(sample.valid[name].any())
            if deep:
                image = sample.images[name].numpy()
                low = np.fmin.reduce(image, axis=(1, 2), initial=np.inf)
                high = np.fmax.reduce(image, axis=(1, 2), initial=-np.inf)
                survey.ranges[name] = _join(survey.ranges[name], (low, high))
        if not deep and all(survey.with_data.values()):
            break


def _empty_range(bands: int) -> _Range:
    return np.full(bands, np.inf, np.float32), np.full(bands, -np.inf, np.float32)


def _join(one: _Range, other: _Range) -> _Range:
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


def _judge_scene(survey: _Survey, splits: _Splits) -> Iterator[Finding]:
    empty = [name for name, found in survey.with_data.items() if not found]
    remedy = "Correct 'nodata' in the manifest, or leave the scene out"
    if empty and len(empty) == len(survey.with_data):
        message = f"scene '{survey.id}' is all nodata: no pixel of {', '.join(empty)} has data"
        yield Finding("error", "no-data", message, survey.id, remedy=remedy)
    else:
        for name in empty:
            message = f"modality '{name}' of scene '{survey.id}' is all nodata"
            yield Finding("warning", "no-data-in-modality", message, survey.id, remedy=remedy)
    if survey.has_labels and not survey.counts.any():
        message = f"labels of scene '{survey.id}' are all ignored: void, nodata or outside 'area'"
        yield Finding("warning", "labels-ignored", message, survey.id)
    if survey.split in splits.train and not survey.has_labels:
        message = f"scene '{survey.id}' is in split '{survey.split}' but has no labels; nothing is"
        yield Finding("warning", "no-labels", f"{message} drawn from it", survey.id)


def _check_training(
    manifest: Manifest, surveys: Sequence[_Survey], splits: _Splits, deep: bool
) -> Iterator[Finding]:
    absent = [split for split in splits.train if split not in manifest.splits]
    for split in absent:
        known = ", ".join(manifest.splits) or "none"
        message = f"no scene of '{manifest.path}' is in split '{split}'; splits found: {known}"
        remedy = f"Set 'split: {split}' for scenes to learn from, or let terrafuse data split do it"
        yield Finding("error", "no-train", message, remedy=remedy)
    if not absent and splits.validation not in manifest.splits:
        message = f"no scene of '{manifest.path}' is in split '{splits.validation}'"
        remedy = "Put some there, or run 'terrafuse data split': the best weights are chosen by it"
        yield Finding("warning", "no-val", message, remedy=remedy)
    train = [survey for survey in surveys if survey.split in splits.train]
    if train:
        others = [survey for survey in surveys if survey.split not in splits.train]
        yield from _check_labels(manifest, train, others, splits.name)
        yield from _check_bands(manifest, train, splits.name, deep)


def _check_labels(
    manifest: Manifest, train: Sequence[_Survey], others: Sequence[_Survey], where: str
) -> Iterator[Finding]:
    if not any(survey.has_labels for survey in train):
        message = f"no scene of {where} has labels"
        yield Finding("error", "no-labels", message, remedy="Give 'labels' in the manifest")
        return
    counts = _sum_counts(manifest, train)
    if not counts.any():
        message = f"labels of {where} are all ignored"
        remedy = "Correct 'classes', 'void' or the labels' 'nodata' in the manifest"
        yield Finding("error", "labels-ignored", message, remedy=remedy)
        return
    elsewhere = _sum_counts(manifest, others)
    for index in np.flatnonzero(counts == 0):
        message = f"class '{manifest.scheme.names[index]}' has no pixel in {where}"
        remedy = f"It cannot be learned; other splits have {elsewhere[index]} pixels of it"
        yield Finding("warning", "class-missing", message, remedy=remedy)


def _sum_counts(manifest: Manifest, surveys: Sequence[_Survey]) -> NDArray[np.int64]:
    zero = np.zeros(manifest.scheme.num_classes, np.int64)
    return sum((survey.counts for survey in surveys if survey.has_labels), zero)


def _check_bands(
    manifest: Manifest, train: Sequence[_Survey], where: str, deep: bool
) -> Iterator[Finding]:
    for name, modality in manifest.modalities.items():
        if not any(survey.with_data.get(name) for survey in train):
            message = f"modality '{name}' has no data in {where}"
            remedy = "Correct its 'nodata' in the manifest, or leave it out with data.modalities"
            yield Finding("error", "modality-without-data", message, remedy=remedy)
            continue
        low, high = _empty_range(len(modality.bands))
        for survey in train if deep else ():
            if name in survey.ranges:
                low, high = _join((low, high), survey.ranges[name])
        for band, lowest, highest in zip(modality.bands, low, high, strict=True):
            if lowest == highest:
                message = f"band '{band}' of modality '{name}' is {lowest:g} everywhere in {where}"
                remedy = "It carries nothing; leave it out with 'read_bands'"
                yield Finding("error", "constant-band", message, remedy=remedy)


def _check_overlap(surveys: Sequence[_Survey], splits: _Splits) -> Iterator[Finding]:
    for first, second in overlapping_grids([survey.grid for survey in surveys]):
        a, b = surveys[first], surveys[second]
        learned = a.split in splits.train and b.split in splits.train
        if a.split is not None and b.split is not None and a.split != b.split and not learned:
            message = (
                f"scenes '{a.id}' ({a.split}) and '{b.id}' ({b.split}) show the same ground, so "
                "scores would be too good"
            )
            remedy = "Put them into one split (terrafuse data split does)"
            yield Finding("warning", "split-overlap", message, a.id, remedy=remedy)
