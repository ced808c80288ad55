"""Verb `calibrate`: confidences that say how often the map is right."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from terrafuse.api.mapping import smaller_windows
from terrafuse.api.runs import Run, check_scored_memory, load, reference_scenes
from terrafuse.data import Manifest, Scene
from terrafuse.data.streaming import first_scenes
from terrafuse.errors import ConfigError, ModelError
from terrafuse.evaluation import check_references, modality_subsets
from terrafuse.evaluation.calibration import LARGEST, LEAST, SetWish, fit_calibration
from terrafuse.memory import explaining_memory
from terrafuse.prediction import WindowSettings, write_calibration
from terrafuse.progress import Progress
from terrafuse.version import VERSION
from terrafuse.weights import STATE_FILE, check_same_scheme, digest
from terrafuse.writing import claimed


def calibrate(
    run: str | Path | Run,
    *,
    split: str | None = None,
    per_subset: bool = False,
    conformal: float | None = None,
    block_px: int | None = None,
    manifest: str | Path | None = None,
    windows: WindowSettings | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit a temperature on a split with labels, and write `calibration.json` into the run folder.

    `predict` and `evaluate` use it from then on, as long as the weights are the same. Classes do
    not change.

    Args:
        split: Default: `training.validation_split` of the run.
        per_subset: A temperature for every subset of the modalities, where the method supports
            missing ones; a scene gets that of the modalities it has.
        conformal: Coverage of class sets, above 0 and below 1; default: no class sets.
        block_px: Side of the blocks that coverage is counted on, in pixels; default: five times the
            correlation length of the errors, or a window.
        manifest: Another dataset than the run's; its classes must be the same.
        windows: As in `Run.predict`.
        device: As in `Run.predict`.
        progress: Called with (windows done, windows in all; of many scenes an estimate).

    Returns:
        The content of `calibration.json`.

    Raises:
        SceneNotFoundError: The split has no labelled scenes.
        LabelError: No labelled pixel has data.
        ConfigError: The dataset has other classes than the run, or a value is not allowed.
        ModelError: `per_subset` of a method that needs every modality.
        ScoresError: Fewer blocks than the coverage needs.
        OutputError: The run folder cannot be written, or another process writes there.
    """
    opened = run if isinstance(run, Run) else load(run)
    sets = _wish(conformal, block_px)
    names = tuple(m.name for m in opened.info.modalities)
    subsets = _subsets(opened, names, per_subset)
    split = split or opened.config.training.validation_split
    path = Path(manifest) if manifest else opened.config.data.manifest
    is_own = path.resolve() == opened.config.data.manifest.resolve()
    dataset = opened.dataset(path)
    check_same_scheme(opened.info, dataset.scheme, str(path))
    scenes = _scenes(opened, dataset, split, is_own=is_own)
    config = opened.config.evaluation.model_copy(update={"split": split})
    predictor, _ = opened.predictor(windows, device, calibrated=False)
    with (
        claimed(opened.folder, "calibrate"),
        explaining_memory("calibrating", smaller_windows(predictor.windows)),
    ):
        check_scored_memory(predictor, first_scenes(scenes))
        if not is_own:
            opened.check_values(first_scenes(scenes))
        fitted = fit_calibration(predictor, scenes, config, subsets, sets, progress)
        _tell_ends(fitted)
        content = {
            "terrafuse_version": VERSION,
            "model": opened.info.state_sha256 or digest(opened.folder / STATE_FILE),
            "manifest": None if is_own else str(path.resolve()),
            "split": split,
            "scenes": len(scenes),
            "windows": predictor.windows.to_dict(),
            "full": "+".join(names),
            "subsets": fitted,
        }
        return write_calibration(opened.folder, content)


def _wish(conformal: float | None, block_px: int | None) -> SetWish | None:
    if conformal is None:
        if block_px is not None:
            raise ConfigError("--block-px has an effect only with --conformal")
        return None
    if not 0 < conformal < 1:
        raise ConfigError(
            f"the coverage of class sets is {conformal:g}; give a share above 0 and below 1, such "
            "as 0.9"
        )
    return SetWish(conformal, block_px)


def _subsets(run: Run, names: tuple[str, ...], per_subset: bool) -> list[tuple[str, ...]]:
    if not per_subset or len(names) == 1:
        return [names]
    if not run.segmenter.supports_missing:
        raise ModelError(
            f"{type(run.segmenter).__name__} needs every modality, so that there are no subsets to "
            "calibrate. Leave out --per-subset"
        )
    return modality_subsets(names)


def _scenes(run: Run, dataset: Manifest, split: str, *, is_own: bool) -> Sequence[Scene]:
    """Scenes to calibrate on; those that flatter it are warned of."""
    scenes = reference_scenes(dataset, split, run.config.evaluation.reference)
    check_references(scenes, run.config.evaluation)
    if is_own and split in run.config.data.train_splits:
        warnings.warn(
            f"the model was trained on split '{split}' and is surer there than elsewhere: "
            "confidences calibrated on it are too high. Calibrate on a split that it has not seen",
            stacklevel=3,
        )
    elif is_own and split == run.config.evaluation.split:
        warnings.warn(
            f"scores are made on split '{split}', too: calibration looks better there than it is. "
            "Calibrate on a split of its own",
            stacklevel=3,
        )
    return scenes


def _tell_ends(fitted: dict[str, dict[str, Any]]) -> None:
    for name, own in fitted.items():
        if own["temperature"] in (LEAST, LARGEST):
            is_least = own["temperature"] == LEAST
            few = "hardly a pixel is wrong, or the scores hardly differ"
            why = few if is_least else "confidence says nothing on errors"
            warnings.warn(
                f"the temperature of {name} is {own['temperature']:g}, an end of the range: on "
                f"these labels {why}. Calibrate on more ground (--split, --manifest)",
                stacklevel=3,
            )
