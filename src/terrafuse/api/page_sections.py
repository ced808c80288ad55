"""Sections of a run's page that judge its scores: intervals, confidence, synergy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from terrafuse.api.comparing import Judgement, Setting, judge_rows
from terrafuse.api.runs import Run, results_name
from terrafuse.api.synergies import SYNERGY, read_synergy
from terrafuse.errors import ScoresError
from terrafuse.evaluation import Evidence
from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.comparison import label_of
from terrafuse.evaluation.resampling import LEAST_BLOCKS
from terrafuse.reports import Section, Table
from terrafuse.reports.comparison_figure import comparison_figure
from terrafuse.reports.comparison_tables import TOO_FEW_BLOCKS, blocks_text, comparison_parts
from terrafuse.reports.confidence import reliability_figure
from terrafuse.reports.synergy_figures import synergy_figures
from terrafuse.reports.synergy_tables import synergy_sentences, synergy_tables
from terrafuse.reports.tables import points

Metrics = Mapping[str, Any]
_SURE = "How sure the scores are"
_SCORES = ("miou", "mpa", "oa")
#: Subsets whose reliability is drawn: more lines cannot be told apart.
_MOST_LINES = 4


def judged_sections(
    runs: Mapping[str, Run],
    scores: Mapping[str, Metrics],
    evidence: Mapping[str, Evidence | None],
) -> list[Section]:
    """What is known of scores beside their values, as far as it was computed.

    Args:
        runs: Title → run; so are the next two.
        evidence: Counts beside the scores.
    """
    title, first = next(iter(runs.items()))
    found = [_intervals(runs, scores), _confidence(scores)]
    if len(runs) == 1:
        found.append(_synergy(first, scores[title], evidence[title]))
    return [section for section in found if section is not None]


def _intervals(runs: Mapping[str, Run], scores: Mapping[str, Metrics]) -> Section | None:
    """Intervals over other ground, and which of several runs is better."""
    first = next(iter(scores.values()))
    if any(results_name(own) for own in scores.values()):
        return None
    settings = [Setting(title, (run.folder,)) for title, run in runs.items()]
    classes = first["settings"]["scored_classes"]
    try:
        found = judge_rows(settings, first["split"], _SCORES, classes)
    except ScoresError:  # older scores, or of other ground: they have no common blocks
        return None
    if len(runs) == 1:
        return Section(_SURE, _ground(found.blocks), [_values(found)])
    said, tables = comparison_parts(found.comparison, found.blocks, found.split, found.notes)
    figures = [(comparison_figure(found.comparison), "Differences with 95 % intervals")]
    return Section(_SURE, said[0], tables, figures, said[1:])


def _ground(blocks: Blocks) -> str:
    """What the intervals of one run stand on."""
    if blocks.count < LEAST_BLOCKS:
        return f"{blocks_text(blocks)}. {TOO_FEW_BLOCKS}"
    return (
        f"{blocks_text(blocks)}, which count as independent. On other ground of this kind the "
        "scores of this model may be anywhere in these intervals; another seed is not in them."
    )


def _values(found: Judgement) -> Table:
    (own,) = found.comparison.values.values()
    rows = [[label_of(column), points(interval.to_dict())] for column, interval in own.items()]
    return Table("In %, with 95 % intervals over blocks.", ["score", "value"], rows)


def _confidence(scores: Mapping[str, Metrics]) -> Section | None:
    """Whether maps are as sure as they should be: of several runs, each with all modalities."""
    known = {title: own["calibration"] for title, own in scores.items() if "calibration" in own}
    if not known:
        return None
    if len(scores) == 1:
        (own,) = known.values()
        subsets = dict(own["subsets"])
    else:
        subsets = {title: next(iter(own["subsets"].values())) for title, own in known.items()}
    rows = [
        [
            name,
            _percent(found["accuracy"]),
            _percent(found["mean_confidence"]),
            points(found["ece"]["20"]),
            points(found["confident_errors"]["of_errors"]),
            *(points(risk) for risk in found["selective_risk"].values()),
        ]
        for name, found in subsets.items()
    ]
    (full, own), *_ = subsets.items()
    coverages = [f"wrong at {100 * float(c):g} % coverage" for c in own["selective_risk"]]
    header = ["", "right", "confidence", "ECE", "confident errors", *coverages]
    shown = dict(list(subsets.items())[:_MOST_LINES])
    return Section(
        "Confidence",
        _lead(full, own),
        [Table("In %, with 95 % intervals over blocks.", header, rows)],
        [(reliability_figure(shown), ", ".join(shown))],
        [
            "ECE: mean distance between confidence and accuracy over 20 bins. Confident errors: "
            "share of the errors where confidence is 0.9 or more. Coverage: share of the pixels "
            "that are kept, the surest first. terrafuse calibrate RUN corrects confidence."
        ],
    )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


def _lead(name: str, own: Mapping[str, Any]) -> str:
    over = own["overconfidence"]
    if over["value"] is None:
        return ""
    word = "less sure than it is right" if over["value"] < 0 else "surer than it is right"
    return f"With {name} the map is {100 * abs(over['value']):.1f} points {word}."


def _synergy(run: Run, metrics: Metrics, evidence: Evidence | None) -> Section | None:
    """What each modality brings, where `evaluate --synergy` found it for these scores."""
    try:
        found = read_synergy(run.folder / f"{SYNERGY}{results_name(metrics)}.json")
    except ScoresError:
        return None
    if evidence is None or found["facts"].get("model") != evidence.facts.get("model"):
        return None  # of a model that was trained before
    figures = [(figure, "") for figure in synergy_figures(found).values()]
    # On confidence there is a table.
    said = synergy_sentences(found)[: len(found["modalities"])]
    return Section("Synergy", "\n\n".join(said), synergy_tables(found), figures)
