"""Several processes on one machine: what one process computes, and one message at the end.

The losses of several processes differ from those of one with the same samples by the order of
sums alone: 1e-4 of their value over four steps.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio
import torch
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
    manifest = uneven_dataset(make_dataset)
    settings = settings_of(manifest, head_first_steps=2)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    result = start([sys.executable, spied_training.__file__, str(tmp_path)])
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
    # And learn the same, with batch norms and with labels that are void here and there.
    check_equal(tmp_path / "together", tmp_path / "run")


def uneven_dataset(make_dataset: Callable[..., Path]) -> Path:
    """Two scenes to train on, one of them nearly without labels, and three to validate on."""
    manifest = make_dataset(("train", "train", "val", "val", "val"), void=[255])
    with rasterio.open(manifest.with_name("labels0.tif"), "r+") as file:
        labels = file.read(1)
        labels[:, 5:] = 255
        file.write(labels, 1)
    return manifest


def settings_of(manifest: Path, **training: Any) -> dict[str, Any]:
    return {
        "data": {"manifest": str(manifest), "crop_size": 32, "batch_size": 2, "workers": 0},
        "method": {
            "name": "late_fusion", "backbone": "resnet10t", "decoder": "segformer",
            "decoder_options": {"dropout": 0.0},
        },
        "training": {
            "steps": 4, "validate_every": 2, "accelerator": "cpu", "devices": 2,
            "strategy": "ddp", "optimizer": "sgd", "lr": 0.05, **training,
        },
        "prediction": {"crop_size": 48, "overlap": 0},
    }  # fmt: skip


def start(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=900,
        # The level of messages is that of the command (`terrafuse.__main__`).
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"} | environment,
        check=False,
    )  # fmt: skip


def check_equal(run: Path, other: Path) -> None:
    """Both runs have the same losses, scores and weights, but for rounding."""
    rows, others = (read_log(folder / "log.csv") for folder in (run, other))
    assert len(rows) == len(others)
    for row, expected in zip(rows, others, strict=True):
        for name in set(row) - {"seconds"}:
            assert bool(row[name]) == bool(expected[name])
            if row[name]:
                assert float(row[name]) == pytest.approx(float(expected[name]), rel=1e-4), name
    state, wanted = (load_segmenter(folder)[0].state_dict() for folder in (run, other))
    for name, value in wanted.items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-5, msg=name)


def train_command(folder: Path, out: str, *words: str) -> list[str]:
    run = [sys.executable, "-m", "terrafuse", "train", str(folder / "run.yaml")]
    return [*run, "--out", str(folder / out), *words]


def started(folder: Path, out: str, *words: str, **environment: str) -> str:
    """Train; return what is told on stderr."""
    result = start(train_command(folder, out, *words), **environment)
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.fixture
def alone(tmp_path: Path, make_dataset: Callable[..., Path]) -> Path:
    """Run file of two processes, and the run of one with the same samples per step."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings_of(uneven_dataset(make_dataset))))
    one = ("-s", "training.devices=1", "-s", "training.strategy=auto", "-s", "data.batch_size=4")
    started(tmp_path, "alone", *one)
    return tmp_path


@pytest.mark.slow
def test_four_processes_and_shards_learn_what_one_does(alone: Path) -> None:
    ways = {
        "four": ("-s", "training.devices=4", "-s", "data.batch_size=1"),
        "shards": ("-s", "training.strategy=fsdp"),
        "in time": ("-s", "training.devices=1", "-s", "training.strategy=auto"),
        "in both": ("-s", "data.batch_size=1"),
    }
    for name, words in ways.items():
        accumulate = 2 if name.startswith("in ") else 1
        started(alone, name, *words, "-s", f"training.accumulate={accumulate}")
        if accumulate == 1:
            check_equal(alone / name, alone / "alone")
        else:  # each batch has batch norms of its own
            rows = read_log(alone / name / "log.csv")
            assert len(rows) == len(read_log(alone / "alone" / "log.csv"))


@pytest.mark.slow
def test_frozen_parts_in_shards(alone: Path) -> None:
    frozen = ("-s", "training.backbone_lr_factor=0")
    one = ("-s", "training.devices=1", "-s", "training.strategy=auto", "-s", "data.batch_size=4")
    started(alone, "frozen", *frozen, *one)
    started(alone, "shards", *frozen, "-s", "training.strategy=fsdp")
    check_equal(alone / "shards", alone / "frozen")


@pytest.mark.slow
def test_resumed_on_another_number_of_processes(alone: Path) -> None:
    """Two processes stop after two steps; one goes on with the same samples, then what differs."""
    stopped = start([sys.executable, spied_training.__file__, str(alone), "--stop-after", "2"])
    assert "stopped by SIGTERM after step 2 of 4" in stopped.stderr
    one = ("--resume", "-s", "training.devices=1", "-s", "training.strategy=auto")
    refused = start(train_command(alone, "run", *one, "-s", "data.batch_size=3"))
    assert refused.returncode == 2
    assert "a step of the run in" in refused.stderr
    assert "has 4 samples, and now would have 3" in refused.stderr
    shutil.copytree(alone / "run", alone / "other")
    told = started(alone, "run", *one, "-s", "data.batch_size=4")
    assert "other samples" not in told
    check_equal(alone / "run", alone / "alone")
    told = started(alone, "other", *one)
    assert "is resumed with 1 processes instead of 2: it sees other samples" in told


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_with_one_message(alone: Path, rank: int) -> None:
    command = [sys.executable, spied_training.__file__, str(alone), "--kill", str(rank)]
    begun = time.monotonic()
    killed = start(command)
    assert killed.returncode != 0
    messages = [line for line in killed.stderr.splitlines() if "error" in line.lower()]
    assert len(messages) == 1, killed.stderr
    assert f"the run has lost 1 of its 2 processes (rank {rank}" in messages[0]
    end = float((alone / "killed").read_text())
    assert time.time() - end < 60, begun
    started(alone, "run", "--resume")
    check_equal(alone / "run", alone / "alone")


@pytest.mark.slow
def test_torchrun_starts_a_run(alone: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = start([*torchrun, "--no-python", *train_command(alone, "run")])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("trained ") == 1
    check_equal(alone / "run", alone / "alone")


@pytest.mark.slow
def test_tasks_of_slurm(alone: Path) -> None:
    """Two processes with the variables that srun gives to its tasks."""
    tasks = []
    common = {
        "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1",
        "SLURM_NODELIST": "localhost", "SLURM_JOB_ID": "29511", "SLURM_NODEID": "0",
        "SLURM_JOB_NAME": "train", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip
    for rank in ("0", "1"):
        own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        tasks.append(
            subprocess.Popen(
                train_command(alone, "run", "--resume"), env=os.environ | common | own,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    told = [task.communicate(timeout=900) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], told
    assert "".join(out for out, _ in told).count("trained ") == 1
    check_equal(alone / "run", alone / "alone")


@pytest.mark.slow
def test_an_error_of_one_process_is_told_once(alone: Path) -> None:
    command = [sys.executable, spied_training.__file__, str(alone), "--fail", "1"]
    failed = start(command)
    assert failed.returncode == 2
    messages = [line for line in failed.stderr.splitlines() if "error" in line.lower()]
    assert messages == ["error: this one fails (in process 1 of 0 to 1)"]
