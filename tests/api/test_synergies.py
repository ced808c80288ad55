"""Verb `synergy`: report and figures of a run folder, stopped and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stored_run import place_run
from terrafuse import api
from terrafuse.cli.app import app
from terrafuse.errors import ConfigError, ScoresError
from terrafuse.evaluation.evidence import read_evidence
from terrafuse.prediction import Calibration, SubsetCalibration
from terrafuse.reports import synergy_sentences, synergy_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained when nodata:UserWarning")


@pytest.fixture
def run(tmp_path: Path) -> api.Run:
    """A run folder of two modalities with its data."""
    return api.load(place_run(tmp_path))


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else."""
    monkeypatch.setattr("terrafuse.api.synergies.write_synergy_figures", lambda *_: {})


def test_a_report_says_what_each_modality_brings(run: api.Run) -> None:
    said: list[str] = []
    seen: list[tuple[int, int]] = []
    report = api.synergy(
        run, split="val", tests=["pairing", "cloud"], costs={"s1": "0 €", "s2": "12 €"},
        device="cpu", say=said.append, test_progress=lambda *x: seen.append(x),
    )  # fmt: skip
    assert report == api.read_synergy(run.folder / "synergy.json")
    metrics = json.loads((run.folder / "metrics.json").read_text())
    mean = report["mean"]
    for name, subset in metrics["subsets"].items():
        assert mean["subsets"][name]["value"] == pytest.approx(subset["scores"]["miou"])
    shares = sum(share["value"] for share in mean["shares"].values())
    assert shares == pytest.approx(mean["gain"]["value"], abs=1e-9)
    assert [(row["test"], row["modality"]) for row in report["tests"]] == [
        ("pairing", "s2"), ("pairing", "s1"), ("cloud", "s2"),
    ]  # fmt: skip
    assert report["left_out"] == ["cloud of s1: its kind is sar, and clouds are in optical images"]
    own = {"from_other_scenes": 0, "from_half_the_scene_away": 1}
    assert report["pairing"] == {"s2": own, "s1": own}
    assert [row["subset"] for row in report["confidence"]] == [["s2", "s1"], ["s2"], ["s1"]]
    assert said[0] == "3 stress tests: the scenes are mapped 3 more times"
    assert seen[-1][0] == seen[-1][1] > 0
    for file in report["figures"].values():
        assert (run.folder / file).stat().st_size > 5000
    tables = synergy_tables(report)
    assert [row[tables[0].header.index("cost per km2")] for row in tables[0].rows] == [
        "12 €",
        "0 €",
        "",
    ]
    assert len(synergy_sentences(report)) == 4
    # A single block says nothing on how sure the numbers are.
    assert report["blocks"]["number"] == 1
    assert "too few blocks" in synergy_sentences(report)[0]
    assert not list(run.folder.glob("scored*"))


@pytest.mark.usefixtures("no_figures")
def test_finished_tests_are_not_run_again(run: api.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    how: dict[str, Any] = {"split": "val", "tests": ["strips", "pairing"], "device": "cpu"}
    whole = api.synergy(run, **how)
    from terrafuse.api import synergies

    calls: list[int] = []
    scored = synergies.evaluate_scenes

    def stop_at_third(*args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scored(*args, **options)

    monkeypatch.setattr(synergies, "evaluate_scenes", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        api.synergy(run, **how)
    kept = sorted(path.name for path in (run.folder / "scored_altered").iterdir())
    assert kept == ["strips-s1-0.3.npz", "strips-s2-0.3.npz"]
    assert "altered" in read_evidence(run.folder / "scored_altered" / kept[0]).facts
    (run.folder / "scored_altered" / kept[1]).write_bytes(b"torn")
    assert api.synergy(run, **how, resume=True) == whole
    assert len(calls) == 6  # the torn one again, and two of another place
    assert not (run.folder / "scored_altered").exists()


@pytest.mark.usefixtures("no_figures")
def test_altered_inputs_are_as_calibrated_as_the_scores(
    run: api.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of nothing changes nothing: neither with a temperature nor without.

    Nor are results of the other kind gone on with, which a stopped call has left.
    """
    monkeypatch.setattr("terrafuse.evaluation.synergy.stress.DEVIATIONS", (0.0,))
    monkeypatch.setattr("terrafuse.api.synergies._AlteredScores.remove", lambda _: None)
    own = SubsetCalibration(4.0)
    hot = replace(run, calibration=Calibration("s2+s1", {"s2+s1": own, "s2": own}))
    found = {}
    for calibrated in (True, False):
        metrics = hot.evaluate(split="val", subsets=True, device="cpu", calibrated=calibrated)
        report = api.synergy(
            hot, split="val", tests=["noise"], metrics=metrics, device="cpu", resume=True
        )
        assert len(report["tests"]) == 2
        for row in report["tests"]:
            assert row["fall"]["confidence"]["value"] == 0
        found[calibrated] = report["confidence"][0]["confidence"]["value"]
    assert found[True] != found[False]


@pytest.mark.usefixtures("no_figures")
def test_the_command_prints_tables_and_json(run: api.Run) -> None:
    command = ["evaluate", str(run.folder), "--split", "val", "--synergy", "--no-report"]
    command += ["--device", "cpu", "--synergy-tests", "none"]
    shown = CliRunner().invoke(app, [*command, "--cost", "s1=free"])
    assert shown.exit_code == 0, shown.output
    for text in ("what each modality brings", "free", "does confidence fall", "s2 brings"):
        assert text in shown.output
    found = CliRunner().invoke(app, [*command, "--json"])
    metrics = json.loads(found.stdout)
    assert metrics["synergy"]["tests"] == []
    assert (
        metrics["synergy"]["mean"]["gain"]
        == api.read_synergy(run.folder / "synergy.json")["mean"]["gain"]
    )


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [("--synergy-tests", "fog", "stress test 'fog'"), ("--cost", "s3=1", "with a cost 's3'")],
)
def test_a_wrong_name_is_found_before_anything_is_scored(
    run: api.Run, option: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.Run, "evaluate", lambda *_, **__: pytest.fail("scored"))
    command = ["evaluate", str(run.folder), "--synergy", option, value]
    failed = CliRunner().invoke(app, command)
    assert isinstance(failed.exception, ConfigError)
    assert text in str(failed.exception)


def test_what_does_not_suit_is_refused(run: api.Run) -> None:
    with pytest.raises(ConfigError, match="modality with a cost 's3'"):
        api.synergy(run, costs={"s3": "1"})
    with pytest.raises(ConfigError, match="stress test 'fog'"):
        api.synergy(run, tests=["fog"])
    with pytest.raises(ScoresError, match="--synergy"):
        api.read_synergy(run.folder / "synergy.json")
    command = ["evaluate", str(run.folder)]
    for options, text in (
        (["--synergy", "--shard", "1/2"], "--shard has an effect only without --synergy"),
        (["--cost", "s1=2"], "--cost has an effect only with --synergy"),
    ):
        failed = CliRunner().invoke(app, [*command, *options])
        assert isinstance(failed.exception, ConfigError) or failed.exit_code == 2
        assert text in failed.output + str(failed.exception)
