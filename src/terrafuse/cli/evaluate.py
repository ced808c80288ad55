"""`terrafuse evaluate`: scores of a run, and its label efficiency."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from terrafuse.cli.options import (
    AsJson,
    BatchSize,
    BlendingName,
    Calibrated,
    Convert,
    CropSize,
    Device,
    OtherManifest,
    Overlap,
    PrecisionName,
    RunFolder,
    RunSetting,
    ScoredSplit,
    TrustValues,
    conversions,
    fetched,
    load_run,
    names,
    pairs,
    tell_waiting,
)
from terrafuse.errors import ConfigError
from terrafuse.writing import claimed

_EFFICIENCY = "--label-efficiency"


def evaluate(
    run: RunFolder,
    split: ScoredSplit = None,
    subsets: Annotated[
        bool, typer.Option("--subsets", help="Score every subset of the modalities.")
    ] = False,
    synergy: Annotated[
        bool,
        typer.Option(
            "--synergy",
            help="Also say what each modality brings, and how maps stand altered inputs: "
            "synergy.json and figures.",
        ),
    ] = False,
    synergy_tests: Annotated[
        str | None,
        typer.Option(
            help="Altered inputs: pairing, shift, noise, cloud, strips, or none; default: all.",
            metavar="NAME,…",
        ),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            "--cost",
            help="What a modality costs per km2, shown beside what it brings; repeatable.",
            metavar="MODALITY=TEXT",
        ),
    ] = None,
    manifest: OtherManifest = None,
    scenes: Annotated[
        str | None,
        typer.Option(help="Only these scenes, of any split.", metavar="ID,PATTERN*,…"),
    ] = None,
    label_efficiency: Annotated[
        bool,
        typer.Option(
            _EFFICIENCY,
            help="Train the run's settings again on shares of the labels, and score each.",
        ),
    ] = False,
    shares: Annotated[
        str | None,
        typer.Option(
            help="Shares of the labels, in %; default: 1,3,10,30,100.", metavar="1,3,10,…"
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trainings per share; default: 3.", metavar="N")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another run to compare with.", metavar="OTHER_RUN")
    ] = None,
    crop_size: CropSize = None,
    overlap: Overlap = None,
    blending: BlendingName = None,
    batch_size: BatchSize = None,
    precision: PrecisionName = None,
    device: Device = "auto",
    calibration: Calibrated = True,
    convert: Convert = None,
    trust_values: TrustValues = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with scores that were stopped.")
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Processes that score, each with a model; with --devices: per GPU.")
    ] = 1,
    devices: Annotated[int | None, typer.Option(help="GPUs to score on.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Part of the scenes to score, beside runs that score the others.", metavar="i/n"
        ),
    ] = None,
    objects: Annotated[
        str | None,
        typer.Option(
            help="Also score connected pixels of these classes as objects.", metavar="CLASS,…"
        ),
    ] = None,
    least_object: Annotated[
        int, typer.Option("--least-object", help="Objects of fewer pixels do not count.")
    ] = 1,
    trimap: Annotated[
        str | None,
        typer.Option(
            help="Also score pixels near boundaries of the reference, at these distances.",
            metavar="1,3,5",
        ),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(
            help="Also score regions apart: polygons, and the column that names them.",
            metavar="FILE[:COLUMN]",
        ),
    ] = None,
    settings: RunSetting = None,
    page: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html beside the scores.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Score a run on a split; writes metrics.json, evidence.npz and report.html into its folder.

    Scores on another manifest, or of chosen scenes, stand in a metrics_….json and evidence_….npz of
    their own. Shards write no page: terrafuse report RUN does afterwards.
    """
    run = fetched(run)
    windows = {
        "crop_size": crop_size, "overlap": overlap, "blending": blending,
        "batch_size": batch_size, "precision": precision,
    }  # fmt: skip
    if label_efficiency:
        cut = {f"--{name.replace('_', '-')}": value for name, value in windows.items()}
        other: dict[str, object] = {
            "--subsets": subsets or None, "--manifest": manifest, "--scenes": scenes,
            "--convert": convert, "--trust-values": trust_values or None, "--set": settings,
            "--synergy": synergy or None, "--synergy-tests": synergy_tests, "--cost": cost,
            "--resume": resume or None, "--workers": None if workers == 1 else workers,
            "--devices": devices, "--shard": shard,
            "--no-calibration": None if calibration else True, "--objects": objects,
            "--least-object": None if least_object == 1 else least_object, "--trimap": trimap,
            "--regions": regions,
        }  # fmt: skip
        _refuse({**other, **cut}, f"without {_EFFICIENCY}")
        _measure_labels(run, split, shares, seeds, against, device, as_json)
        return
    given = {"--shares": shares, "--seeds": seeds, "--against": against}
    _refuse(given, f"with {_EFFICIENCY}")
    if synergy:
        _refuse({"--shard": shard}, "without --synergy, which needs all scenes at once")
    else:
        _refuse({"--synergy-tests": synergy_tests, "--cost": cost}, "with --synergy")
    from terrafuse import api
    from terrafuse.prediction import Shard, WorkerSettings
    from terrafuse.progress import Display

    part = str(Shard.parse(shard)) if shard else None
    page = page and not part  # others may still be scoring
    with Display() as display:
        loaded = load_run(run, settings, ("prediction", "evaluation"))
        tests, costs = _tests(synergy_tests), pairs(cost or [])
        if synergy:
            api.check_synergy(loaded, tests, costs)
        maps = api.SmallMaps()
        choice: dict[str, Any] = {
            "split": split,
            "manifest": manifest,
            "scenes": names(scenes) if scenes else None,
            "convert": conversions(convert),
            "trust_values": trust_values,
            "windows": loaded.windows(**windows),
            "device": device,
            "resume": resume,
            "workers": WorkerSettings(workers, devices),
        }
        report: dict[str, Any] | None = None
        with claimed(run, "evaluate", part=part):  # scores and page belong together
            metrics = loaded.evaluate(
                subsets=subsets or (synergy and loaded.segmenter.supports_missing),
                calibrated=calibration,
                on_map=maps if page else None,
                shard=shard,
                progress=display.stage("evaluating"),
                objects=names(objects),
                least_object_px=least_object,
                trimap=_distances(trimap),
                regions=regions,
                **choice,
            )
            if synergy:
                report = api.synergy(
                    loaded,
                    metrics=metrics,
                    tests=tests,
                    costs=costs,
                    say=lambda text: typer.echo(text, err=True),
                    test_progress=display.stage("altered inputs"),
                    **choice,
                )
            written = (
                api.report(loaded, metrics=metrics, maps=maps, device=device) if page else None
            )
    if as_json:
        shown = metrics if report is None else {**metrics, "synergy": report}
        typer.echo(json.dumps(shown, indent=2))
    elif "waits_for" in metrics:
        tell_waiting(shard, f"{metrics['waits_for']} scenes", f"the scores into {run}")
    else:
        from terrafuse.cli.tables import print_metrics

        print_metrics(metrics)
        if report:
            _tell_synergy(report, run)
    if written:
        typer.echo(f"open {written}", err=True)


