"""Pictures of a run: one validation window during training, curves at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrafuse.classes import ClassScheme
from terrafuse.data import Scene
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.samples import Batch, Sample, Window, collate
from terrafuse.segmenter import Segmenter
from terrafuse.training.log import read_log
from terrafuse.writing import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Folder of the pictures in a run folder.
FIGURES = "figures"
#: Largest number of scenes searched for a window worth showing.
_MOST_SCENES = 16


class SamplePicture:
    """Writer of `validation_<step>.png`: images, labels and class map of one window.

    The window is fixed: of the central windows of the first scenes, the one with the most even mix
    of classes. The window is mapped at once, and drawn in a thread while training goes on.

    Args:
        crop_size: Side of the window, in scene pixels.
        statistics: Band statistics for the display stretch.
        scheme: Classes and colours.
        folder: Folder of the pictures; created with the first one.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        crop_size: int,
        statistics: Mapping[str, BandStatistics],
        scheme: ClassScheme,
        folder: Path,
    ) -> None:
        self.scenes = scenes[:_MOST_SCENES]
        self.crop_size = crop_size
        self.statistics = statistics
        self.scheme = scheme
        self.folder = folder
        self._sample: Sample | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._drawn: list[Future[None]] = []

    def __call__(self, segmenter: Segmenter, step: int) -> None:
        """Begin the picture of a step, if any window suits the method.

        Raises:
            OutputError: An earlier one could not be written.
        """
        self._sample = self._sample or self._choose(segmenter)
        if self._sample is None:
            return
        classes = _map_window(segmenter, collate([self._sample]))
        self._thread = self._thread or ThreadPoolExecutor(1, "pictures")
        for done in [drawn for drawn in self._drawn if drawn.done()]:
            self._drawn.remove(done)
            done.result()
        path = self.folder / f"validation_{step:06d}.png"
        draw = partial(_draw, self._sample, segmenter.modalities, self.statistics, self.scheme)
        self._drawn.append(self._thread.submit(draw, classes, path))

    def finish(self) -> None:
        """Wait until all pictures are written.

        Raises:
            OutputError: One could not be.
        """
        if self._thread is not None:
            self._thread.shutdown()
        self._thread, drawn, self._drawn = None, self._drawn, []
        for one in drawn:
            one.result()

    def _choose(self, segmenter: Segmenter) -> Sample | None:
        samples = [scene.read(_middle(scene, self.crop_size)) for scene in self.scenes]
        needed = all if not segmenter.supports_missing else any
        suitable = [s for s in samples if needed(bool(v.any()) for v in s.valid.values())]
        return max(suitable, key=_evenness, default=None)


def save_curves(log: Path, score: str, folder: Path) -> None:
    """Write `curves.png`: losses and validation scores against steps.

    Args:
        log: Path of `log.csv`.
        score: Name of the score that selects the weights.
        folder: Folder of the pictures.
    """
    from terrafuse.reports import curves_figure

    _save(curves_figure(read_log(log), score=score), folder / "curves.png")


def _draw(
    sample: Sample,
    modalities: Sequence[Modality],
    statistics: Mapping[str, BandStatistics],
    scheme: ClassScheme,
    classes: NDArray[np.int64],
    path: Path,
) -> None:
    from terrafuse.reports import sample_panel  # matplotlib takes a second to import

    _save(sample_panel(sample, modalities, statistics, scheme, classes), path)


def _save(figure: Figure, path: Path) -> None:
    with written_whole(path) as (partial,):
        figure.savefig(partial)


def _middle(scene: Scene, size: int) -> Window:
    row, col = (
        max(0, (length - size) // 2) // scene.alignment * scene.alignment
        for length in (scene.grid.height, scene.grid.width)
    )
    return Window(row, col, size, size)


def _evenness(sample: Sample) -> float:
    """Return the entropy of the labels: 0 for one class, larger for many classes of equal share."""
    assert sample.labels is not None
    counts = torch.bincount(sample.labels.flatten(), minlength=256)[:-1]
    shares = counts / counts.sum().clamp_min(1)
    return float(torch.special.entr(shares).sum())


@torch.inference_mode()
def _map_window(segmenter: Segmenter, batch: Batch) -> NDArray[np.int64]:
    """Map the first sample, class indices (H, W); the model's modules keep their modes."""
    training = [module for module in segmenter.modules() if module.training]
    segmenter.eval()
    batch = batch.to(next(segmenter.parameters()).device)
    logits: Tensor = segmenter(batch.images, batch.valid).logits
    for module in training:
        module.training = True
    classes: NDArray[np.int64] = logits[0].argmax(dim=0).cpu().numpy()
    return classes
