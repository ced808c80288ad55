"""More scenes than are checked before training: a part, spread evenly, and the rest when read."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from terrafuse.data import handles, load_manifest, open_dataset, stored
from terrafuse.data.kept import Keeper
from terrafuse.doctor import Finding, check_manifest
from terrafuse.errors import DataError, RasterReadError, TerrafuseError
from terrafuse.training import survey
from terrafuse.training.train import train

training: Any = sys.modules["terrafuse.training.train"]  # a function has the same name
Make = Callable[..., Any]
SPLITS = ("train",) * 6 + ("val",) * 2
CHECKED = (0, 2, 4, 6)


class Said:
    """Display that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, title: str) -> None:
        del title

    def say(self, text: str) -> None:
        self.lines.append(text)


class NeedsAll:
    """What the check asks of a model."""

    supports_missing = False


@pytest.fixture
def path(make_dataset: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(survey, "MOST_CHECKED", len(CHECKED))
    made: Path = make_dataset(SPLITS)
    return made


def cut(path: Path) -> None:
    """Leave what tells where the pixels are, and none of them."""
    path.write_bytes(path.read_bytes()[:600])


def test_some_are_checked_and_that_is_said(
    path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real = set(), stored.open_stored

    def note(spec: str) -> Any:
        opened.add(Path(spec).name)
        return real(spec)

    config, display = make_config(path), Said()
    manifest = open_dataset(config.data)
    monkeypatch.setattr(handles, "open_stored", note)

    def check() -> None:
        facts = survey.KeptFacts(Keeper(), config, manifest)
        training._check_data(facts, NeedsAll(), display)

    # Without the pass for training, which reads all: it has been made.
    monkeypatch.setattr(survey, "_may_survey", lambda _: False)
    check()
    assert opened == {f"{name}{n}.tif" for name in ("a", "b", "labels") for n in CHECKED}
    assert display.lines == [
        "checked 4 of 8 scenes, spread evenly; a fault of another one ends the run when it is "
        f"read. To check all: 'terrafuse data check {path}'"
    ]
    monkeypatch.setattr(survey, "MOST_CHECKED", len(SPLITS))
    check()
    assert len(opened) == 3 * len(SPLITS)
    assert len(display.lines) == 1


@pytest.mark.parametrize(
    ("file", "id", "last"),
    [
        ("a2.tif", "scene2", "checking data"),
        ("a3.tif", "scene3", "measuring statistics"),
        ("labels5.tif", "scene5", "counting labels"),
        ("b7.tif", "scene7", ""),  # when it is validated on
    ],
)
def test_a_bad_scene_is_named_when_it_is_met(
    path: Path, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    file: str, id: str, last: str,
) -> None:  # fmt: skip
    titles: list[str] = []
    real = training.Display.stage

    def stage(self: Any, title: str, *more: Any) -> Any:
        titles.append(title)
        return real(self, title, *more)

    monkeypatch.setattr(training.Display, "stage", stage)
    cut(path.with_name(file))
    with pytest.raises(TerrafuseError, match=id) as told:
        train(make_config(path), tmp_path / "run", progress=False)
    assert isinstance(told.value, DataError | RasterReadError)
    assert file in str(told.value)
    if last:
        assert titles[-1] == last
    # The command that the line names tells it before.
    findings = check_manifest(load_manifest(path), deep=False)
    assert [f.scene for f in findings if f.severity == "error"] == [id]


def errors(path: Path, **how: Any) -> list[Finding]:
    found = check_manifest(load_manifest(path), deep=False, **how)
    return [finding for finding in found if finding.severity != "note"]


def test_of_a_part_nothing_is_said_to_lack(path: Path) -> None:
    """The scenes that are checked have no labels, and the others do."""
    text = path.read_text()
    for n in CHECKED:
        text = text.replace(f"  labels: labels{n}.tif\n", "")
    path.write_text(text)
    assert {f.code for f in errors(path, most=4)} == {"no-labels"}
    assert {f.scene for f in errors(path, most=4)} == {f"scene{n}" for n in CHECKED[:3]}
    for n in range(len(SPLITS)):
        text = text.replace(f"  labels: labels{n}.tif\n", "")
    path.write_text(text)
    told = [f.message for f in errors(path, most=4) if f.severity == "error"]
    assert told == ["no scene of split 'train' has labels"]


def test_a_class_without_pixels_is_told_once(
    path: Path, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = path.read_text().replace("code: 1", "code: 1\n- name: ice\n  code: 2")
    path.write_text(values)
    for most in (len(CHECKED), len(SPLITS)):
        monkeypatch.setattr(survey, "MOST_CHECKED", most)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(make_config(path, training={"steps": 1}), tmp_path / f"run{most}", progress=False)
        told = [w for w in caught if "class 'ice' has no pixel in" in str(w.message)]
        assert len(told) == 1