def _tests(text: str | None) -> list[str]:
    """Names of stress tests."""
    from terrafuse.evaluation.synergy import TESTS

    if text is None:
        return list(TESTS)
    return [] if text.strip() == "none" else names(text)


def _tell_synergy(report: Mapping[str, Any], run: Path) -> None:
    """Print tables and sentences."""
    from terrafuse.cli.tables import print_rows
    from terrafuse.prediction import LEFT_OUT
    from terrafuse.reports import synergy_sentences, synergy_tables

    for table in synergy_tables(report):
        print_rows(table.title, [dict(zip(table.header, r, strict=True)) for r in table.rows])
    for sentence in synergy_sentences(report):
        typer.echo(sentence)
    if report["absent_by"] != LEFT_OUT:
        typer.echo(f"smaller subsets: modalities {report['absent_by']}")
    files = ", ".join(str(run / file) for file in report["figures"].values())
    typer.echo(f"wrote {files}", err=True)


def _measure_labels(
    run: Path,
    split: str | None,
    shares: str | None,
    seeds: int | None,
    against: Path | None,
    device: str,
    as_json: bool,
) -> None:
    from terrafuse import api

    results = api.label_efficiency(
        run,
        shares=api.LABEL_SHARES if shares is None else _parts(shares),
        seeds=3 if seeds is None else seeds,
        against=against,
        split=split,
        device=device,
        say=lambda text: typer.echo(text, err=True),
    )
    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    folder = run / "label_efficiency"
    typer.echo((folder / "table.md").read_text(encoding="utf-8"))
    typer.echo(f"wrote {folder / 'curve.png'}, table.md and results.json")


def _distances(text: str | None) -> list[float]:
    """Convert distances, separated by commas.

    Raises:
        ConfigError: The text is something else.
    """
    try:
        return [float(word) for word in text.split(",")] if text is not None else []
    except ValueError:
        raise ConfigError(f"--trimap is '{text}'; give distances in pixels such as 1,3,5") from None


def _parts(text: str) -> list[float]:
    """Convert percentages, separated by commas, to shares.

    Raises:
        ConfigError: The text is something else.
    """
    try:
        return [float(word) / 100 for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--shares is '{text}'; give percentages such as 1,10,100") from None


def _refuse(options: Mapping[str, object], when: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        ConfigError: Names the first of them.
    """
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} has an effect only {when}")
