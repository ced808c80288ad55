"""Verbs about data sets: describe, check, measure, split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from terrafuse.data import (
    Finding,
    Manifest,
    check_manifest,
    compute_statistics,
    describe,
    load_manifest,
    split_manifest,
    write_manifest,
)
from terrafuse.errors import OutputError, SceneNotFoundError
from terrafuse.modalities import BandStatistics
from terrafuse.progress import Progress


def data_describe(
    root: str | Path, out: str | Path, *, layout: str = "folder", options: Mapping[str, str]
) -> Manifest:
    """Write the manifest of a folder of rasters; nothing is copied.

    Args:
        root: The folder.
        out: The manifest to write.
        layout: How the folder is organised (`terrafuse layouts`).
        options: Options of the layout.

    Raises:
        OutputError: `out` exists.
        DataError: The folder does not have this layout.
    """
    path = Path(out)
    if path.exists():
        raise OutputError(f"'{path}' exists; choose another name or remove it first")
    write_manifest(describe(Path(root), layout, manifest_folder=path.parent, **options), path)
    return load_manifest(path)


def data_check(manifest: str | Path, *, progress: Progress | None = None) -> list[Finding]:
    """Find what cannot be trained, before training."""
    return check_manifest(load_manifest(Path(manifest)), progress=progress)


def data_stats(
    manifest: str | Path, *, split: str | None = "train", progress: Progress | None = None
) -> dict[str, BandStatistics]:
    """Statistics per modality and band over the pixels with data of a split.

    Raises:
        SceneNotFoundError: No scenes in the split.
    """
    dataset = load_manifest(Path(manifest))
    scenes = dataset.scenes(split)
    if not scenes:
        raise SceneNotFoundError(
            f"'{manifest}' has no scenes in split '{split}'; "
            f"splits are {', '.join(dataset.splits) or 'none'}"
        )
    return compute_statistics(scenes, list(dataset.modalities.values()), progress=progress)


def data_split(
    manifest: str | Path,
    out: str | Path,
    *,
    shares: Mapping[str, float],
    block_px: int,
    buffer_px: int,
    seed: int = 0,
) -> Manifest:
    """Write a copy of a manifest with a new spatial split.

    Args:
        manifest: The manifest to split.
        out: The manifest to write.
        shares: Split → share of the labelled pixels.
        block_px: Edge of the blocks that large scenes are cut into, in scene pixels.
        buffer_px: Least distance between pixels of different splits.
        seed: Of the draw.

    Raises:
        OutputError: `out` exists.
    """
    path = Path(out)
    if path.exists():
        raise OutputError(f"'{path}' exists; choose another name or remove it first")
    values = split_manifest(
        load_manifest(Path(manifest)),
        shares=dict(shares),
        block_px=block_px,
        buffer_px=buffer_px,
        seed=seed,
        manifest_folder=path.parent,
    )
    write_manifest(values, path)
    return load_manifest(path)
