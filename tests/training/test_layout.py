"""Order of a model's numbers in memory: chosen as measured, and without a change of results."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from small_methods import SMALL
from terrafuse.config import TrainingConfig
from terrafuse.contract import Case
from terrafuse.errors import ConfigError, TrainingError
from terrafuse.methods import METHODS, load_segmenter
from terrafuse.training import layout, train
from terrafuse.training.layout import choose_layout, kind_of, read_table
from terrafuse.training.run_state import Position, position_fields, read_position
from terrafuse.training.task import SegmentationTask
from terrafuse.training.trainer import check_trainer

Make = Callable[..., Any]
Seen = list[tuple[float, bool]]

pytestmark = pytest.mark.usefixtures("without_figures")


def table(share: float, *, method: str = "tiny", kind: str = "convolutions") -> dict[str, Any]:
    row = {"method": method, "kind": kind, "parameters": 100, "channels_last": share}
    far = row | {"parameters": 10**8, "channels_last": 2 - share}
    return {"device": "cpu", "machine": "1 × abacus", "date": "2026-01-31", "rows": [far, row]}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Function that says what channels-last takes of the time, with the method of these tests."""
    return lambda share: monkeypatch.setattr(layout, "read_table", lambda: table(share))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Loss of every step, and whether the first kernel was channels-last."""
    found: Seen = []
    step = SegmentationTask.training_step

    def remember(self: SegmentationTask, batch: Any, batch_idx: int) -> dict[str, Any]:
        result = step(self, batch, batch_idx)
        kernel = next(m for m in self.segmenter.modules() if isinstance(m, torch.nn.Conv2d)).weight
        is_last = not kernel.is_contiguous() and kernel.is_contiguous(
            memory_format=torch.channels_last
        )
        found.append((result["terms"]["total"], is_last))
        return result

    monkeypatch.setattr(SegmentationTask, "training_step", remember)
    return found


def test_every_method_was_measured_where_the_table_says() -> None:
    found = read_table()
    assert {row["method"] for row in found["rows"]} == set(METHODS) - {"tiny"}
    assert all(0.2 < row["channels_last"] < 2 for row in found["rows"])
    for method in ("cmx", "decur"):
        segmenter = Case(method, SMALL[method][0]).start()
        counts = {
            row["parameters"]
            for row in found["rows"]
            if (row["method"], row["kind"]) == (method, kind_of(segmenter))
        }
        assert sum(p.numel() for p in segmenter.parameters()) in counts


def test_the_nearest_size_decides_and_the_reason_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter = Case("single", SMALL["single"][0]).start()  # 22,000 parameters
    config = TrainingConfig()

    def choose(share: float, **changes: Any) -> tuple[bool, str]:
        made = table(share, method="single") | changes
        monkeypatch.setattr(layout, "read_table", lambda: made)
        found = choose_layout(segmenter, config, device="cpu")
        return found.channels_last, found.reason

    told = "a step of single with 0.0001 million parameters took 0.70 of the time so "
    assert choose(0.7) == (True, f"{told}(1 × abacus, 2026-01-31)")
    assert choose(0.95)[0]
    assert not choose(0.96)[0]
    assert choose(0.7, rows=[]) == (
        False,
        "not measured with method 'single' of mostly convolutions",
    )
    products = table(0.7, method="single", kind="products")["rows"]
    assert not choose(0.7, rows=products)[0]
    assert choose(0.7, device="cuda") == (False, "not measured on cpu")


def test_what_was_not_measured_stays_as_it_was(measured: Callable[[float], None]) -> None:
    segmenter = Case("single", SMALL["single"][0]).start()
    measured(0.5)
    config, asked = TrainingConfig(), TrainingConfig(channels_last=True)
    cases: list[tuple[TrainingConfig, dict[str, Any], bool, str]] = [
        (config, {"device": "cuda"}, False, "not measured on cuda"),
        (config, {"device": "cpu", "processes": 2}, False, "not measured with several processes"),
        (asked, {"device": "cuda"}, True, "by training.channels_last"),
        (asked, {"device": "cpu", "begun": False}, False, "as the run was begun"),
        (config, {"device": "cuda", "begun": True}, True, "as the run was begun"),
    ]
    for settings, options, expected, reason in cases:
        found = choose_layout(segmenter, settings, **options)
        assert (found.channels_last, found.reason) == (expected, reason)


@pytest.mark.parametrize("training", [{}, {"ema_decay": 0.9, "accumulate": 2}])
def test_losses_are_equal_but_for_rounding(
    tmp_path: Path, make_dataset: Make, make_config: Make, seen: Seen, training: dict[str, Any]
) -> None:
    manifest = make_dataset()
    found = {}
    for last in (False, True):
        config = make_config(manifest, training={"channels_last": last, **training})
        out = train(config, tmp_path / str(last))
        found[last] = seen.copy(), load_segmenter(out)[0].state_dict()
        seen.clear()
    (plain, before), (own, after) = found.values()
    assert not any(is_last for _, is_last in plain)
    assert all(is_last for _, is_last in own)
    assert [loss for loss, _ in own] == pytest.approx([loss for loss, _ in plain], rel=1e-4)
    for name, value in before.items():
        assert after[name].is_contiguous()
        if not name.endswith("weight"):
            continue  # the bias before a batch norm has no gradient but rounding, which Adam scales
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-4)


def test_a_run_goes_on_in_the_layout_in_which_it_was_begun(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    measured: Callable[[float], None],
    seen: Seen,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make_config(make_dataset(), training={"ema_decay": 0.9})
    measured(0.6)
    train(config, tmp_path / "straight")
    straight = seen.copy()
    assert all(is_last for _, is_last in straight)
    assert "channels last: a step of tiny with 0.0001 million" in capsys.readouterr().err
    seen.clear()

    start = SegmentationTask.on_train_batch_start

    def stop(self: SegmentationTask, batch: Any, batch_idx: int) -> None:
        start(self, batch, batch_idx)
        if batch_idx == 2:
            self.trainer.callbacks[-1]._request_stop(signal.SIGINT, None)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "on_train_batch_start", stop)
        with pytest.raises(TrainingError, match="after step 3 of 8"):
            train(config, tmp_path / "run")
    assert read_position(tmp_path / "run").channels_last is True
    measured(1.1)  # by a later version
    train(config, tmp_path / "run", resume=True)
    assert seen == straight


def test_a_checkpoint_of_before_there_was_a_choice_is_torchs_own(tmp_path: Path) -> None:
    fields = position_fields(Position(step=3, world_size=1))
    del fields["channels_last"]
    torch.save({"terrafuse": fields}, tmp_path / "last.ckpt")
    assert read_position(tmp_path).channels_last is False


def test_shards_have_no_layout() -> None:
    config = TrainingConfig(strategy="fsdp", channels_last=True, accelerator="cpu", devices=2)
    with pytest.raises(ConfigError, match=r"channels_last cannot be used with .*: shards are flat"):
        check_trainer(config)
