"""`training.compile`: the same losses, names and resumed runs, whatever a batch lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import spied_training
from remedies import said
from small_methods import RESNET, SMALL, VIT
from terrafuse.config import RunConfig
from terrafuse.contract import Case, random_images
from terrafuse.errors import ConfigError, StoppedError
from terrafuse.methods import load_segmenter
from terrafuse.samples import Batch
from terrafuse.training import compiling, train
from terrafuse.training.checkpoint import LastCheckpoint
from terrafuse.training.compiling import (
    CompiledSegment,
    Measured,
    check_compile,
    decide_compile,
    find_compiler,
)
from terrafuse.training.log import read_log

Make = Callable[..., Any]
CPU = torch.device("cpu")
LEFT_OUT = {"strategy": "auto", "cache_features": False, "sync_batchnorm": False}

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Graphs that were compiled; a compiler that does nothing stands in for torch's."""
    found: list[Any] = []

    def keep(graph: Any, inputs: Any, **options: Any) -> Any:
        del inputs, options
        found.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    return found


def losses_of(out: Path) -> list[float]:
    return [float(row["loss"]) for row in read_log(out / "log.csv") if row["loss"]]


def test_a_compiled_run_is_the_run_without(
    tmp_path: Path, make_dataset: Make, make_config: Make, graphs: list[Any]
) -> None:
    manifest = make_dataset()
    training = {"ema_decay": 0.9, "head_first_steps": 3}
    outs = {}
    for compiles in (False, True):
        config = make_config(manifest, training=training | {"compile": compiles})
        with pytest.warns(UserWarning, match="trained on random features"):
            outs[compiles] = train(config, tmp_path / str(compiles))
        assert bool(graphs) == compiles
    assert losses_of(outs[True]) == losses_of(outs[False])
    states = {name: load_segmenter(out)[0].state_dict() for name, out in outs.items()}
    assert list(states[True]) == list(states[False])
    for key, value in states[True].items():
        assert torch.equal(value, states[False][key])
    assert len(graphs) == 2  # while the backbone waits, and after


def test_a_compiled_run_resumes(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    graphs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(make_dataset(), training={"compile": True, "ema_decay": 0.9})
    whole = train(config, tmp_path / "whole")
    end = LastCheckpoint.on_train_batch_end

    def stop(self: Any, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 5:
            self._request_stop(15)
        end(self, trainer, *args)

    with monkeypatch.context() as patched:
        patched.setattr(LastCheckpoint, "on_train_batch_end", stop)
        with pytest.raises(StoppedError):
            train(config, tmp_path / "parts")
    saved = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in saved} == {"segmenter"}
    assert not [name for name in saved if "_orig_mod" in name]
    plain = make_config(config.data.manifest, training={"ema_decay": 0.9})
    with pytest.raises(ConfigError, match=r"training\.compile was True, is False"):
        train(plain, tmp_path / "parts", resume=True)
    parts = train(config, tmp_path / "parts", resume=True)
    assert losses_of(parts) == losses_of(whole)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert graphs


@pytest.mark.parametrize("method", ["late_fusion", pytest.param("upseg", marks=pytest.mark.slow)])
def test_what_lacks_a_modality_runs_as_written(method: str, graphs: list[Any]) -> None:
    segmenter = Case(method, SMALL[method][0]).make().train()
    own = {name: value.clone() for name, value in segmenter.state_dict().items()}
    images = random_images(segmenter.modalities, (64, 64), batch=2)
    compiled = CompiledSegment(segmenter, CPU)
    known = None
    for absent in [[], [("sar", 0)], [("sar", 0), ("sar", 1)], [("rgb", 1)], []]:
        valid = {m: torch.ones(2, *x.shape[-2:], dtype=torch.bool) for m, x in images.items()}
        for name, sample in absent:
            valid[name][sample] = False
        batch = Batch(images, valid, None, (), ())
        segmenter.load_state_dict(own)
        torch.manual_seed(0)
        expected = segmenter(images, valid).logits
        statistics = segmenter.state_dict()
        segmenter.load_state_dict(own)
        torch.manual_seed(0)
        with compiled.training(batch):
            torch.testing.assert_close(segmenter(images, valid).logits, expected)
        torch.testing.assert_close(segmenter.state_dict(), statistics)
        assert "segment" not in vars(segmenter)
        known = known or len(graphs)
    assert len(graphs) == known > 0


@pytest.mark.slow
def test_gradient_checkpointing_is_compiled(graphs: list[Any]) -> None:
    segmenter = Case("single", VIT).make().train()
    images = random_images(segmenter.modalities, (64, 64), batch=2)
    batch = Batch(images, {}, None, (), ())
    norms = []
    for checkpoints in (False, True):
        for backbone in segmenter.backbones():
            backbone.gradient_checkpointing = checkpoints
        for compiles in (False, True):
            segmenter.zero_grad()
            torch.manual_seed(0)
            if compiles:
                with CompiledSegment(segmenter, CPU).training(batch):
                    logits = segmenter(images).logits
            else:
                logits = segmenter(images).logits
            logits.logsumexp(1).mean().backward()
            norms.append([p.grad.norm().item() for p in segmenter.parameters()])
    assert graphs
    for other in norms[1:]:
        assert other == pytest.approx(norms[0], rel=1e-4, abs=1e-7)


def test_a_method_that_cannot_be_compiled_is_named(
    tmp_path: Path, make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(graph: Any, inputs: Any, **options: Any) -> Any:
        raise ValueError("no compiler on this machine")

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=fail))
    manifest = make_dataset()
    config = make_config(manifest, training={"compile": True})
    with pytest.raises(ConfigError, match=r"method 'tiny' .* no compiler on this machine") as told:
        train(config, tmp_path / "run")
    said("training.compiling:explaining_compilation | Set training.compile to", str(told.value))
    train(make_config(manifest, training={"compile": False}), tmp_path / "plain")


