"""Pixels that have no data although the manifest does not say so, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from terrafuse.data.handles import pool
from terrafuse.data.names import gdal_path, local_file
from terrafuse.data.scene import Scene
from terrafuse.doctor.findings import Finding
from terrafuse.doctor.summary import ModalitySummary, SceneSummary
from terrafuse.errors import exact_number

Mask = NDArray[np.bool_]

# Values that software writes where there is no data.
_FILLS = (0.0, 255.0, 65535.0, -9999.0, -32768.0, -32767.0, -1.0, 1e20)
# Share of a side, or of the image at its border, that must have one value to be fill.
_LINE_SHARE = 0.95
_WEDGE_SHARE = 0.02
_MOST = 0.98
_SOLID = 0.3
# The image begins abruptly beside real fill; a dark lake becomes darker towards its middle.
_RING_PERCENT = 10.0
_FEWEST_BANDS = 3
_HOLE_SHARE = 0.005
_ALSO_A_VALUE = 0.002
_MOST_BANDS = 6


def check_nodata(summary: SceneSummary) -> Iterator[Finding]:
    """Borders and holes of one value, and nodata values in some bands only."""
    for seen in summary.seen.values():
        yield from _check_partly(summary, seen)
        if seen.modality.kind == "structure" or not seen.valid:
            continue
        found = find_border(seen)
        if found is not None:
            yield _undeclared(summary, seen, *found)
        elif seen.modality.kind != "elevation":  # its holes are a topic of their own
            yield from _check_holes(summary, seen)


def find_border(seen: ModalitySummary) -> tuple[float, float, Mask] | None:
    """Find fill around the image.

    Returns:
        Value as the files have it, share of the scene and mask on `mini` (h, w); None without.
    """
    for value in _candidates(seen):
        read = seen.physical(value)
        mask = (seen.mini == read).all(axis=0)
        if not 0 < mask.mean() < _MOST:
            continue
        outer = _at_border(mask)
        share = float(outer.mean())
        sides = [float((line == read[..., 0]).all(axis=0).mean()) for line in seen.frame.values()]
        whole_side = max(sides) >= _LINE_SHARE
        wedge = share >= _WEDGE_SHARE and _is_solid(outer)
        if (whole_side or wedge) and _is_abrupt(seen, outer):
            return value, share, outer
    return None


def _candidates(seen: ModalitySummary) -> list[float]:
    """List values in the files that all bands share at a corner or mid-side: likely fill."""
    found: dict[float, int] = {}
    for line in seen.frame.values():
        for place in (0, line.shape[1] // 2, -1):
            pixel = line[:, place]
            if np.isnan(pixel).any():
                continue
            value = seen.stored(0, float(pixel[0]))
            if (pixel == seen.physical(value).ravel()).all():
                found[value] = found.get(value, 0) + 1
    # A single band is often constant for good reasons: a lake, a shadow, a roof.
    known = [v for v in found if v in _FILLS or abs(v) > 1e6 or len(seen.low) >= _FEWEST_BANDS]
    return sorted(filter(partial(_is_extreme, seen), known), key=lambda v: -found[v])


def _is_extreme(seen: ModalitySummary, value: float) -> bool:
    """Tell whether a value in the files is the lowest, or the highest, of every band."""
    read = seen.physical(value).ravel()
    return bool((read == seen.low).all() or (read == seen.high).all())


def _at_border(mask: Mask) -> Mask:
    """Return the parts of a mask that touch the border of the image."""
    from scipy import ndimage

    parts, count = ndimage.label(mask)
    edges = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    touching = np.zeros(count + 1, bool)
    touching[np.unique(edges)] = True
    touching[0] = False
    found: Mask = touching[parts]
    return found


def _is_solid(outer: Mask) -> bool:
    """Tell whether the fill forms solid areas; saturated speckle is connected too."""
    from scipy import ndimage

    inner = ndimage.binary_erosion(outer, np.ones((3, 3)), border_value=1)
    return float(inner.sum()) >= _SOLID * float(outer.sum())


def _is_abrupt(seen: ModalitySummary, outer: Mask) -> bool:
    """Tell whether the image ends abruptly at the fill instead of fading into it."""
    from scipy import ndimage

    ring = ndimage.binary_dilation(outer, iterations=2) & ~outer
    rest = ~outer & ~np.isnan(seen.mini[0])
    if ring.sum() < 8 or rest.sum() < 64:
        return True
    low = seen.mini[0][outer][0] <= np.median(seen.mini[0][rest])
    for band in seen.mini:
        inside, near = band[rest & ~np.isnan(band)], band[ring & ~np.isnan(band)]
        if not inside.size or not near.size:
            continue
        limit = np.percentile(inside, _RING_PERCENT if low else 100 - _RING_PERCENT)
        if (np.median(near) >= limit) if low else (np.median(near) <= limit):
            return True
    return False


def _undeclared(
    summary: SceneSummary, seen: ModalitySummary, value: float, share: float, mask: Mask
) -> Finding:
    message = (
        f"modality '{seen.name}' of scene '{summary.id}' is {exact_number(value)} in all bands "
        f"along its border ({share:.1%} of the scene); that is fill which counts as data"
    )
    if seen.nodata is not None:
        message += f" ('nodata' is {exact_number(seen.nodata)})"
    remedy, fix = seen.declare(value)
    elsewhere = float((seen.mini == seen.physical(value))[:, ~mask].any(axis=0).mean())
    if elsewhere > _ALSO_A_VALUE:
        remedy = f"Mask these pixels in the file; {exact_number(value)} is also a value, of "
        remedy, fix = remedy + f"{elsewhere:.1%} of the other pixels", {}
    return Finding(
        "warning", "undeclared-nodata", message, summary.id, None, remedy, seen.name,
        seen.mini_window(mask), fix,
    )  # fmt: skip


def _check_partly(summary: SceneSummary, seen: ModalitySummary) -> Iterator[Finding]:
    if seen.partly is None or not seen.partly_any:
        return
    counts = zip(seen.modality.bands, seen.partly / seen.valid, strict=True)
    listed = [f"{band} {share:.1%}" for band, share in counts if share > 0]
    more = " …" if len(listed) > _MOST_BANDS else ""
    shares = f"{', '.join(listed[:_MOST_BANDS])}{more}"
    start = (
        f"{seen.partly_any / seen.valid:.1%} of the pixels with data of modality '{seen.name}' in "
        f"scene '{summary.id}'"
    )
    if summary.rules[seen.name].nodata_rule == "all":
        message = (
            f"{start} equal nodata in some bands only ({shares}); their values count there "
            "(nodata_rule: all)"
        )
        remedy = "If they are no values, set 'nodata_rule: each' on the modality"
    else:
        message = (
            f"{start} have no data in some bands only ({shares}); these bands are left out there "
            "(nodata_rule: each)"
        )
        remedy = "If they are values (dark water, white roofs), set 'nodata_rule: all'"
    yield Finding("note", "partial-nodata", message, summary.id, None, remedy, seen.name)


def _check_holes(summary: SceneSummary, seen: ModalitySummary) -> Iterator[Finding]:
    if len(seen.low) < _FEWEST_BANDS:
        return
    mask = (seen.mini == seen.physical(0)).all(axis=0)
    share = float(mask.mean())
    if not _HOLE_SHARE <= share < _MOST or not _is_abrupt(seen, mask):
        return
    message = (
        f"{share:.1%} of modality '{seen.name}' in scene '{summary.id}' are 0 in all "
        f"{len(seen.low)} bands; such holes are mostly pixels without data"
    )
    remedy, fix = seen.declare(0, ", if 0 is never a value")
    yield Finding(
        "warning", "zeros", message, summary.id, None, remedy, seen.name, seen.mini_window(mask),
        fix,
    )  # fmt: skip


def check_nan(scene: Scene, overrides: dict[str, float | None]) -> Iterator[Finding]:
    """Find files that mark no data in two ways: by a nodata value and by NaN.

    Args:
        overrides: Nodata value of the manifest per modality.
    """
    for name, files in scene.files.items():
        for file in files:
            own = overrides.get(name)
            nodata = file.nodata[0] if own is None else own
            floating = np.issubdtype(np.dtype(file.dtypes[0]), np.floating)
            path = local_file(file.path)
            if nodata is None or np.isnan(nodata) or not floating or path is None:
                continue
            with pool.borrow(gdal_path(file.path)) as dataset:
                count = _count_nan(dataset)
            if count:
                yield _nan_beside(scene.id, name, path, nodata, count, by_key=own is not None)


def _count_nan(dataset: Any) -> int:
    count = 0
    for row in range(0, dataset.height, 1024):
        for col in range(0, dataset.width, 1024):
            height, width = min(1024, dataset.height - row), min(1024, dataset.width - col)
            window = RasterWindow(col, row, width, height)
            for band in dataset.indexes:  # one by one: dtypes may differ
                count += int(np.isnan(dataset.read(band, window=window)).sum())
    return count


def _nan_beside(
    id: str, name: str, path: Path, nodata: float, count: int, *, by_key: bool
) -> Finding:
    message = f"'{path}' has nodata value {exact_number(nodata)}, but also {count} NaN values"
    remedy = "Both count as no data; if NaN means something else, repair the file"
    if nodata == 0:
        way = "the tag (rio edit-info --unset-nodata FILE)"
        way = "'nodata' from the modality" if by_key else way
        remedy = f"NaN marks no data here, so 0 may be a value: remove {way}"
    return Finding("warning", "nan-beside-nodata", message, id, path, remedy, name)
