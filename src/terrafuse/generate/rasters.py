"""One photo → one raster of segments or depth, in windows, with what belongs to it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrafuse.data.encoding import GENERATOR_TAG, KEY_TAG
from terrafuse.errors import OutputError
from terrafuse.generate.cache import WindowCache, digest_settings
from terrafuse.generate.generators import Generator
from terrafuse.generate.photos import Photo, PhotoSummary, describe_photo, summarize_photo
from terrafuse.generate.products import (
    RECORD_TAG,
    Preview,
    RasterFiles,
    RasterWriter,
    move_side_car,
    save_preview,
    write_json,
)
from terrafuse.generate.rasterizers import DepthRasterizer, SegmentRasterizer
from terrafuse.generate.windows import WindowPlan
from terrafuse.generate.workers import WindowRunner
from terrafuse.version import VERSION
from terrafuse.writing import written_whole


@dataclass(frozen=True)
class PhotoJob:
    """A photo, and where its raster goes.

    Args:
        photo: What to look at.
        files: What to make.
    """

    photo: Photo
    files: RasterFiles


@dataclass(frozen=True)
class WindowedGenerator:
    """What rasters of a data set are made with: the same for all of them.

    Args:
        generator: How a window is made.
        size: Side of the windows in pixels.
        overlap: Pixels that windows share.
    """

    generator: Generator
    size: int
    overlap: int

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what comes out, beside the photo."""
        return self.generator.describe() | {"window": self.size, "overlap": self.overlap}

    @property
    def id(self) -> str:
        """Fingerprint of the settings."""
        return digest_settings(self.settings)

    def plan(self, photo: Photo) -> WindowPlan:
        """The windows of a photo.

        Raises:
            ConfigError: The overlap does not suit the windows.
        """
        grid = photo.scene.grid
        return WindowPlan(grid.height, grid.width, self.size, self.overlap)


@dataclass(frozen=True)
class Generated:
    """What came of a job.

    Args:
        raster: The GeoTIFF.
        skipped: Whether it was there already.
        record: What it was made of and with, and what is in it.
    """

    raster: Path
    skipped: bool
    record: dict[str, Any]


def refuse_other_settings(files: RasterFiles, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Stop before work begins where a raster is there that was made otherwise.

    Raises:
        OutputError: Names what differs; or the file is somebody else's, which stays in any case.
    """
    if not files.raster.exists():
        return
    record = files.read_record()
    if record is None:
        raise OutputError(
            f"'{files.raster}' exists and was not made by terrafuse generate; choose another "
            "folder with --out"
        )
    different = _differences(record.get("settings", {}), settings)
    if different and not overwrite:
        raise OutputError(
            f"'{files.raster}' exists and was made with other settings: {'; '.join(different)}. "
            "Train and map with rasters of one model and its settings: repeat these, choose "
            "another --out, or make all of them anew with --overwrite"
        )


def generate_raster(
    job: PhotoJob,
    windowed: WindowedGenerator,
    runner: WindowRunner,
    *,
    preview: Preview,
    overwrite: bool = False,
    report: Callable[[], None] = lambda: None,
) -> Generated:
    """Make the raster of a photo, unless it is there already.

    Windows that an interrupted call has left are used; the result is the same to the byte.

    Args:
        job: What to make.
        windowed: With what.
        runner: Makes the windows.
        preview: Shows the result.
        overwrite: Whether a raster made otherwise is replaced.
        report: Called once per window of the photo.

    Raises:
        OutputError: A raster is there that was made otherwise, or the disk is full.
        DataError: The photo has no data, or cannot be read.
        ModelError: The model fails.
    """
    refuse_other_settings(job.files, windowed.settings, overwrite)
    found = summarize_photo(job.photo)
    plan = windowed.plan(found.photo)
    wanted = digest_settings({"photo": found.digest, "settings": windowed.settings})
    record = job.files.read_record()
    if record is not None and record.get("hash") == wanted:
        for _ in plan.windows:
            report()
        return Generated(job.files.raster, True, record)
    if record is not None and not overwrite:
        raise OutputError(
            f"'{job.files.raster}' was made of another state of photo '{job.photo.name}', which "
            "has changed since. Make it anew with --overwrite"
        )
    cache = WindowCache(job.files.partial / wanted)
    numbers = [n for n in range(len(plan.windows)) if not cache.has(n)]
    for _ in range(len(plan.windows) - len(numbers)):
        report()
    runner.run(found.photo, plan, cache, numbers, report)
    record = _record(wanted, windowed, found)
    _put_together(job.files, found, windowed, cache, record, preview)
    WindowCache(job.files.partial).remove()
    return Generated(job.files.raster, False, record)


def _record(wanted: str, windowed: WindowedGenerator, found: PhotoSummary) -> dict[str, Any]:
    return {
        "hash": wanted,
        "generator": windowed.id,
        "settings": windowed.settings,
        "photo": describe_photo(found),
        "note": windowed.generator.note(),
        "terrafuse_version": VERSION,
    }


def _put_together(
    files: RasterFiles,
    found: PhotoSummary,
    windowed: WindowedGenerator,
    cache: WindowCache,
    record: dict[str, Any],
    preview: Preview,
) -> None:
    """Write the raster and what lies beside it, and add to the record what it holds."""
    plan, generator = windowed.plan(found.photo), windowed.generator
    rasterizer = (
        SegmentRasterizer(found, plan, cache)
        if generator.result == "segments"
        else DepthRasterizer(found, plan, cache, aligned=generator.aligned)
    )
    beside = [files.record, files.preview]
    if isinstance(rasterizer, SegmentRasterizer):
        beside.insert(0, files.colors)
    # The raster moves last: where it is, the others are.
    with written_whole(*beside, files.raster) as (*others, record_path, preview_path, raster):
        grid = found.photo.scene.grid
        with closing(RasterWriter(raster, grid, rasterizer.dtype, rasterizer.nodata)) as writer:
            for strip in rasterizer.strips():
                writer.write(strip)
            record["result"] = rasterizer.result()
            tags = {
                KEY_TAG: found.photo.name,
                GENERATOR_TAG: windowed.id,
                RECORD_TAG: json.dumps(record, ensure_ascii=False),
            }
            writer.finish(tags | rasterizer.tags(), smooth=rasterizer.smooth)
        if isinstance(rasterizer, SegmentRasterizer):
            rasterizer.save_colors(others[0])
        write_json(record_path, record)
        save_preview(preview_path, found.preview, preview(rasterizer.small))
        files.raster.unlink(missing_ok=True)  # it does not suit the new ones beside it
        move_side_car(raster, files.raster)
    if rasterizer.fault():
        warnings.warn(f"photo '{found.photo.name}': {rasterizer.fault()}", stacklevel=2)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings that differ, as "key: before, now"."""
    old, new = _flatten(before), _flatten(now)
    return [
        f"{key} was {old.get(key, 'not set')}, is {new.get(key, 'not set')}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            _flatten(value, f"{prefix}{key} ") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
