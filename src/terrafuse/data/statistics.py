"""Statistics of the training split: per band for normalisation and display, pixels per class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.data.scene import Scene
from terrafuse.data.streaming import Reservoir, cover, expected_total
from terrafuse.errors import DataError
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.progress import Progress

# Percentiles are exact up to this many pixels per band; above it, they are off by 0.05 % of the
# pixels (standard error of the 2nd percentile).
_RESERVOIR = 1 << 16
_PERCENTS = (2, 98, 5, 25, 50, 75, 95)


class _BandAccumulator:
    """Running mean, spread and random sample of the values of each band of one modality."""

    def __init__(self, modality: Modality, seed: int) -> None:
        self.modality = modality
        bands = len(modality.bands)
        self.count = np.zeros(bands, np.int64)
        self.mean = np.zeros(bands)
        self.squares = np.zeros(bands)
        self.dtypes: set[str] = set()
        self.reservoirs = [
            Reservoir(_RESERVOIR, np.random.default_rng((seed, band))) for band in range(bands)
        ]

    def add(self, image: NDArray[np.float32]) -> None:
        """Count the pixels (C, H, W) that are not NaN."""
        for band, values in enumerate(image):
            finite = np.isfinite(values)
            known = values.ravel() if finite.all() else values[finite]
            if known.size:
                self._merge(band, known.astype(np.float64))
                self.reservoirs[band].add(known)

    def note_types(self, scene: Scene) -> None:
        """Note what its files hold; nothing if a scale tag makes something else of it."""
        for file in scene.files.get(self.modality.name, ()):
            plain = set(file.scales) == {1.0} and set(file.offsets) == {0.0}
            self.dtypes |= set(file.dtypes) if plain else {"scaled"}

    def _merge(self, band: int, values: NDArray[np.float64]) -> None:
        # Chan, Golub, LeVeque (1979): squares about each block's own mean, so that a large offset
        # cancels before it is squared.
        count, mean = values.size, values.mean()
        deviations = values - mean
        squares = np.einsum("i,i", deviations, deviations)
        total = self.count[band] + count
        shift = mean - self.mean[band]
        self.squares[band] += squares + shift**2 * self.count[band] * count / total
        self.mean[band] += shift * count / total
        self.count[band] = total

    def result(self, where: str) -> BandStatistics:
        """Return the statistics.

        Raises:
            DataError: A band never had data.
        """
        for band, count in zip(self.modality.bands, self.count, strict=True):
            if not count:
                raise DataError(
                    f"band '{band}' of modality '{self.modality.name}' has no pixel with data in "
                    f"{where}. Correct its 'nodata' in the manifest, or leave the modality out "
                    "with data.modalities"
                )
        percentiles = [
            np.percentile(reservoir.items.astype(np.float64), _PERCENTS).tolist()
            for reservoir in self.reservoirs
        ]
        return BandStatistics(
            mean=tuple(self.mean.tolist()),
            std=tuple(np.sqrt(self.squares / self.count).tolist()),
            low=tuple(low for low, *_ in percentiles),
            high=tuple(high for _, high, *_ in percentiles),
            count=tuple(self.count.tolist()),
            quantiles=tuple(tuple(inner) for _, _, *inner in percentiles),
            dtypes=() if "scaled" in self.dtypes else tuple(sorted(self.dtypes)),
        )


class StatisticsPass:
    """Statistics per band of scenes read one after the other, over pixels with data only.

    Args:
        modalities: Modalities to describe; others of the scenes are ignored.
        block: Side of the blocks read at once, in pixels of the finest modality.
        seed: Seed of the sample that the percentiles are computed from.
    """

    def __init__(self, modalities: Sequence[Modality], *, block: int = 512, seed: int = 0) -> None:
        self.block = block
        self._accumulators = [_BandAccumulator(modality, seed) for modality in modalities]

    def read(self, scene: Scene) -> Iterator[int]:
        """Read the next scene; yield after each window the number of windows done."""
        present = [a for a in self._accumulators if a.modality.name not in scene.missing]
        for accumulator in present:
            accumulator.note_types(scene)
        windows = cover(scene, self.block) if present else []
        for count, window in enumerate(windows, start=1):
            images = scene.read(window, labels=False).images
            for accumulator in present:
                accumulator.add(images[accumulator.modality.name].numpy())
            yield count

    def result(self, ids: Sequence[str]) -> dict[str, BandStatistics]:
        """Return the statistics per modality name, in its unit.

        Args:
            ids: Names of the scenes, for messages.

        Raises:
            DataError: A band had no data in any scene.
        """
        return {a.modality.name: a.result(_where(ids)) for a in self._accumulators}


def compute_statistics(
    scenes: Sequence[Scene],
    modalities: Sequence[Modality],
    *,
    block: int = 512,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, BandStatistics]:
    """Compute mean, standard deviation and percentiles per band, over pixels with data only.

    Args:
        scenes: The scenes of the training split.
        modalities: Modalities to describe; others of the scenes are ignored.
        block: Side of the blocks read at once, in pixels of the finest modality.
        seed: Seed of the sample that the percentiles are computed from.
        progress: Called with (windows done, windows in total; of many scenes an estimate).

    Returns:
        Per modality name, in its unit. The standard deviation divides by the number of pixels.

    Raises:
        DataError: A band has no data in any scene.
    """
    measuring = StatisticsPass(modalities, block=block, seed=seed)
    total = expected_total(scenes, lambda scene: len(cover(scene, block)))
    done = 0
    for scene in scenes:
        for count in measuring.read(scene):
            if progress:
                progress(min(done + count, total), total)
        done += len(cover(scene, block))
    if progress:
        progress(total, total)
    return measuring.result([scene.id for scene in scenes])


def class_counts(
    scenes: Sequence[Scene],
    scheme: ClassScheme,
    *,
    block: int = 2048,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """Count the labelled pixels per class, int64 (K,).

    Args:
        scenes: Scenes; those without labels add nothing.
        block: Side of the blocks read at once, in scene pixels.
        progress: Called with (scenes done, scenes in total).

    Raises:
        LabelError: A label value is not in the scheme.
    """
    counts = np.zeros(256, np.int64)
    for done, scene in enumerate(scenes, start=1):
        for labels in _label_windows(scene, block):
            counts += np.bincount(labels.ravel(), minlength=256)
        if progress:
            progress(done, len(scenes))
    return counts[: scheme.num_classes]


def _label_windows(scene: Scene, block: int) -> Iterator[NDArray[np.uint8]]:
    if scene.has_labels:
        for window in cover(scene, block):
            yield scene.read_labels(window)


def _where(scenes: Sequence[str]) -> str:
    ids = [f"'{id}'" for id in scenes[:5]]
    more = f" and {len(scenes) - 5} more" if len(scenes) > 5 else ""
    return f"scenes {', '.join(ids)}{more}" if ids else "the split, which holds no scenes"
