"""Two processes on one machine: same weights in both, every sample once, scores over all scenes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import spied_training
from terrafuse.config import EvaluationConfig
from terrafuse.data import load_manifest
from terrafuse.evaluation import evaluate
from terrafuse.methods import load_segmenter
from terrafuse.prediction import WindowSettings
from terrafuse.training.log import read_log


def test_two_processes(
    tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_dataset(("train", "train", "val", "val", "val"))
    settings: dict[str, Any] = {
        "data": {"manifest": str(manifest), "crop_size": 32, "batch_size": 2, "workers": 0},
        "method": {"name": "late_fusion", "backbone": "resnet10t", "decoder": "segformer"},
        "training": {
            "steps": 4, "validate_every": 2, "accelerator": "cpu", "devices": 2,
            "strategy": "ddp", "head_first_steps": 2,
        },
        "prediction": {"crop_size": 48, "overlap": 0},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    result = subprocess.run(
        [sys.executable, spied_training.__file__, str(tmp_path)],
        capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2))
    assert first["digest"] == second["digest"]
    # It waits for two steps, the third teaches it.
    waiting, *others, learnt = first["backbones"]
    assert others == [waiting, waiting]
    assert learnt != waiting
    rows = read_log(tmp_path / "run" / "log.csv")
    assert [int(row["step"]) for row in rows if row["val_miou"]] == [2, 4]
    segmenter, info = load_segmenter(tmp_path / "run")
    metrics = evaluate(
        segmenter,
        load_manifest(manifest).scenes("val"),
        info.scheme,
        EvaluationConfig(),
        WindowSettings(info.crop_size, info.overlap),
        boundary=False,
    )
    best = max(float(row["val_miou"]) for row in rows if row["val_miou"])
    assert metrics["subsets"]["a+b"]["scores"]["miou"] == pytest.approx(best, rel=1e-4)

    # Step by step the two see what one process sees in batches of twice the size.
    settings["training"] |= {"devices": 1, "strategy": "auto"}
    settings["data"]["batch_size"] = 4
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "run").rename(tmp_path / "together")
    with pytest.warns(UserWarning, match="trained on random features"):
        spied_training.train_spied(tmp_path, monkeypatch.setattr)
    alone = json.loads((tmp_path / "rank0.json").read_text())
    assert len(alone["seen"]) == 4
    assert [a + b for a, b in zip(first["seen"], second["seen"], strict=True)] == alone["seen"]
