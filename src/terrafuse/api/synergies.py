"""Verb `synergy`: what each modality of a run brings, and how maps stand altered inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from terrafuse.api.mapping import Conversions
from terrafuse.api.runs import ChosenScenes, Run, load, results_name
from terrafuse.data import Scene
from terrafuse.errors import ConfigError, ScoresError, unknown_name
from terrafuse.evaluation import SCORED, OnMap, file_state, modality_subsets
from terrafuse.evaluation import evaluate as evaluate_scenes
from terrafuse.evaluation.evidence import (
    EVIDENCE,
    Evidence,
    TableName,
    read_evidence,
    write_evidence,
)
from terrafuse.evaluation.synergy import (
    TESTS,
    Alteration,
    Averaged,
    PlannedTest,
    StressTest,
    Unpaired,
    alter_scenes,
    find_tests,
    join_subsets,
    plan_tests,
    synergy_report,
)
from terrafuse.prediction import LEFT_OUT, Calibration, WindowSettings, WorkerSettings, absence
from terrafuse.progress import Progress
from terrafuse.reports import write_synergy_figures
from terrafuse.stopping import when_stopped
from terrafuse.weights import digest_values
from terrafuse.writing import claimed, is_own_folder, remove_files, write_json, written_whole

SYNERGY = "synergy"
_TABLES: tuple[TableName, ...] = ("confusion", "reliability")
_STOPPED = "finished tests are kept; run the same command with --resume"


def synergy(
    run: str | Path | Run,
    *,
    split: str | None = None,
    manifest: str | Path | None = None,
    scenes: Sequence[str] | None = None,
    convert: Conversions | None = None,
    trust_values: bool = False,
    windows: WindowSettings | None = None,
    device: str = "auto",
    tests: Sequence[str] = tuple(TESTS),
    costs: Mapping[str, str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    on_map: OnMap | None = None,
    resume: bool = False,
    workers: int | WorkerSettings = 1,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
    test_progress: Progress | None = None,
) -> dict[str, Any]:
    """Say what each modality of a run brings; write `synergy.json` and figures beside the scores.

    All subsets of the modalities are scored, and the split is mapped once more for each test with
    altered inputs. A method that needs every modality gets the mean of the training instead of one
    that is left out.

    Args:
        split: As in `Run.evaluate`, as are the arguments up to `device`, `on_map` and `workers`.
        tests: Names in `TESTS`; none: only subsets are compared.
        costs: Modality → what a square kilometre of it costs, to be shown beside what it brings.
        metrics: Scores of all subsets (of the only one that there is, for a method that needs every
            modality) that were just made with the same arguments; default: they are made.
        resume: Go on with scores and tests that were stopped.
        say: Called with a line on what is done.
        progress: Of the scores.
        test_progress: Of the tests.

    Returns:
        Content of `synergy.json`.

    Raises:
        ConfigError: There is no such test or modality.
        OutputError: The run folder cannot be written, or another process writes there.
        TerrafuseError: As `Run.evaluate`.
    """
    opened = run if isinstance(run, Run) else load(run)
    check_synergy(opened, tests, costs)
    chosen = opened.choose_scenes(split, manifest, scenes, convert)
    with when_stopped(_STOPPED), claimed(opened.folder, "evaluate"):
        if metrics is None:
            metrics = opened.evaluate(
                split=split,
                subsets=opened.segmenter.supports_missing,
                manifest=manifest,
                scenes=scenes,
                convert=convert,
                trust_values=trust_values,
                windows=windows,
                device=device,
                on_map=on_map,
                resume=resume,
                workers=workers,
                progress=progress,
            )
        spread = WorkerSettings(workers) if isinstance(workers, int) else workers
        windows = windows or WindowSettings.of_run(opened.config)
        # Confidences are compared: of calibrated scores, all are.
        calibration = opened.calibration if metrics["settings"]["calibration"] else None
        altered = _AlteredScores(opened, chosen, windows, device, spread, resume, calibration)
        report = _make(opened, metrics, altered, tests, costs, say, test_progress)
        name = results_name(metrics)
        report["figures"] = write_synergy_figures(report, opened.folder, name)
        with written_whole(opened.folder / f"{SYNERGY}{name}.json") as (partial,):
            write_json(partial, report)
        altered.remove()
        return report


def check_synergy(run: Run, tests: Sequence[str], costs: Mapping[str, str] | None = None) -> None:
    """Refuse tests and costs that `synergy` would refuse, before anything is scored.

    Raises:
        ConfigError: There is no such test or modality.
    """
    names = [modality.name for modality in run.info.modalities]
    for name in costs or {}:
        if name not in names:
            raise ConfigError(unknown_name("modality with a cost", name, names))
    find_tests(tests)


def read_synergy(path: str | Path) -> dict[str, Any]:
    """Read `synergy.json`.

    Raises:
        ScoresError: It is not there, or damaged.
    """
    try:
        report: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScoresError(
            f"'{path}' cannot be read ({error}). Evaluate the run with --synergy"
        ) from None
    return report


@dataclass(frozen=True)
class _AlteredScores:
    """Scores with altered inputs; those that are finished stay until the report is written.

    Args:
        resume: Whether those of an earlier call may be used.
        calibration: That of the scores beside them; None: theirs are not calibrated.
    """

    run: Run
    chosen: ChosenScenes
    windows: WindowSettings
    device: str
    workers: WorkerSettings
    resume: bool
    calibration: Calibration | None

    @property
    def folder(self) -> Path:
        """Of what is finished."""
        return self.run.folder / f"{SCORED}{self.chosen.name}_altered"

    def evidence(
        self, name: str, alterations: Sequence[Alteration], progress: Progress | None
    ) -> Evidence:
        """Counts of all scenes, read with alterations and mapped with all modalities."""
        path = self.folder / f"{name}.npz"
        key = self._key(alterations)
        if self.resume and path.exists():
            try:
                found = read_evidence(path, _TABLES)
            except ScoresError:
                found = None
            if found is not None and found.facts.get("altered") == key:
                return found
        made: list[Evidence] = []
        keeping = self.chosen.keeping(self.folder.with_name(f"{self.folder.name}_now"), altered=key)
        evaluate_scenes(
            self.run.segmenter,
            alter_scenes(self.chosen.scenes, alterations),
            self.run.info.scheme,
            self.chosen.config,
            self.windows,
            device=self.device,
            boundary=False,
            on_evidence=made.append,
            keeping=keeping,
            resume=self.resume and bool(keeping.files()),
            workers=self.workers,
            progress=progress,
            calibration=self.calibration,
        )
        evidence = replace(made[0], facts={**made[0].facts, "altered": key})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_evidence(path, evidence)
        keeping.remove()
        return evidence

    def remove(self) -> None:
        """Remove what is finished."""
        if self.folder.exists() and is_own_folder(self.folder, lambda p: p.suffix == ".npz"):
            remove_files(self.folder, list(self.folder.glob("*.npz")))

    def _key(self, alterations: Sequence[Alteration]) -> str:
        """What scores depend on, as a digest."""
        text = f"{self._facts} {list(alterations)!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def _facts(self) -> str:
        segmenter, info = self.run.segmenter, self.run.info
        facts = {
            "scenes": [(scene.id, file_state(scene)) for scene in self.chosen.scenes],
            "data": self.chosen.keeping(self.folder).facts(),
            "model": info.state_sha256 or digest_values(segmenter.state_dict()),
            "windows": self.windows.to_dict(),
            "reference": self.chosen.config.reference,
            "calibration": self.calibration.to_dict() if self.calibration else None,
        }
        return json.dumps(facts, sort_keys=True, default=str)


def _make(
    run: Run,
    metrics: Mapping[str, Any],
    altered: _AlteredScores,
    kinds: Sequence[str],
    costs: Mapping[str, str] | None,
    say: Callable[[str], None],
    progress: Progress | None,
) -> dict[str, Any]:
    """Run what is missing, and compute the report."""
    chosen, info = altered.chosen, run.info
    evidence = read_evidence(run.folder / f"{EVIDENCE}{results_name(metrics)}.npz", _TABLES)
    planned, left_out = plan_tests(kinds, info.modalities, info.statistics, chosen.scenes)
    averaged = _averaged_subsets(run, evidence)
    number = len(planned) + len(averaged)
    say(f"{len(planned)} stress tests: the scenes are mapped {number} more times")
    for text in left_out:
        say(f"left out: {text}")
    done = 0

    def count(finished: int, total: int) -> None:
        if progress:
            progress(done * total + finished, number * total)

    subsets = {}
    for subset, alterations in averaged.items():
        subsets[subset] = altered.evidence("+".join(subset), alterations, count)
        done += 1
    tests = []
    for test in planned:
        counts = altered.evidence(test.name, [test.alteration], count)
        modality = test.alteration.modality
        tests.append(StressTest(test.kind, modality, test.level, test.unit, counts))
        done += 1
    report = synergy_report(
        join_subsets(evidence, subsets) if subsets else evidence,
        tests=tests,
        costs=costs,
        absent_by=absence(run.segmenter),
    )
    return report | {"left_out": left_out, "pairing": _pairing(planned, chosen.scenes)}


def _averaged_subsets(run: Run, evidence: Evidence) -> dict[tuple[str, ...], list[Alteration]]:
    """Smaller subsets of a method that needs every modality, and what is put in their place."""
    if absence(run.segmenter) == LEFT_OUT:
        return {}
    names = evidence.subsets[0]
    return {
        subset: [
            Averaged(name, tuple(run.info.statistics[name].mean))
            for name in names
            if name not in subset
        ]
        for subset in modality_subsets(names)[1:]
    }


def _pairing(planned: Sequence[PlannedTest], scenes: Sequence[Scene]) -> dict[str, Any]:
    """Where images of the pairing test came from: modality → numbers of scenes."""
    found = {}
    for test in planned:
        own = test.alteration
        if isinstance(own, Unpaired):
            having = [scene for scene in scenes if own.modality not in scene.missing]
            exchanged = sum(own.partner(scene) is not None for scene in having)
            found[own.modality] = {
                "from_other_scenes": exchanged,
                "from_half_the_scene_away": len(having) - exchanged,
            }
    return found
