"""The report of runs, from metrics as evaluation writes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terrafuse import __version__
from terrafuse.classes import ClassScheme
from terrafuse.errors import OutputError
from terrafuse.reports import class_map_image, run_report
from terrafuse.reports.run import describe_environment

SCHEME = ClassScheme(("dry", "flooded"))


def subset(miou: float | None) -> dict[str, Any]:
    per_class = {
        "dry": {"iou": 0.9, "f1": 0.947, "recall": 0.95, "precision": 0.94, "boundary_f1": None},
        "flooded": {"iou": None, "f1": None, "recall": None, "precision": None},
    }
    for values in per_class.values():
        values |= {"pixels": 12345, "predicted": 12000}
    return {
        "scores": {"oa": 0.91, "mpa": 0.8, "miou": miou, "mf1": None, "boundary_f1": None},
        "averaged": {"miou": 1, "mpa": 1},
        "per_class": per_class,
        "matrix": [[12000, 345], [0, 0]],
    }


def metrics(full: str, miou: float | None, *others: str) -> dict[str, Any]:
    return {
        "format": 1, "split": "test", "scenes": 3, "pixels": 1234567, "classes": ["dry", "flooded"],
        "full": full, "settings": {"crop_size": 128, "aggregation": "global"},
        "subsets": {full: subset(miou)} | {name: subset(0.3) for name in others}, "per_scene": {},
    }  # fmt: skip


@pytest.fixture
def scenes() -> list[dict[str, Any]]:
    truth = np.array([[0, 1], [255, 0]]).repeat(8, 0).repeat(8, 1)
    photo = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    maps = {"truth": class_map_image(truth, SCHEME), "map": class_map_image(truth % 2, SCHEME)}
    return [{"name": "scene 0001", "images": {"s2": photo} | maps}]


def write(path: Path, **changes: Any) -> str:
    options: dict[str, Any] = {
        "title": "Floods", "scenes": [], "metrics": {}, "curves": None, "scheme": SCHEME,
    } | changes  # fmt: skip
    return run_report(path / "report.html", **options).read_text(encoding="utf-8")


def test_unusual_rules_stand_below_the_scores(tmp_path: Path) -> None:
    chosen = metrics("s1+s2", 0.7)
    chosen["settings"] |= {"selected_on": "test", "scored_classes": ["dry", "flooded"]}
    eroded = metrics("s2", 0.6)
    eroded["settings"] |= {"scored_classes": ["flooded"], "reference": "labels_eroded"}
    page = write(tmp_path, metrics={"both": chosen, "photo": eroded})
    assert "both: weights were selected on this split, so the scores are too optimistic." in page
    assert "photo: means cover 1 of 2 classes (flooded)." in page
    assert "photo: boundaries between classes are not scored." in page
    assert "both: means" not in page
    assert "Means cover 1 of 2 classes (flooded)." in write(tmp_path, metrics={"photo": eroded})
    usual = write(tmp_path, metrics={"plain": metrics("s2", 0.6)})
    assert "eans cover" not in usual
    assert "too optimistic" not in usual


def test_report_has_every_part(tmp_path: Path, scenes: list[dict[str, Any]]) -> None:
    log = tmp_path / "log.csv"
    log.write_text("step,loss,val_miou\n1,0.9,\n2,0.5,0.4\n")
    page = write(
        tmp_path,
        scenes=scenes,
        metrics={"both": metrics("s1+s2", 0.715, "s1", "s2"), "photo": metrics("s2", 0.6)},
        curves=log,
        timings={"train": 61.24, "map": 3.0},
        notes="Not the <real> thing.",
    )
    for heading in ("Scores", "Maps", "Classes", "Missing modalities", "Confusion", "Training"):
        assert f">{heading}</h2>" in page
    assert "Best by mIoU: both with 0.715, 11.5 points above photo (0.600)." in page
    assert '<td class="number best">0.715</td>' in page
    assert "On 3 scenes of the test split, 1\u202f234\u202f567 pixels." in page
    assert "Not the &lt;real&gt; thing." in page
    assert "scene 0001" in page
    assert 'data-under="0" data-over="2"' in page  # the map lies over the photo
    assert ">61.2<" in page
    assert ">64.2<" in page  # in all
    assert "classes in each mean: mIoU 1, mPA 1" in page
    assert f"terrafuse {__version__}" in page
    assert ">mF1<" not in page  # undefined in every run


def test_report_of_one_run_without_a_score(tmp_path: Path) -> None:
    page = write(tmp_path, metrics={"photo": metrics("s2", None)})
    assert "Best by mIoU" not in page
    assert "Missing modalities" not in page


def test_report_of_nothing_but_a_title(tmp_path: Path) -> None:
    page = write(tmp_path, curves=tmp_path / "absent.csv")
    assert "<h1>Floods</h1>" in page
    assert "<h2" not in page


def test_curves_may_be_several_runs(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}]
    page = write(tmp_path, curves={"one run": rows, "other run": rows})
    assert "<figcaption>one run</figcaption>" in page
    assert "<figcaption>other run</figcaption>" in page


def test_metrics_are_not_changed(tmp_path: Path) -> None:
    given = {"photo": metrics("s2", 0.5)}
    before = copy.deepcopy(given)
    write(tmp_path, metrics=given)
    assert given == before


def test_unreadable_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"step,loss\n1,\xff\xfe\n")
    with pytest.raises(OutputError, match=r"log\.csv' cannot be read"):
        write(tmp_path, curves=tmp_path / "log.csv")


def test_environment_is_one_line_without_host_names() -> None:
    import platform

    line = describe_environment()
    assert "\n" not in line
    assert "torch" in line
    assert not platform.node() or platform.node() not in line
