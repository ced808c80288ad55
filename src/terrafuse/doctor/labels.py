"""Labels: unknown values, scenes of one class, labels that are images or inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from terrafuse.classes import ClassScheme
from terrafuse.data.handles import pool, read_bands
from terrafuse.data.manifest import Manifest
from terrafuse.data.names import is_part
from terrafuse.data.polygons import is_vector
from terrafuse.data.schema import SceneEntry
from terrafuse.doctor.findings import Finding
from terrafuse.doctor.summary import ModalitySummary, SceneRecord, SceneSummary
from terrafuse.errors import LabelError, TerrafuseError
from terrafuse.samples import IGNORE_INDEX

_MOSTLY_VOID = 0.9
# Photographs have thousands of colours, masks about as many as there are classes.
_PICTURE_COLORS, _MASK_COLORS = 256, 7
_FEWEST = 1024
_LEAK = 0.98
_FEWEST_OF_CLASS = 16
_MOST_CODES = 64
_PART = 37
_SAMPLE = 1024
_MOST_ALIKE = 5


def check_labels(summary: SceneSummary) -> Iterator[Finding]:
    """Check the content of a scene's labels."""
    if summary.labels is not None:
        yield from _check_shares(summary)
        yield from _check_nodata_is_class(summary)
    for seen in summary.seen.values():
        overwritten = list(_check_mask_as_image(summary, seen))
        yield from overwritten
        if summary.labels is not None and not overwritten:
            yield from _check_leak(summary, seen)


def _check_shares(summary: SceneSummary) -> Iterator[Finding]:
    total = int(summary.counts.sum())
    void = summary.ignored / max(1, total + summary.ignored)
    if total and void > _MOSTLY_VOID:
        message = f"{void:.1%} of the labels of scene '{summary.id}' are void"
        yield Finding("note", "mostly-void", message, summary.id, modality="labels")
    present = np.flatnonzero(summary.counts)
    if len(present) == 1 and summary.scheme.num_classes > 1:
        name = summary.scheme.names[present[0]]
        message = f"scene '{summary.id}' is all class '{name}' ({total:,} px)"
        remedy = "Nothing to fix if that is true; alone it cannot teach classes apart"
        yield Finding("note", "one-class", message, summary.id, None, remedy, "labels")


def _check_nodata_is_class(summary: SceneSummary) -> Iterator[Finding]:
    index = summary.scene.class_without_data
    if index is None or not summary.counts[index]:
        return
    name = summary.scheme.names[index]
    share = summary.counts[index] / summary.counts.sum()
    message = (
        f"the value that the labels of scene '{summary.id}' declare as no data is a code of class "
        f"'{name}': {share:.1%} of the labelled pixels count as '{name}'"
    )
    remedy = (
        f"Right if '{name}' is a class to learn; if it means 'not labelled', take it out of "
        "'classes' and put its code into 'void'"
    )
    yield Finding("note", "nodata-is-class", message, summary.id, None, remedy, "labels")


def _check_leak(summary: SceneSummary, seen: ModalitySummary) -> Iterator[Finding]:
    """Find a band of few values, each of one class: the labels themselves."""
    labels = summary.labels_on(seen)
    assert labels is not None
    for band, values in enumerate(seen.mini):
        known = (labels != IGNORE_INDEX) & ~np.isnan(values)
        # A part of them reveals an image, at less cost than sorting all.
        if known.sum() < _FEWEST or np.unique(values[known][::_PART]).size > _MOST_CODES:
            continue
        codes, inverse = np.unique(values[known], return_inverse=True)
        if not 2 <= codes.size <= _MOST_CODES:
            continue
        table = np.zeros((codes.size, 256), np.int64)
        np.add.at(table, (inverse, labels[known]), 1)
        share = _least_recall(table)
        if share < _LEAK:
            continue
        name = seen.modality.bands[band]
        message = (
            f"the value of band '{name}' of modality '{seen.name}' gives away the class in scene "
            f"'{summary.id}', at {share:.1%} of the pixels of every class: labels are among the "
            "inputs"
        )
        remedy = "Leave the modality out; it will not be available where a map is wanted"
        yield Finding("error", "labels-as-input", message, summary.id, None, remedy, seen.name)
        return


def _least_recall(table: NDArray[np.int64]) -> float:
    """Return the lowest recall of a class if every code means its most frequent class.

    Args:
        table: Pixels per code and class, int64 (n, K).
    """
    best = table.argmax(axis=1)
    totals = table.sum(axis=0)
    classes = np.flatnonzero(totals >= _FEWEST_OF_CLASS)
    if classes.size < 2:
        return 0.0
    return min(float(table[best == c, c].sum() / totals[c]) for c in classes)


def _check_mask_as_image(summary: SceneSummary, seen: ModalitySummary) -> Iterator[Finding]:
    if seen.modality.kind != "optical" or len(seen.low) != 3 or seen.valid < _FEWEST:
        return
    pixels = seen.mini.reshape(3, -1)
    pixels = pixels[:, ~np.isnan(pixels).any(axis=0)].T
    colors = np.unique(pixels, axis=0)
    if not 2 <= len(colors) <= _MASK_COLORS:
        return
    message = (
        f"modality '{seen.name}' of scene '{summary.id}' has only {len(colors)} colours: this is a "
        "label raster, not an image"
    )
    path = next(iter(summary.scene.paths().get(seen.name, ())), None)
    remedy = "Labels were probably unpacked over the image of the same name; unpack the image again"
    yield Finding("error", "labels-over-image", message, summary.id, path, remedy, seen.name)