@pytest.mark.parametrize(
    ("training", "processes", "reason"),
    [
        ({"strategy": "fsdp"}, 1, "parameters are joined only while a step runs"),
        ({"cache_features": True}, 1, "looks at the values"),
        ({}, 2, "exchanges statistics within a step"),
    ],
)
def test_what_excludes_it_is_named(
    make_dataset: Make, make_config: Make, training: dict[str, Any], processes: int, reason: str
) -> None:
    manifest = make_dataset()

    def config(compiles: bool | str, **changes: Any) -> RunConfig:
        settings: RunConfig = make_config(
            manifest, training=training | {"compile": compiles} | changes
        )
        return settings

    with pytest.raises(ConfigError, match=reason) as told:
        check_compile(config(True), processes)
    said("training.compiling:check_compile | Leave that out, or set", str(told.value))
    check_compile(config(False), processes)
    check_compile(config(True, **LEFT_OUT), processes)
    check_compile(config("auto"), processes)
    decided, why = decide_compile(config("auto"), processes, CPU)
    assert not decided
    assert reason in why


def test_auto_goes_by_what_was_measured(
    make_dataset: Make, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 30 s are made up for after 30 / (0.1 · (1 − 0.7)) = 1000 steps.
    table = {"cmx": Measured(30, 100, 0.7), "mfnet": Measured(30, 100, 0.95)}
    monkeypatch.setattr(compiling, "ON_PROCESSORS", table)
    monkeypatch.setattr(compiling, "find_compiler", lambda: "c++")
    manifest = make_dataset()

    def auto(method: str, steps: int = 1000, device: torch.device = CPU, **data: Any) -> Any:
        config = make_config(
            manifest,
            data=data,
            method={"name": method},
            training={"compile": "auto", "steps": steps},
        )
        return decide_compile(config, 1, device)

    assert auto("cmx") == (True, "on: a compiled step takes 0.70 of one, as measured")
    assert auto("cmx", 999) == (False, "off: compiling is made up for after about 1000 steps")
    assert "takes 0.95 of one" in auto("mfnet")[1]
    assert "not measured for method 'upseg'" in auto("upseg")[1]
    assert "not measured on such a device" in auto("cmx", device=torch.device("cuda"))[1]
    assert "run as written" in auto("cmx", modality_dropout=0.2)[1]
    assert not any(auto(name)[0] for name in ("mfnet", "upseg"))
    monkeypatch.setattr(compiling, "find_compiler", lambda: None)
    assert auto("cmx") == (False, "off: no C++ compiler is found")


def test_the_compiler_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("g++", "clang++", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "mine -O1")
    assert find_compiler() == str(tmp_path / "mine")
    monkeypatch.delenv("CXX")
    assert find_compiler() == str(tmp_path / "g++")
    (tmp_path / "g++").unlink()  # torch calls no other instead
    assert find_compiler() is None


@pytest.mark.parametrize(
    ("device", "options"), [("cpu", {"layout_optimization": False}), ("cuda", {})]
)
def test_images_keep_their_layout_on_processors(
    device: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda _, **settings: given.update(settings))
    CompiledSegment(Case("single", RESNET).make(), torch.device(device))
    assert given["options"] == options


@pytest.mark.slow
@pytest.mark.parametrize("method", ["single", "cmx"])
def test_torchs_compiler_comes_to_the_same(method: str) -> None:
    segmenter = Case(method, SMALL[method][0]).make().train()
    images = random_images(segmenter.modalities, (64, 64), batch=2)
    batch = Batch(images, {}, None, (), ())
    own = {name: value.clone() for name, value in segmenter.state_dict().items()}
    compiled = CompiledSegment(segmenter, CPU)
    found = []
    with torch._inductor.config.patch(fallback_random=True):  # dropout as without
        for compiles in (False, True):
            segmenter.load_state_dict(own)
            segmenter.zero_grad()
            torch.manual_seed(0)
            if compiles:
                with compiled.training(batch):
                    logits = segmenter(images).logits
            else:
                logits = segmenter(images).logits
            logits.logsumexp(1).mean().backward()
            found.append([logits.detach(), *(p.grad for p in segmenter.parameters())])
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_processes_compile(tmp_path: Path, make_dataset: Make) -> None:
    settings = {
        "data": {"manifest": str(make_dataset()), "crop_size": 32, "batch_size": 2, "workers": 0},
        "method": {"name": "late_fusion", **RESNET},
        "training": {
            "steps": 4, "accelerator": "cpu", "devices": 2, "strategy": "ddp",
            "sync_batchnorm": False,
        },
    }  # fmt: skip
    losses = []
    for compiles in (False, True):
        settings["training"]["compile"] = compiles
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        result = subprocess.run(
            [sys.executable, spied_training.__file__, str(tmp_path)],
            capture_output=True, text=True, timeout=900, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        losses.append(losses_of(tmp_path / "run"))
        (tmp_path / "run").rename(tmp_path / f"run-{compiles}")
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
