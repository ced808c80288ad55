"""Generation of one raster of segments or depth from one photo, window by window."""

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
    save_preview,
)
from terrafuse.generate.rasterizers import DepthRasterizer, SegmentRasterizer
from terrafuse.generate.windows import WindowPlan
from terrafuse.generate.workers import WindowRunner
from terrafuse.version import VERSION
from terrafuse.writing import write_json, written_whole


@dataclass(frozen=True)
class PhotoJob:
    """A photo and the files of its raster."""

    photo: Photo
    files: RasterFiles


@dataclass(frozen=True)
class WindowedGenerator:
    """Generator and windows, the same for all rasters of a dataset.

    Args:
        generator: Generator of single windows.
        size: Side of the windows in pixels.
        overlap: Smallest number of pixels that neighbours share.
    """

    generator: Generator
    size: int
    overlap: int

    @property
    def settings(self) -> dict[str, Any]:
        """All that the result depends on besides the photo."""
        return self.generator.describe() | {"window": self.size, "overlap": self.overlap}

    @property
    def id(self) -> str:
        """Fingerprint of the settings."""
        return digest_settings(self.settings)

    def plan(self, photo: Photo) -> WindowPlan:
        """Plan the windows of a photo.

        Raises:
            ConfigError: The overlap does not suit the windows.
        """
        grid = photo.scene.grid
        return WindowPlan(grid.height, grid.width, self.size, self.overlap)


@dataclass(frozen=True)
class Generated:
    """Result of a job.

    Args:
        raster: The GeoTIFF.
        skipped: True if it existed already.
        record: Its photo, settings and result.
    """

    raster: Path
    skipped: bool
    record: dict[str, Any]


def refuse_other_settings(files: RasterFiles, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse, before work begins, an existing raster made with other settings.

    Raises:
        OutputError: Settings differ and are named; or the file is not terrafuse's, which is never
            replaced.
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
            "another --out, or make all of them again with --overwrite"
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
    """Generate the raster of a photo, unless it exists already.

    Finished windows of an interrupted call are reused; the result is identical to the byte.

    Args:
        job: Photo and files of its raster.
        preview: Renders the result as a picture.
        overwrite: True: replace a raster made with other settings, or before the photo changed.
        report: Called once per window of the photo.

    Raises:
        OutputError: A raster with other settings exists, or the disk is full.
        DataError: The photo has no data, or cannot be read.
        ModelError: The model fails.
    """
    refuse_other_settings(job.files, windowed.settings, overwrite)
    found = summarize_photo(job.photo)
    plan = windowed.plan(found.photo)
    wanted = digest_settings({"photo": found.digest, "settings": windowed.settings})
    record = job.files.read_record()
    if record is not None and record.get("hash") == wanted:
        WindowCache(job.files.partial).remove()  # if a kill came before it was
        for _ in plan.windows:
            report()
        return Generated(job.files.raster, True, record)
    if record is not None and not overwrite:
        raise OutputError(
            f"'{job.files.raster}' was made from another state of photo '{job.photo.name}', which "
            "has changed since. Make it again with --overwrite"
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
    """Write the raster and the files beside it, and add the result to the record."""
    plan, generator = windowed.plan(found.photo), windowed.generator
    rasterizer = (
        SegmentRasterizer(found, plan, cache)
        if generator.result == "segments"
        else DepthRasterizer(found, plan, cache, aligned=generator.aligned)
    )
    beside = [files.record, files.preview]
    if isinstance(rasterizer, SegmentRasterizer):
        beside.insert(0, files.colors)
    # The raster is moved last: if it exists, so do the others.
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
        files.raster.unlink(missing_ok=True)  # the old one does not match the new files beside it
    if rasterizer.fault():
        warnings.warn(f"photo '{found.photo.name}': {rasterizer.fault()}", stacklevel=2)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List the settings that differ, as "key was before, is now"."""
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
