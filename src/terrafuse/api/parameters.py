"""Treatment of a model's parameters by the optimiser, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from terrafuse.describe.overview import build_shapes


def describe_parameters(
    path: str | Path, overrides: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Describe learning rates and weight decay of a model, a row per group of parameters.

    Args:
        path: A run file, or a run folder.
        overrides: Dotted keys → YAML values that replace those of the settings.

    Returns:
        Rows with "why" (the reason for the decay), "lr_factor" (relative to `training.lr`), "lr",
        "weight_decay", "parameters", "values" and "names".

    Raises:
        ConfigError: Invalid settings.
        DataError: Invalid manifest.
        ModelError: The method cannot be built with these options.
        WeightsError: Not a run folder, damaged, or of another version.
    """
    from terrafuse.training.optim import treat_parameters  # Lightning takes seconds to import

    segmenter, config = build_shapes(path, overrides)
    rows: dict[tuple[str, float, float], dict[str, Any]] = {}
    for treated in treat_parameters(segmenter, config.training):
        key = (treated.why, treated.lr_factor, treated.weight_decay)
        row = rows.setdefault(
            key,
            {
                "why": treated.why,
                "lr_factor": treated.lr_factor,
                "lr": treated.lr_factor * config.training.lr,
                "weight_decay": treated.weight_decay,
                "parameters": 0,
                "values": 0,
                "names": [],
            },
        )
        row["parameters"] += 1
        row["values"] += treated.values
        row["names"].append(treated.name)
    return sorted(rows.values(), key=lambda row: (-row["lr_factor"], -row["weight_decay"]))
