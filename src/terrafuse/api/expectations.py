"""Expected cost of a run on a dataset, before it is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from terrafuse.config import load_run_config
from terrafuse.data import open_dataset
from terrafuse.data.streaming import expected_total
from terrafuse.describe.overview import describe_model


def expect_run(config: str | Path, overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Estimate the steps, memory and time of `run.yaml` on this machine.

    Two steps on synthetic batches of the run's crop and batch size are timed, after a warm-up step.
    Data loading and validation are not included: loading runs in parallel to the steps, in
    `data.workers` processes.

    Args:
        overrides: Dotted keys → YAML values that replace those in the file.

    Returns:
        "steps", "samples" (crops that will be drawn), "scenes" (per split), "passes" (mean number
        of times a pixel of the training scenes is seen, nodata and void included; the size of many
        scenes is that of the first ones), "memory_bytes" (weights, gradients, optimiser,
        activations; None if it cannot be derived from shapes), "seconds_per_step", "seconds".

    Raises:
        ConfigError: The settings are invalid.
        DataError: A scene cannot be opened.
        ModelError: The method cannot be built with these options.
    """
    from terrafuse.training import check_crop_size, time_steps  # seconds to import

    settings = load_run_config(config, overrides or {})
    dataset = open_dataset(settings.data)
    check_crop_size(settings.data, dataset)
    cost = describe_model(config, overrides)["cost"]
    seconds = time_steps(settings, dataset)
    steps = settings.training.steps
    samples = steps * settings.training.accumulate * settings.data.batch_size
    splits = [split for split in settings.data.train_splits if split in dataset.splits]
    scenes = [scene for split in splits for scene in dataset.scenes(split)]
    pixels = expected_total(scenes, lambda scene: scene.grid.height * scene.grid.width)
    return {
        "steps": steps,
        "samples": samples,
        "scenes": dataset.splits,
        "passes": samples * settings.data.crop_size**2 / pixels if pixels else None,
        "memory_bytes": cost.get("training_bytes", {}).get("total"),
        "seconds_per_step": seconds,
        "seconds": seconds * steps,
    }
