"""Pictures of scenes: places of findings, and previews of whole datasets."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data import Manifest, Scene, load_manifest
from terrafuse.data.inputs import files_read
from terrafuse.errors import (
    ConfigError,
    LabelError,
    SceneNotFoundError,
    TerrafuseError,
    unknown_name,
)
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.samples import Window, round_up
from terrafuse.writing import claimed_file, refuse_inputs, written_whole

if TYPE_CHECKING:
    from terrafuse.doctor import Finding
    from terrafuse.reports.doctor_page import FindingView

Image = NDArray[np.float32]
Picture = NDArray[np.uint8]

#: Side of a thumbnail in pixels; below, smallest side shown and margin, in scene pixels.
SIDE = 320
_AROUND, _MARGIN = 128, 32
# Larger places are read decimated.
_MOST_READ = 1024
_MOST_VALUES = 1 << 25
_MOST_PER_KIND = 6


def finding_views(
    manifest: Manifest, findings: Sequence[Finding], *, most: int = _MOST_PER_KIND
) -> list[FindingView]:
    """Add pictures of their places to findings.

    Args:
        most: Largest number of findings of one kind that get pictures.
    """
    from terrafuse.reports.doctor_page import FindingView

    shown: Counter[str] = Counter()
    views = []
    for finding in findings:
        pictures: dict[str, Picture] = {}
        if finding.scene is not None and shown[finding.code] < most:
            pictures = _picture_place(manifest, finding)
            shown[finding.code] += bool(pictures)
        views.append(
            FindingView(
                severity=finding.severity,
                code=finding.code,
                message=finding.message,
                remedy=finding.remedy,
                scene=finding.scene,
                path=None if finding.path is None else str(finding.path),
                modality=finding.modality,
                fix=finding.fix,
                pictures=pictures,
            )
        )
    return views


def data_preview(
    manifest: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    scenes: int = 6,
) -> list[str]:
    """Write a contact sheet (PNG): a row per scene, a column per modality and one for labels.

    Each band has the same stretch in all scenes, so that a scene with other values stands out.

    Args:
        out: Picture to write; an existing one is replaced.
        split: Show only scenes of this split; None: of all.
        scenes: Number of scenes, spaced evenly over the manifest.

    Returns:
        Ids of the scenes shown.

    Raises:
        SceneNotFoundError: There are no scenes, or the split does not exist.
        ConfigError: `scenes` is below 1, or `out` is not a PNG file.
        DataError: A scene cannot be read.
        OutputError: The picture cannot be written.
    """
    from terrafuse.reports.contact import contact_sheet

    dataset, path = load_manifest(Path(manifest)), Path(out)
    if scenes < 1 or path.suffix.lower() != ".png":
        raise ConfigError(
            f"a preview shows one scene or more in a .png file, not {scenes} in '{path}'"
        )
    ids = _pick(dataset, split, scenes)
    images, labels = _read_small(dataset, ids)
    limits = {m.name: _limits([image[m.name] for image in images.values() if m.name in image], m)
              for m in dataset.modalities.values()}  # fmt: skip
    rows = {}
    for id, image in images.items():
        rows[id] = _render(dataset, image, labels.get(id), limits)
    columns = [*dataset.modalities, *(["labels"] if labels else [])]
    figure = contact_sheet(
        rows, columns, scheme=dataset.scheme if labels else None, title=_title(dataset, split, ids)
    )
    refuse_inputs([path], files_read(dataset))
    with claimed_file(path, "data preview"), written_whole(path) as (partial,):
        figure.savefig(partial, format="png")
    return ids


def _pick(dataset: Manifest, split: str | None, count: int) -> list[str]:
    if split is not None and split not in dataset.splits:
        raise SceneNotFoundError(unknown_name("split", split, dataset.splits))
    ids = [entry.id for entry in dataset.entries if split in (None, entry.split)]
    if not ids:
        raise SceneNotFoundError(f"'{dataset.path}' has no scenes")
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))
    return [ids[i] for i in chosen]


def _title(dataset: Manifest, split: str | None, ids: Sequence[str]) -> str:
    of = sum(split in (None, entry.split) for entry in dataset.entries)
    where = f"split '{split}' of " if split else ""
    return f"{where}{dataset.path.parent.name}/{dataset.path.name}: {len(ids)} of {of} scenes"


def _read_small(
    dataset: Manifest, ids: Iterable[str]
) -> tuple[dict[str, dict[str, Image]], dict[str, NDArray[np.uint8]]]:
    images, labels = {}, {}
    for id in ids:
        scene = dataset.scene(id)
        step = max(1, -(-max(scene.grid.height, scene.grid.width) // SIDE))
        images[id] = scene.read_decimated(step)
        if scene.has_labels:
            labels[id] = scene.read_labels_decimated(step)
        scene.close()
    return images, labels


def _limits(images: Sequence[Image], modality: Modality) -> BandStatistics | None:
    """Return percentiles over all scenes shown; None if nothing has data."""
    low, high, count = [], [], []
    for band in range(len(modality.bands)):
        values = np.concatenate([image[band][np.isfinite(image[band])] for image in images] or [[]])
        count.append(values.size)
        edges = np.percentile(values, (2, 98)) if values.size else (0.0, 1.0)
        low.append(float(edges[0]))
        high.append(float(edges[1]))
    if not any(count):
        return None
    nothing = (0.0,) * len(count)
    return BandStatistics(nothing, nothing, tuple(low), tuple(high), tuple(count))


def _render(
    dataset: Manifest,
    images: Mapping[str, Image],
    labels: NDArray[np.uint8] | None,
    limits: Mapping[str, BandStatistics | None],
) -> dict[str, Picture]:
    from terrafuse.reports.previews import class_map_image, modality_preview

    pictures = {
        name: modality_preview(image, dataset.modalities[name], limits.get(name))
        for name, image in images.items()
    }
    if labels is not None:
        pictures["labels"] = class_map_image(labels, dataset.scheme)
    return pictures


def _picture_place(manifest: Manifest, finding: Finding) -> dict[str, Picture]:
    """Render a place by modality; empty if the scene cannot be read, as may be the finding."""
    from terrafuse.reports.doctor_page import mark_window

    assert finding.scene is not None
    with _silent():
        try:
            scene = manifest.scene(finding.scene)
        except TerrafuseError:
            return {}
        try:
            extent = _extent(scene, finding.window)
            images, labels = _read_place(scene, extent)
            pictures = _render(manifest, images, labels, {})
        except TerrafuseError:
            return {}
        finally:
            scene.close()
    shown = {name: _enlarge(picture) for name, picture in pictures.items()}
    if finding.window is not None:
        shown = {n: mark_window(picture, finding.window, extent) for n, picture in shown.items()}
    first = finding.modality
    return {name: shown[name] for name in sorted(shown, key=lambda name: name != first)}


def _extent(scene: Scene, window: Window | None) -> Window:
    """Return a place with its surroundings, aligned, within the scene."""
    whole = scene.full_window
    if window is None:
        return whole
    n = scene.alignment

    def stretch(start: int, size: int, length: int) -> tuple[int, int]:
        wanted = min(round_up(max(size + 2 * _MARGIN, _AROUND), n), length)
        first = (start + size // 2 - wanted // 2) // n * n
        return max(0, min(first, length - wanted)), wanted

    row, height = stretch(window.row, window.height, whole.height)
    col, width = stretch(window.col, window.width, whole.width)
    return Window(row, col, height, width)


def _read_place(scene: Scene, extent: Window) -> tuple[dict[str, Image], NDArray[np.uint8] | None]:
    present = [m for m in scene.modalities if m.name not in scene.missing]
    if max(extent.height, extent.width) <= _MOST_READ:
        sample = scene.read(extent, labels=False)
        images = {m.name: sample.images[m.name].numpy() for m in present}
        return images, _try_labels(lambda: scene.read_labels(extent), scene)
    step = -(-max(extent.height, extent.width) // (2 * SIDE))
    bands = sum(len(m.bands) for m in present)
    step = max(step, ceil((scene.grid.height * scene.grid.width * bands / _MOST_VALUES) ** 0.5))
    images = {
        name: _cut(image, scene, extent) for name, image in scene.read_decimated(step).items()
    }
    labels = _try_labels(lambda: scene.read_labels_decimated(step), scene)
    return images, None if labels is None else _cut(labels[None], scene, extent)[0]


def _try_labels(read: Any, scene: Scene) -> NDArray[np.uint8] | None:
    """Read labels, unless these are faulty."""
    try:
        return read() if scene.has_labels else None
    except LabelError:
        return None


def _cut(image: NDArray[Any], scene: Scene, extent: Window) -> NDArray[Any]:
    """Cut out the part of an image (C, h, w) of the whole scene that shows an extent."""
    rows = image.shape[1] / scene.grid.height
    cols = image.shape[2] / scene.grid.width
    top, left = int(extent.row * rows), int(extent.col * cols)
    height, width = max(1, round(extent.height * rows)), max(1, round(extent.width * cols))
    return image[:, top : top + height, left : left + width]


def _enlarge(picture: Picture) -> Picture:
    """Resize by an integer factor, so that the longer side is close to a thumbnail's."""
    longer = max(picture.shape[:2])
    factor = max(1, round(SIDE / longer))
    step = -(-longer // (2 * SIDE))
    return picture[::step, ::step].repeat(factor, axis=0).repeat(factor, axis=1)


@contextmanager
def _silent() -> Iterator[None]:
    """Silence warnings about the data, which have been reported as findings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
