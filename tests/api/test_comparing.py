"""`compare`: which runs belong together, what is refused, what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terrafuse import api
from terrafuse.api.comparing import Setting, judge_rows
from terrafuse.errors import ConfigError, ScoresError
from terrafuse.evaluation.blocks import find_blocks
from terrafuse.evaluation.comparison import Effect
from terrafuse.evaluation.comparison.checking import check_same_ground
from terrafuse.evaluation.evidence import CELL_PX, Cells, Evidence, read_evidence, write_evidence

from ..helpers.small_evidence import evidence_of, scored_scene

pytestmark = pytest.mark.usefixtures("without_figures")

SIDE = 8 * CELL_PX
LABELS = (np.add.outer(np.arange(SIDE), np.arange(SIDE)) // 24 % 3).astype(np.uint8)
SCENE = scored_scene(0, LABELS, bytes={"s1": 100, "s2": 200})


def evidence(wrong: float, seed: int, **facts: Any) -> Evidence:
    """A run that is wrong in a share of its pixels, which is the same in all cells."""
    rng = np.random.default_rng([seed, int(1000 * wrong)])
    missed = rng.random(LABELS.shape) < wrong + 0.002 * rng.standard_normal()
    return _counted((LABELS + missed.astype(np.uint8)) % 3, {"seed": seed, **facts})


def _counted(found: np.ndarray[Any, Any], facts: dict[str, Any]) -> Evidence:
    """As `evidence_of`, by whole arrays: it is asked for often."""
    small = evidence_of([LABELS[:64, :64]], [[found[:64, :64]]], subsets=[("s1", "s2")], **facts)
    codes = (LABELS.astype(np.int64) * 4 + found).reshape(8, 64, 8, 64).swapaxes(1, 2)
    counts = np.stack([np.bincount(c.ravel(), minlength=12) for c in codes.reshape(64, 64, 64)])
    table = type(small.tables["confusion"])(counts)
    cells = Cells.of([LABELS.shape])
    return replace(small, scenes=(SCENE,), cells=cells, tables={"confusion": table})


def write_run(folder: Path, own: Evidence, name: str = "evidence.npz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_evidence(folder / name, own)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three seeds of late fusion, and two of early fusion, which is worse."""
    wrong = {"late": (0.20, 3), "early": (0.26, 2)}
    return [
        write_run(tmp_path / f"{name}-{seed}", evidence(share, seed, settings=name, method=name))
        for name, (share, seeds) in wrong.items()
        for seed in range(seeds)
    ]


def test_runs_that_differ_in_the_seed_are_one_setting(runs: list[Path]) -> None:
    found = api.compare(runs, metrics=["miou", "iou:crop"])
    other = api.compare(runs, metrics=["miou"], seed=1).comparison.effects[0].difference
    assert other.value == found.comparison.effects[0].difference.value
    assert other.low != found.comparison.effects[0].difference.low
    assert {s.name: s.runs for s in found.settings} == {
        "late": tuple(runs[:3]), "early": tuple(runs[3:]),
    }  # fmt: skip
    assert found.blocks.count == 64
    (effect,) = found.comparison.of("miou")
    assert (effect.a, effect.b, effect.better) == ("late", "early", "late")
    assert 0.05 < effect.difference.low < effect.difference.value < effect.difference.high < 0.11
    values = found.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["blocks"]["side_px"] == 64
    assert [own["name"] for own in values["settings"]] == ["late", "early"]
    assert {own["score"] for own in values["comparisons"]} == {"miou", "iou:crop"}
    assert values["notes"] == []


