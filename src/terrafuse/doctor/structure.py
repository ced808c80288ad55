"""Consistency of the rasters of a scene: CRS, pixel size, extent, one file in two roles."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from terrafuse.data.grid import Grid
from terrafuse.data.names import is_part, local_file
from terrafuse.data.overlap import pixel_transform
from terrafuse.data.raster_file import RasterFile
from terrafuse.doctor.findings import Finding, Severity
from terrafuse.doctor.summary import SceneSummary
from terrafuse.modalities import MAX_SCALE_TERM, Modality

# Pixel sizes may differ from the manifest's by this factor; beyond it, it is probably a mistake.
_PIXEL_RATIO = 1.5
_WHOLE, _LITTLE = 0.98, 0.5
_POINTS = 33


def check_structure(summary: SceneSummary) -> Iterator[Finding]:
    """Check headers and paths."""
    grid = summary.scene.grid
    for name, files in summary.scene.files.items():
        modality = next(m for m in summary.scene.modalities if m.name == name)
        if grid.crs is not None:
            for file in files:
                yield from _check_pixel_size(summary.id, modality, file, grid)
            yield from _check_coverage(summary, name, files, grid)
    yield from _check_crs(summary)
    yield from _check_same_file(summary)


def _check_pixel_size(
    id: str, modality: Modality, file: RasterFile, grid: Grid
) -> Iterator[Finding]:
    own, scene = file.grid.pixel_size_m, grid.pixel_size_m
    if not own or not scene:
        return
    ratio = own / (scene * modality.scale)
    if 1 / _PIXEL_RATIO <= ratio <= _PIXEL_RATIO:
        return
    better = Fraction(own / scene).limit_denominator(4)
    message = (
        f"'{file.path}' (modality '{modality.name}' of scene '{id}') has pixels of {own:.4g} m "
        f"where the manifest expects {scene * modality.scale:.4g} m (grid of {scene:.4g} m, scale "
        f"{modality.scale:g}), so it is resampled by a factor of {max(ratio, 1 / ratio):.2g}"
    )
    fits = 0 < better.numerator <= MAX_SCALE_TERM
    fix = {f"modalities.{modality.name}.scale": float(better)} if fits else {}
    wanted = f"'scale: {float(better):g}'" if fits else "its 'scale'"
    remedy = f"If the file's georeference is right, give the modality {wanted}; else mend the file"
    yield Finding("warning", "pixel-size", message, id, None, remedy, modality.name, fix=fix)


def _check_coverage(
    summary: SceneSummary, name: str, files: tuple[RasterFile, ...], grid: Grid
) -> Iterator[Finding]:
    share = min(_share_inside(grid, file.grid) for file in files)
    if share >= _WHOLE:
        return
    message = f"modality '{name}' covers {share:.0%} of scene '{summary.id}'; the rest has no data"
    remedy = "Check that it is the right file and that its CRS and transform are right"
    severity: Severity = "warning" if share < _LITTLE else "note"
    yield Finding(severity, "coverage", message, summary.id, None, remedy, name)


def _share_inside(grid: Grid, other: Grid) -> float:
    """Return the share of a grid's points that lie within another."""
    cols, rows = np.meshgrid(
        np.linspace(0.5, grid.width - 0.5, _POINTS), np.linspace(0.5, grid.height - 0.5, _POINTS)
    )
    try:
        col, row = pixel_transform(grid, other)(cols.ravel(), rows.ravel())
    except ValueError:
        return 1.0  # already checked when the scene was opened
    inside = (col >= 0) & (col <= other.width) & (row >= 0) & (row <= other.height)
    return float(inside.mean())


def _check_crs(summary: SceneSummary) -> Iterator[Finding]:
    grid = summary.scene.grid
    for name, files in summary.scene.files.items():
        other = next((f for f in files if f.grid.crs is not None and f.grid.crs != grid.crs), None)
        if other is not None and grid.crs is not None and other.grid.crs is not None:
            message = (
                f"modality '{name}' of scene '{summary.id}' has CRS {_short(other.grid)}, the grid "
                f"{_short(grid)}: it is reprojected while reading"
            )
            yield Finding("note", "crs", message, summary.id, modality=name)


def _short(grid: Grid) -> str:
    return "none" if grid.crs is None else str(grid.crs.to_string()[:40])


def _check_same_file(summary: SceneSummary) -> Iterator[Finding]:
    # Of files with several parts or pages, one may well be the labels.
    labels = {path.resolve() for path in summary.scene.paths().get("labels", ())}
    seen: dict[object, str] = {}
    for name, files in summary.scene.files.items():
        for file in files:
            path = local_file(file.path)
            if path is None:
                continue
            part = file.path if is_part(file.path) else ""
            real = path.resolve()
            if real in labels and not part:
                message = (
                    f"modality '{name}' of scene '{summary.id}' is the file of its labels, '{path}'"
                )
                remedy = "Name the raster of the modality"
                yield Finding("error", "labels-as-input", message, summary.id, path, remedy, name)
            key = (real, part, summary.rules[name].read_bands)
            if seen.setdefault(key, name) != name:
                message = (
                    f"modalities '{seen[key]}' and '{name}' of scene '{summary.id}' read the same "
                    f"bands of one file, '{path}'"
                )
                remedy = "Name the other's raster, or give each its 'read_bands'"
                yield Finding("warning", "same-file", message, summary.id, path, remedy, name)
