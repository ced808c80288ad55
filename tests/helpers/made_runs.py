"""Run folders of small models that nobody trained, and the rasters that they are of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from small_methods import RESNET
from stored_run import make_data
from terrafuse.config import load_run_config
from terrafuse.config.base import STORED_CONFIG
from terrafuse.data import load_manifest
from terrafuse.methods import create_segmenter
from terrafuse.modalities import BandStatistics
from terrafuse.weights import RunInfo, save_model

STATISTICS = {
    "s2": BandStatistics(
        (110.0, 100.0, 92.0, 102.0), (14.0, 10.0, 12.0, 11.0), (85.0, 80.0, 65.0, 80.0),
        (135.0, 120.0, 115.0, 124.0), (1024,) * 4,
    ),
    "s1": BandStatistics((-12.0,), (2.8,), (-17.0,), (-7.0,), (1024,)),
}  # fmt: skip


def make_run(
    folder: Path,
    method: str = "late_fusion",
    options: dict[str, Any] | None = None,
    modalities: tuple[str, ...] = ("s2", "s1"),
    **info: Any,
) -> Path:
    """Write `folder`/run, of windows of 32 pixels, and `folder`/data.

    Args:
        options: Of the method; default: a small ResNet.
        info: Fields of the run's description.
    """
    manifest = make_data(folder / "data")
    data = load_manifest(manifest).select(list(modalities))
    chosen = tuple(data.modalities.values())
    options = RESNET if options is None else options
    torch.manual_seed(0)
    segmenter = create_segmenter(method, list(chosen), 2, options)
    statistics = {name: STATISTICS[name] for name in modalities}
    segmenter.set_statistics(statistics)
    run = folder / "run"
    described = RunInfo(
        method=method,
        method_options=options,
        modalities=chosen,
        scheme=data.scheme,
        statistics=statistics,
        crop_size=32,
        overlap=8,
        rules={name: rules.to_dict() for name, rules in data.rules.items()},
    )
    save_model(run, segmenter.state_dict(), replace(described, **info))
    config = {
        "data": {
            "manifest": str(manifest), "modalities": list(modalities), "crop_size": 32,
            "batch_size": 2,
        },
        "method": {"name": method, **options},
        "training": {"steps": 6},
    }  # fmt: skip
    (run / STORED_CONFIG).write_text(yaml.safe_dump(config))
    load_run_config(run / STORED_CONFIG)
    return run