def test_runs_alone_or_by_patterns(runs: list[Path]) -> None:
    alone = api.compare(runs, groups="alone", metrics=["oa"], against=runs[3])
    assert [own.name for own in alone.settings] == [run.name for run in runs]
    assert [(e.a, e.b) for e in alone.comparison.effects] == [
        (run.name, "early-0") for run in runs if run != runs[3]
    ]
    assert "say nothing about other seeds" in alone.notes[0]
    mixed = api.compare(runs, groups="first=*-0, rest=*-[12]", metrics=["oa"], against="rest")
    assert [len(own.runs) for own in mixed.settings] == [2, 3]
    with pytest.raises(ConfigError, match=r"run 'late-1' fits no group .*leave the run out"):
        api.compare(runs, groups="first=*-0,last=*-2")
    api.compare([runs[0], runs[2], runs[3]], groups="first=*-0,last=*-2", metrics=["oa"])
    with pytest.raises(ConfigError, match="fits the groups all and early"):
        api.compare(runs, groups="all=*,early=early*")
    with pytest.raises(ConfigError, match="is neither 'settings' nor 'alone' nor a list"):
        api.compare(runs, groups="each")
    with pytest.raises(ConfigError, match="Did you mean 'late'"):
        api.compare(runs, against="lat")


def test_one_setting_is_nothing_to_compare(runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"all 3 runs are seeds of one setting .*--groups alone"):
        api.compare(runs[:3])
    assert len(api.compare(runs[:3], groups="alone", metrics=["oa"]).comparison.effects) == 3
    with pytest.raises(ConfigError, match=r"one run \('late-0'\) and nothing to compare it with"):
        api.compare(runs[:1])
    assert api.compare([runs[0], runs[3]], metrics=["oa"]).comparison.effects


def test_a_run_is_counted_once(runs: list[Path]) -> None:
    found = api.compare([*runs, runs[0], runs[0] / ".." / runs[0].name], metrics=["oa"])
    assert [len(own.runs) for own in found.settings] == [3, 2]


def test_seeds_are_paired_where_both_have_them(runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"'late' has 0, 1, 2, 'early' has 0, 1\. Leave out"):
        api.compare(runs, pair_seeds=True)
    same = [runs[4], runs[3], *runs[:2]]
    found = api.compare(same, pair_seeds=True, metrics=["oa"])
    assert found.comparison.paired
    assert [run.name for run in found.settings[0].runs] == ["early-0", "early-1"]
    # Equal numbers alone pair nothing.
    alone = api.compare(same, metrics=["oa"]).comparison
    assert not alone.paired
    assert alone.effects[0].to_dict()["seeds"] != found.comparison.effects[0].to_dict()["seeds"]


def test_rows_of_a_sweep_are_settings(runs: list[Path]) -> None:
    folder = runs[0].parent
    rows = [
        {"name": run.name, "group": "g", "title": run.name[:4], "seed": 0, "scores": {}}
        for run in runs
    ]
    unfinished = {"name": "late-9", "group": "g", "title": "late", "seed": 9}
    results = folder / "results.json"
    results.write_text(json.dumps({"runs": [*rows, unfinished]}))
    found = api.compare(folder, metrics=["oa"])
    assert {own.name: len(own.runs) for own in found.settings} == {"late": 3, "earl": 2}
    results.write_text(json.dumps({"runs": [rows[0], {**rows[3], "group": "h", "title": "late"}]}))
    assert {own.name for own in api.compare(folder).settings} == {"g: late", "h: late"}
    results.write_text(json.dumps({"runs": [unfinished]}))
    with pytest.raises(ScoresError, match=r"no run of the sweep .*Resume it"):
        api.compare(folder)
    results.write_text("{")
    with pytest.raises(ScoresError, match=r"is damaged .*Run the sweep's command again"):
        api.compare(folder)


def test_counts_of_another_split_judge_no_rows(runs: list[Path]) -> None:
    settings = [Setting("late", tuple(runs[:3])), Setting("early", tuple(runs[3:]))]
    found = judge_rows(settings, "test", ["oa"], ["crop"])
    assert found.comparison.columns == ("oa", "iou:crop")
    path = runs[4] / "evidence.npz"
    write_evidence(path, facts(split="val")(read_evidence(path)))
    with pytest.raises(ScoresError, match=r"early-1.*is of split 'val', the scores are of 'test'"):
        judge_rows(settings, "test", ["oa"], ["crop"])