def check_colors(scheme: ClassScheme) -> Iterator[Finding]:
    """Find classes that a map shows in one colour."""
    classes: dict[str, list[str]] = {}
    for name, color in zip(scheme.names, scheme.colors, strict=True):
        classes.setdefault(color, []).append(f"'{name}'")
    alike = [f"{', '.join(names)} ({color})" for color, names in classes.items() if len(names) > 1]
    if alike:
        more = f" … and {len(alike) - _MOST_ALIKE} more" if len(alike) > _MOST_ALIKE else ""
        message = (
            f"classes of one colour are not told apart on maps: {'; '.join(alike[:_MOST_ALIKE])}"
        )
        remedy = "Give each a 'color' of its own in 'classes'"
        yield Finding("warning", "alike-colors", message + more, remedy=remedy)


def check_astray(records: Sequence[SceneRecord]) -> Iterator[Finding]:
    """Polygons that lie in none of the scenes that they are the labels of, or not in some."""
    able = [r for r in records if r.entry.labels is not None and is_vector(r.entry.labels)]
    astray = [record for record in able if record.astray]
    if astray and len(astray) == len(able):
        first = astray[0]
        message, _, remedy = first.astray.rpartition("). ")
        if len(able) > 1:
            message = f"in none of {len(able)} scenes lies a polygon of its labels. {message}"
        yield Finding(
            "error", "polygons-elsewhere", f"{message})", first.id, None, remedy, "labels"
        )
        return
    for record in astray:
        message, _, remedy = record.astray.rpartition("). ")
        yield Finding(
            "warning", "polygons-elsewhere", f"{message})", record.id, None, remedy, "labels"
        )


def explain_unknown(manifest: Manifest, entry: SceneEntry, error: LabelError) -> Finding | None:
    """Explain label values outside the class scheme, where their raster shows the cause.

    Args:
        error: Error raised when reading its labels.
    """
    try:
        paths = manifest.local_files(entry)
        # The other labels are read after these.
        name = "labels_eroded" if "labels_eroded" in str(error) else "labels"
        path = paths[name][0]
        written = entry.labels_eroded if name == "labels_eroded" else entry.labels
        part = manifest.label_rules.page is not None or is_part(str(written))
        if part or is_vector(str(path)):
            return None
        with pool.borrow(str(path)) as dataset:
            size = [min(_SAMPLE, n) for n in dataset.shape]
            bands = min(3, dataset.count) if manifest.scheme.has_palette else 1
            raw = read_bands(dataset, range(1, bands + 1), RasterWindow(0, 0, size[1], size[0]))
    except (TerrafuseError, OSError, LookupError):
        return None
    colors = _count_colors(raw)
    if manifest.scheme.has_palette and colors > _PICTURE_COLORS and _rarely_known(raw, manifest):
        what = f"it holds {colors:,} colours: this is a picture, not labels"
        remedy = "Use the label file of the scene (or a copy from another archive)"
    elif _is_interpolated(raw, manifest.scheme):
        what = "unknown values lie between known ones and along their borders: the raster was "
        what += "resized with interpolation, or saved as JPEG"
        remedy = "Use the original labels, or resize them with nearest-neighbour resampling"
    else:
        return None
    message = f"{str(error).rstrip('.')}. In '{path}' {what}"
    return Finding("error", "labels", message, entry.id, path, remedy, "labels")


def _whole(raw: NDArray[np.generic]) -> NDArray[np.int64]:
    """Flatten to codes (n,); colours become one number each."""
    flat = np.nan_to_num(raw.reshape(len(raw), -1).astype(np.float64)).astype(np.int64)
    codes: NDArray[np.int64] = flat[0]
    if len(flat) == 3:
        codes = flat[0] * 65536 + flat[1] * 256 + flat[2]
    return codes


def _count_colors(raw: NDArray[np.generic]) -> int:
    return int(np.unique(_whole(raw)).size)


def _known(scheme: ClassScheme, colors: bool) -> list[int]:
    codes = scheme.lookup()
    if colors:
        return [int(str(code)[1:], 16) for code in codes if isinstance(code, str)]
    return [code for code in codes if isinstance(code, int)]


def _rarely_known(raw: NDArray[np.generic], manifest: Manifest) -> bool:
    known = _known(manifest.scheme, len(raw) == 3)
    return float(np.isin(_whole(raw), known).mean()) < 0.5


def _is_interpolated(raw: NDArray[np.generic], scheme: ClassScheme) -> bool:
    """Tell whether unknown values lie between two codes along their row or column."""
    if not np.issubdtype(raw.dtype, np.number) or np.iscomplexobj(raw):
        return False
    codes = _whole(raw).reshape(raw.shape[1:])
    unknown = ~np.isin(codes, _known(scheme, len(raw) == 3))
    if len(raw) == 1:
        unknown |= raw[0] != np.round(raw[0])
    if not unknown.any() or unknown.all():
        return False
    from scipy import ndimage

    near = ndimage.binary_dilation(~unknown, iterations=2)
    thin = float(near[unknown].mean()) > 0.9
    levels = sorted({int(v) for v in np.unique(codes[~unknown])})
    if len(raw) == 3 or len(levels) < 2:
        return thin and _count_colors(raw) > 2 * scheme.num_classes
    between = (codes[unknown] >= levels[0]) & (codes[unknown] <= levels[-1])
    spread = any(b - a > 1 for a, b in pairwise(levels)) or (raw[0] != np.round(raw[0])).any()
    edges = np.abs(np.diff(codes, axis=0, prepend=codes[:1])) > 0
    edges |= np.abs(np.diff(codes, axis=1, prepend=codes[:, :1])) > 0
    edges = ndimage.binary_dilation(edges, iterations=1)
    return thin and bool(between.all()) and spread and float(edges[unknown].mean()) > 0.9
