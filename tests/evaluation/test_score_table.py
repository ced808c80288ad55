"""One entry in the table of scores, and a score is there wherever scores are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from terrafuse.api.sweep_choice import choose_value
from terrafuse.api.sweep_plan import Candidates, SweepRun
from terrafuse.classes import ClassScheme
from terrafuse.cli.tables import print_metrics, print_model
from terrafuse.config import RunConfig, TrainingConfig
from terrafuse.errors import ConfigError
from terrafuse.evaluation import SCORES, Judged, ScoreKind, score_values, subset_report
from terrafuse.reports import curves_figure, run_report
from terrafuse.reports.sweep_tables import write_tables
from terrafuse.training.validation import Validation, check_monitor

NAMES = ("a", "b", "c")
#: IoU 50/65, 30/50 and 0/5; class c is not in the reference.
MATRIX = np.array([[50, 10, 0], [5, 30, 5], [0, 0, 0]])

WORST = ScoreKind(
    name="worst_iou",
    label="worst IoU",
    title="IoU of the worst class",
    formula="min of IoU",
    undefined="no class is defined",
    compute=lambda judged: judged.worst(judged.classes.iou),
)


def count_errors(judged: Judged) -> float:
    return float(judged.matrix.sum() - np.trace(judged.matrix))


ERRORS = ScoreKind(
    name="errors",
    label="errors, px",
    title="wrong pixels",
    formula="N − Σ TP",
    undefined="never",
    compute=count_errors,
    high=np.inf,
    higher_is_better=False,
)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "worst_iou", WORST)
    monkeypatch.setitem(SCORES, "errors", ERRORS)


def metrics(matrix: np.ndarray = MATRIX) -> dict[str, Any]:
    """As `evaluate` returns them."""
    subset = subset_report(matrix, NAMES, "reference") | {"pixels": 100, "unmapped": 0}
    return {
        "format": 1, "split": "test", "scenes": 1, "pixels": 100, "unmapped": 0,
        "classes": list(NAMES), "full": "s1", "settings": {}, "subsets": {"s1": subset},
        "per_scene": {},
    }  # fmt: skip


@pytest.mark.usefixtures("added")
def test_an_added_score_is_in_the_metrics() -> None:
    scores = subset_report(MATRIX, NAMES, "reference")["scores"]
    assert list(scores)[-2:] == ["worst_iou", "errors"]
    assert scores["worst_iou"] == pytest.approx(0.6)  # c is not in the reference
    assert scores["errors"] == 20
    assert score_values(MATRIX, "present")["worst_iou"] == 0  # c is mapped
    assert score_values(MATRIX, "present", mean_over=[0])["worst_iou"] == pytest.approx(50 / 65)
    nothing = score_values(np.zeros((2, 2), np.int64))
    assert nothing["worst_iou"] is None
    assert nothing["errors"] == 0


@pytest.mark.usefixtures("added")
def test_an_added_score_is_on_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_metrics(metrics())
    shown = capsys.readouterr().out
    head = next(line for line in shown.splitlines() if "kappa" in line)
    assert re.search(r"boundary F1\W+worst IoU\W+errors, px", head)
    assert re.search(r"s1 .*\s60\.0\W+20\W", shown)
    overview: dict[str, Any] = {
        "modalities": {}, "classes": [], "method": "m", "backbones": [], "alike_bands": [],
        "scores": {"s1": {"oa": 0.8, "worst_iou": 0.6}}, "parts": [], "saved_values": 0,
        "total": {"parameters": 0, "trainable": 0, "frozen": 0}, "cost": {"error": "none"},
        "augmentation": [],
    }  # fmt: skip
    print_model(overview)
    assert "scores of s1 in %: OA 80.0, worst IoU 60.0" in capsys.readouterr().out


@pytest.mark.usefixtures("added")
def test_an_added_score_is_in_the_report_and_the_lower_one_is_marked(tmp_path: Path) -> None:
    better = np.array([[60, 0, 0], [0, 40, 0], [0, 0, 0]])
    page = run_report(
        tmp_path / "report.html", title="Two", scenes=[], curves=None,
        metrics={"one": metrics(), "two": metrics(better)}, scheme=ClassScheme(NAMES),
    ).read_text(encoding="utf-8")  # fmt: skip
    for label in ("mIoU", "worst IoU", "errors, px"):
        assert f">{label}</th>" in page
    _, *rows = page.split("</table>")[0].split('<th scope="row">')  # of the first table
    one, two = rows
    assert '<td class="number best">0.000</td>' in two  # no errors
    assert '<td class="number">20.000</td>' in one
    assert '<td class="number best">1.000</td>' in two


@pytest.mark.usefixtures("added")
def test_an_added_score_is_in_the_tables_of_a_sweep(tmp_path: Path) -> None:
    job = cast(SweepRun, SimpleNamespace(name="a-0", group="", title="a", seed=0, row=("", "a")))
    costs = {"parameters": 1, "trainable": 1, "flops": 1, "crop_size": 8, "ms_per_megapixel": 1}
    facts = {"version": "1", "date": "d", "machine": "m", "split": "test"}
    record = {"scores": score_values(MATRIX), "iou": {"a": 0.5}, **costs, **facts}
    results = write_tables(tmp_path, [job], {"a-0": record}, {})
    scores = results["rows"][0]["scores"]
    assert list(scores) == ["mIoU", "mPA", "worst IoU", "errors, px", "IoU a"]
    assert scores["errors, px"]["mean"] == 20
    assert "| worst IoU | errors, px |" in (tmp_path / "table.md").read_text()


class Replayed(Validation):
    """Validations whose scores are given."""

    def __init__(self, monitor: str, values: list[float]) -> None:
        config = RunConfig.model_validate(
            {
                "data": {"manifest": "d.yaml"},
                "method": {"name": "tiny"},
                "training": {"monitor": monitor},
            }
        )
        display = SimpleNamespace(title=lambda *_: None)
        super().__init__(
            cast(Any, ["scene"]), ClassScheme(NAMES), config, Path("best.pt"),
            step_log=cast(Any, SimpleNamespace(write=lambda *_: None)),
            progress=cast(Any, SimpleNamespace(display=display, score="")),
        )  # fmt: skip
        self.values = iter(values)

    def _score(self, *_: Any) -> dict[str, float | None]:
        return {self.config.training.monitor: next(self.values)}

    def keeps(self) -> bool:
        module: Any = SimpleNamespace(device="cpu")
        return self._is_better(cast(Any, None), cast(Any, None), module)


@pytest.mark.usefixtures("added")
def test_monitor_takes_an_added_score_in_its_own_direction() -> None:
    check_monitor(TrainingConfig(monitor="errors"))
    with pytest.raises(ConfigError, match="'boundary_f1'"):
        check_monitor(TrainingConfig(monitor="boundary_f1"))
    falling = Replayed("errors", [30, 10, 20, 5])
    assert [falling.keeps() for _ in range(4)] == [True, True, False, True]
    assert falling.best_score == 5
    rising = Replayed("worst_iou", [0.3, 0.1, 0.2, 0.5])
    assert [rising.keeps() for _ in range(4)] == [True, False, False, True]


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize(("monitor", "chosen"), [("errors", "1e-2"), ("worst_iou", "1e-1")])
def test_a_row_chooses_in_the_direction_of_the_score(
    tmp_path: Path, monitor: str, chosen: str
) -> None:
    """By the best validation of each run, which is neither its first nor its last."""
    logs = {"1e-1": (50, 30, 40), "1e-2": (60, 10, 20), "1e-3": (25, 15, 70)}
    jobs = []
    for value, scores in logs.items():
        folder = tmp_path / value
        folder.mkdir()
        lines = [f"{step},{score}" for step, score in enumerate(scores)]
        (folder / "log.csv").write_text("\n".join([f"step,val_{monitor}", *lines]) + "\n")
        training = TrainingConfig(monitor=monitor, validate_every=1)
        jobs.append(
            SimpleNamespace(
                name=value, title="row", folder=folder, config=SimpleNamespace(training=training)
            )
        )
    if monitor == "worst_iou":
        (tmp_path / "1e-1" / "log.csv").write_text(f"step,val_{monitor}\n1,90\n2,1\n")
    candidates = Candidates("training.lr", tuple(logs))
    choice = choose_value(candidates, cast(Any, jobs), lambda job: job.folder, lambda _: None)
    assert choice.value == chosen


@pytest.mark.usefixtures("added")
def test_curves_mark_the_lowest_of_a_falling_score() -> None:
    rows = [{"step": s, "val_errors": v} for s, v in ((1, 30), (2, 10), (3, 20))]
    (axes,) = curves_figure(rows, score="errors").axes
    assert [text.get_text() for text in axes.texts] == ["10.000"]


def test_values_lie_in_the_stated_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        matrix = rng.integers(0, 9, (3, 3))
        boundary = rng.random(3)
        values = score_values(matrix, boundary_f1=boundary)
        json.dumps(values)
        for name, value in values.items():
            assert value is not None
            assert SCORES[name].low <= value <= SCORES[name].high