def test_no_evidence_names_the_command(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match=r"is neither a run .* nor a sweep"):
        api.compare([*runs, tmp_path / "nowhere"])
    (tmp_path / "old").mkdir()
    (tmp_path / "old/model.json").write_text("{}")
    with pytest.raises(ScoresError, match=r"old/evidence.npz.*terrafuse evaluate RUN"):
        api.compare([*runs, tmp_path / "old"])
    with pytest.raises(ScoresError, match=r"evidence_events.npz' \(but evidence.npz\)"):
        api.compare(runs, evidence="metrics_events.json")


def test_scores_of_another_file_are_found_by_name(runs: list[Path]) -> None:
    for run in runs:
        write_run(run, read_evidence(run / "evidence.npz"), "evidence_events_any.npz")
    found = api.compare(runs, evidence="events_any", metrics=["oa"])
    assert found.comparison.of("oa")[0].better == "late"


def scenes(**values: Any) -> Callable[[Evidence], Evidence]:
    return lambda own: replace(own, scenes=(replace(own.scenes[0], **values),))


def facts(**values: Any) -> Callable[[Evidence], Evidence]:
    return lambda own: replace(own, facts={**own.facts, **values})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (scenes(id="other"), r"test areas differ \(scenes that only the first .*'scene 0'; scenes"),
        (scenes(labels="0" * 16), r"labels differ in scenes 'scene 0'\. Evaluate both"),
        (scenes(height=SIDE // 2, width=2 * SIDE), r"labels differ in scenes 'scene 0'"),
        (scenes(bytes={"s2": 201}), r"modality 's2' was of another version of the data in .*0'"),
        (facts(classes=["bare", "crop", "sea"]), "their classes are bare, crop, water and bare,"),
        (facts(scored_classes=["crop"]), r"evaluation\.mean_over of the other"),
        (facts(class_mean="reference"), r"in 'present' of one and 'reference' of the other"),
        (facts(reference="labels_eroded"), r"evaluate RUN -s evaluation\.reference=…"),
    ],
)
def test_what_was_not_scored_alike_is_refused(
    runs: list[Path], change: Callable[[Evidence], Evidence], text: str
) -> None:
    path = runs[4] / "evidence.npz"
    write_evidence(path, change(read_evidence(path)))
    with pytest.raises(ScoresError, match=text):
        api.compare(runs)
    api.compare(runs[:4], metrics=["oa"])


def test_scenes_are_compared_one_by_one() -> None:
    labels = [np.full((64, 64), k, np.uint8) for k in range(2)]
    known = [{"s1": 5}, {"s1": 5, "dsm": 9}]
    scenes = [scored_scene(k, own, bytes=known[k]) for k, own in enumerate(labels)]
    own = evidence_of(labels, [labels], scenes=scenes)
    check_same_ground({"one": own, "two": replace(own)})
    other = replace(own, scenes=own.scenes[::-1])
    with pytest.raises(ScoresError, match=r"'one' and 'three' .* same scenes in another order"):
        check_same_ground({"one": own, "two": own, "three": other})
    newer = replace(scenes[1], bytes={"s1": 5, "dsm": 8})
    with pytest.raises(ScoresError, match=r"'dsm' was of another version .* scenes 'scene 1': its"):
        check_same_ground({"one": own, "two": replace(own, scenes=(scenes[0], newer))})


def test_modalities_that_only_one_has_are_no_other_version(runs: list[Path]) -> None:
    path = runs[4] / "evidence.npz"
    write_evidence(path, scenes(bytes={"dsm": 7, "s1": 100})(read_evidence(path)))
    api.compare(runs, metrics=["oa"])


