"""Why a pixel has its class: the model once more on the window around it, without each modality."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import DataError, MissingModalityError
from terrafuse.prediction.arrays import NUMPY
from terrafuse.prediction.lattice import Lattice
from terrafuse.prediction.leaving_out import absence, leave_out
from terrafuse.samples import Sample, Window, collate
from terrafuse.web.viewer.document import Influence, Why

if TYPE_CHECKING:
    from terrafuse.api.mapping import TrainedModel
    from terrafuse.data import Scene
    from terrafuse.prediction import ScenePredictor
    from terrafuse.prediction.scene_model import SceneModel

Probabilities = NDArray[np.float64]
# Less than this is no influence worth a sentence.
_WORTH_TELLING = 0.005


class Explainer:
    """A model that is loaded when it is first asked.

    Args:
        load: Loads the model.
    """

    def __init__(self, load: Callable[[], TrainedModel]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._model: TrainedModel | None = None
        self._predictor: ScenePredictor | None = None
        self._scenes: dict[str, Scene] = {}

    @property
    def model(self) -> TrainedModel:
        """The model, loaded."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def explain(
        self, key: str, opening: Callable[[TrainedModel], Scene], row: int, col: int
    ) -> Why:
        """Explain a pixel.

        Args:
            key: Of the scene, which is opened once.
            opening: Opens it as the model reads it.
            row: Within the scene.
            col: Likewise.

        Raises:
            DataError: No modality has data there, or the model cannot be run there.
            WeightsError: The model cannot be loaded.
        """
        with self._lock:
            if self._predictor is None:
                self._predictor, _ = self.model.predictor()
            if key not in self._scenes:
                self._scenes = {key: opening(self.model)}
            names = self.model.info.scheme.names
            return explain_pixel(self._predictor, self._scenes[key], row, col, names)


def explain_pixel(
    predictor: ScenePredictor, scene: Scene, row: int, col: int, names: Sequence[str]
) -> Why:
    """Run a model on the window around a pixel, with all modalities and without each.

    Probabilities are those of one window, the one in whose middle the pixel lies best: on the map
    they are averaged over all windows that overlap there.

    Raises:
        DataError: No modality has data there, or the model needs one that has none.
    """
    model = predictor.model
    window = nearest_window(predictor.lattice(scene), row, col)
    scales = {modality.name: modality.scale for modality in scene.modalities}
    used = [m.name for m in model.modalities if m.name in scales and m.name not in scene.missing]
    sample = scene.read(window, labels=False, arrays=model.arrays is NUMPY)
    sample = replace(
        sample,
        images={name: sample.images[name] for name in used},
        valid={name: sample.valid[name] for name in used},
    )
    present = [name for name in used if _has_data(sample, name, scales[name], row, col)]
    if not present:
        raise DataError(
            f"no modality has data in row {row}, column {col} of scene '{scene.id}'. Choose a "
            "pixel that has a class"
        )
    lacking = [m.name for m in model.modalities if m.name not in used]
    if lacking and not model.supports_missing:
        raise MissingModalityError(
            f"{model.name} needs every modality, and scene '{scene.id}' has no {lacking[0]}. Give "
            "a scene that has it"
        )
    batch = collate([sample])
    told_apart = present if len(used) > 1 else []
    temperature = predictor.calibration.of(tuple(used)).temperature
    at = row - window.row, col - window.col
    with model.running():
        whole, *rest = (
            _at(predictor, own, at, temperature)
            for own in (batch, *(leave_out(model, batch, name) for name in told_apart))
        )
    best = int(whole.argmax())
    influences = tuple(
        Influence(
            modality=name,
            probabilities=tuple(without.tolist()),
            lost=float(whole[best] - without[best]),
        )
        for name, without in zip(told_apart, rest, strict=True)
    )
    return Why(
        row=row,
        col=col,
        mapped=names[best],
        probabilities=tuple(whole.tolist()),
        influences=influences,
        text=_sentence(names, whole, dict(zip(told_apart, rest, strict=True)), model),
    )


def nearest_window(lattice: Lattice, row: int, col: int) -> Window:
    """The window of a lattice in whose middle a pixel lies best."""
    half = lattice.size / 2
    first = min(lattice.row_starts, key=lambda start: abs(start + half - row - 0.5))
    second = min(lattice.col_starts, key=lambda start: abs(start + half - col - 0.5))
    return Window(first, second, lattice.size, lattice.size)


def _has_data(sample: Sample, name: str, scale: float, row: int, col: int) -> bool:
    mask = np.asarray(sample.valid[name])
    own = (
        min(int((at - start) / scale), size - 1)
        for at, start, size in zip(
            (row, col), (sample.window.row, sample.window.col), mask.shape, strict=True
        )
    )
    return bool(mask[tuple(own)])


def _at(
    predictor: ScenePredictor, batch: Any, at: tuple[int, int], temperature: float
) -> Probabilities:
    """Probabilities (K,) of a pixel of the only window of a batch."""
    model = predictor.model
    scores = model.scores(model.to_device(model.read_ahead(batch)), predictor.windows.precision)
    logits = model.arrays.to_numpy(scores)[0, :, at[0], at[1]].astype(np.float64) / temperature
    shares = np.exp(logits - logits.max())
    found: Probabilities = shares / shares.sum()
    return found


def _sentence(
    names: Sequence[str],
    whole: Probabilities,
    without: Mapping[str, Probabilities],
    model: SceneModel,
) -> str:
    best = int(whole.argmax())
    said = f"{names[best]} has {whole[best]:.2f}"
    if not without:
        return f"{said}."
    way = "without" if absence(model) == "left out" else "with the mean of the training for"
    most = max(without, key=lambda name: whole[best] - without[name][best])
    lost = whole[best] - without[most][best]
    others = {name: names[int(p.argmax())] for name, p in without.items()}
    beaten = [name for name, found in others.items() if found != names[best]]
    if beaten:
        told = ", ".join(f"{way} {name} it would be {others[name]}" for name in beaten)
        return f"{said}; {told}."
    if lost > _WORTH_TELLING:
        rest = without[most][best]
        return f"{said}; it stays {way} any one modality. {most} counts most: {rest:.2f} {way} it."
    return f"{said}; no single modality counts for it."