def test_boundaries_of_other_tolerances_are_left_out_or_refused(runs: list[Path]) -> None:
    for run, tolerance in ((runs[0], 1.0), (runs[4], 2.0)):
        path = run / "evidence.npz"
        write_evidence(path, facts(boundary_tolerance_px=tolerance)(read_evidence(path)))
    found = api.compare(runs)
    assert "boundary_f1" not in found.comparison.columns
    assert "boundary F1 is left out" in found.notes[0]
    with pytest.raises(ScoresError, match=r"boundary_tolerance_px=…\), or leave out boundary_f1"):
        api.compare(runs, metrics=["boundary_f1"])


def test_blocks_suit_every_run(runs: list[Path]) -> None:
    path = runs[4] / "evidence.npz"
    write_evidence(path, facts(crop_size=256)(read_evidence(path)))
    blocks = api.compare(runs, metrics=["oa"]).blocks
    assert (blocks.side_px, blocks.count, blocks.reason) == (256, 4, "a window of the model")


def test_correlation_between_blocks_widens_what_is_said(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def effect(widening: float) -> Effect:
        monkeypatch.setattr(
            "terrafuse.api.comparing.find_blocks",
            lambda *own: replace(find_blocks(*own), widening=widening),
        )
        return api.compare(runs, metrics=["oa"]).comparison.effects[0]

    assert effect(9.0).ground == pytest.approx(3 * effect(1.0).ground)


def test_one_block_tells_nothing_and_says_so(runs: list[Path]) -> None:
    found = api.compare(runs, block_size=512, metrics=["oa"])
    assert found.blocks.count == 1
    (effect,) = found.comparison.effects
    assert effect.better is None
    assert effect.to_dict()["difference"]["low"] is None
    assert effect.needs == "6 blocks or more; there are 1"


def test_the_command_prints_all_forms(runs: list[Path], command_line: Any, tmp_path: Path) -> None:
    status, said, errors = command_line("compare", *runs)
    assert status == 0, errors
    assert "64 blocks of 64 pixels (a window of the model)" in said
    assert "late is better" in said
    assert "early    2" in said
    picture, out = tmp_path / "forest.png", tmp_path / "table.md"
    status, said, _ = command_line(
        "compare", *runs, "--format", "markdown", "--metrics", "miou,iou", "--figure", picture,
        "--out", out,
    )  # fmt: skip
    assert (status, said) == (0, "")
    text = out.read_text()
    assert "| A | B | A − B | p | detectable | verdict |" in text
    assert "| IoU crop | late | early | +" in text
    assert picture.read_bytes()[1:4] == b"PNG"
    status, said, _ = command_line("compare", *runs, "--format", "latex")
    assert r"\toprule" in said
    assert said.count(r"\begin{tabular}") == said.count(r"\end{tabular}") == 5
    status, said, _ = command_line("compare", *runs, "--json", "--metrics", "oa")
    assert json.loads(said)["comparisons"][0]["better"] == "late"
    for option, text in (
        (("--format", "html"), "unknown --format 'html'"),
        (("--figure", "a.txt"), "name a .png, .svg or .pdf file"),
    ):
        status, _, errors = command_line("compare", *runs, *option)
        assert status == 2
        assert text in errors


def test_many_settings_have_letters(runs: list[Path], command_line: Any, tmp_path: Path) -> None:
    for number in range(3):
        share = 0.3 + 0.05 * number
        write_run(tmp_path / f"row{number}", evidence(share, 0, settings=f"row {number}"))
    folders = [*runs, *(tmp_path / f"row{number}" for number in range(3))]
    picture = tmp_path / "matrix.svg"
    status, said, errors = command_line(
        "compare", *folders, "--groups", "alone", "--metrics", "miou", "--figure", picture
    )
    assert status == 0, errors
    assert "Settings that share a letter cannot be told apart" in said
    lines = {line.split()[0]: line.split()[-1] for line in said.splitlines() if "(" in line[20:]}
    assert lines["row2"] > lines["row1"] > lines["row0"] > lines["early-0"] > lines["late-0"]
    assert "verdict" not in said
    assert picture.read_text().startswith("<?xml")
