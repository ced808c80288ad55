"""Content of `synergy.json`: computed from counts alone, without the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from terrafuse.errors import ScoresError
from terrafuse.evaluation.blocks import Blocks, find_blocks
from terrafuse.evaluation.comparison import Rule
from terrafuse.evaluation.evaluate import modality_subsets
from terrafuse.evaluation.evidence import Evidence, to_table
from terrafuse.evaluation.resampling import DRAWS, BlockBootstrap
from terrafuse.evaluation.synergy.confidence import confidence_rows, fall, measures
from terrafuse.evaluation.synergy.games import (
    Floats,
    interactions,
    shapley_shares,
    split_shares,
)
from terrafuse.evaluation.synergy.values import game, place_of, quantities, subset_confusions
from terrafuse.prediction import LEFT_OUT

FORMAT = 1
PARTS = ("unique", "redundant", "synergistic", "conflict")


@dataclass(frozen=True)
class StressTest:
    """A test with altered inputs of one modality.

    Args:
        kind: "pairing", "shift", "noise", "cloud" or "strips".
        level: What is shown beside it: 2 (pixels), 0.5 (standard deviations), 0.3 (share).
        unit: Of the level.
        evidence: Counts of the same scenes, mapped with all modalities.
    """

    kind: str
    modality: str
    level: float
    unit: str
    evidence: Evidence


def join_subsets(full: Evidence, others: Mapping[tuple[str, ...], Evidence]) -> Evidence:
    """Put evidence of smaller subsets beside that of all modalities.

    Args:
        others: Subset → counts of the same scenes, mapped in some other way from "all" modalities.
    """
    parts = [full, *others.values()]
    tables = {
        name: to_table([own.tables[name] for own in parts])
        for name in full.tables
        if all(name in own.tables for own in parts)
    }
    return replace(
        full,
        subsets=(full.subsets[0], *others),
        tables=tables,
        detection=np.concatenate([own.detection for own in parts]),
    )


@dataclass(frozen=True)
class Found:
    """Intervals of statistics of the draws."""

    bootstrap: BlockBootstrap
    names: Sequence[str] = field(default=())

    def interval(self, values: Floats) -> dict[str, float | None]:
        """Of one statistic (1 + R,)."""
        return self.bootstrap.interval_of(values).to_dict()

    def by_name(self, values: Floats) -> dict[str, Any]:
        """Of one statistic per name (N, 1 + R)."""
        return {name: self.interval(own) for name, own in zip(self.names, values, strict=True)}


def synergy_report(
    evidence: Evidence,
    *,
    tests: Sequence[StressTest] = (),
    costs: Mapping[str, str] | None = None,
    absent_by: str = LEFT_OUT,
    side_px: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Say what each modality of a run brings.

    Args:
        evidence: Of all subsets of the modalities.
        tests: Altered inputs.
        costs: Modality → what a square kilometre of it costs, as it is to be printed.
        absent_by: How a modality was made absent in smaller subsets.
        side_px: Side of blocks; default: as `find_blocks` has it.
        draws: Of the bootstrap.
        seed: Of the draws.

    Returns:
        Content of `synergy.json`, see docs/howto/synergy.md.

    Raises:
        ScoresError: A subset was not scored, or a test is of other scenes.
    """
    names = evidence.subsets[0]
    _check_whole(evidence, names)
    blocks = find_blocks([evidence], side_px)
    bootstrap, rule = BlockBootstrap(blocks.count, draws, seed, blocks.widening), Rule.of(evidence)
    confusions = subset_confusions(evidence, blocks)
    values = game(confusions, names, bootstrap, rule)
    found = Found(bootstrap, names)
    *classes, mean, bits = (_quantity(values[:, :, k], found) for k in range(values.shape[2]))
    pixels = confusions[frozenset(names)].sum(axis=(0, 2))
    return {
        "format": FORMAT,
        "modalities": list(names),
        "classes": list(evidence.classes),
        "facts": dict(evidence.facts),
        "absent_by": absent_by,
        "most_frequent_class": evidence.classes[int(pixels.argmax())],
        "blocks": {
            "number": blocks.count,
            "side_px": blocks.side_px,
            "correlation_px": blocks.correlation_px,
            "reason": blocks.reason,
            "draws": draws,
        },
        "mean": mean,
        "per_class": dict(zip(evidence.classes, classes, strict=True)),
        "information": bits,
        "costs": dict(costs or {}),
        "confidence": confidence_rows(evidence, blocks, bootstrap),
        "tests": _tests(evidence, tests, blocks, bootstrap, rule),
    }


def _quantity(values: Floats, found: Found) -> dict[str, Any]:
    """All that is said of one score, from those of subsets (2^N, 1 + R)."""
    number, parts = len(found.names), split_shares(values)
    full = 2**number - 1
    own = {name: getattr(parts, name) for name in PARTS}
    pairs = interactions(values)
    return {
        "none": found.interval(values[0]),
        "subsets": {
            "+".join(subset): found.interval(values[place])
            for place, subset in _places(found.names)
        },
        "gain": found.interval(values[full] - values[0]),
        "shares": found.by_name(shapley_shares(values)),
        "alone": found.by_name(np.stack([values[1 << i] - values[0] for i in range(number)])),
        "last": found.by_name(
            np.stack([values[full] - values[full ^ 1 << i] for i in range(number)])
        ),
        "parts": {name: found.interval(part.sum(axis=0)) for name, part in own.items()},
        "parts_of": {
            modality: {name: found.interval(part[i]) for name, part in own.items()}
            for i, modality in enumerate(found.names)
        },
        "interactions": {
            f"{found.names[i]}+{found.names[j]}": found.interval(pair)
            for (i, j), pair in pairs.items()
        },
    }


def _places(names: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    """Subsets but the empty one, the full one first, and where they are in a game."""
    return [(place_of(subset, names), subset) for subset in modality_subsets(names)]


def _tests(
    evidence: Evidence,
    tests: Sequence[StressTest],
    blocks: Blocks,
    bootstrap: BlockBootstrap,
    rule: Rule,
) -> list[dict[str, Any]]:
    """Scores under altered inputs, and their change, from the same draws."""
    rows: list[dict[str, Any]] = []
    counts = evidence.counts("confusion", blocks.of_cell)
    before = quantities(bootstrap.drawn(counts), rule)
    sure = measures(evidence, blocks, bootstrap)
    for test in tests:
        _check_same(evidence, test)
        altered = test.evidence.counts("confusion", blocks.of_cell)
        after = quantities(bootstrap.drawn(altered), rule)
        now_sure = measures(test.evidence, blocks, bootstrap)
        rows.append(
            {
                "test": test.kind,
                "modality": test.modality,
                "level": test.level,
                "unit": test.unit,
                "scores": _scores(after, evidence.classes, bootstrap),
                "change": _scores(after - before, evidence.classes, bootstrap),
                "fall": fall(sure, now_sure, bootstrap) if sure and now_sure else None,
            }
        )
    return rows


def _scores(values: Floats, classes: Sequence[str], bootstrap: BlockBootstrap) -> dict[str, Any]:
    """Mean and IoU of each class, of the quantities (1 + R, K + 2) of a map."""
    found = Found(bootstrap, classes)
    return {
        "mean": found.interval(values[:, len(classes)]),
        "classes": found.by_name(values[:, : len(classes)].T),
    }


def _check_whole(evidence: Evidence, names: Sequence[str]) -> None:
    """Refuse evidence that lacks a subset."""
    scored = {frozenset(subset) for subset in evidence.subsets}
    lacking = [subset for _, subset in _places(names) if frozenset(subset) not in scored]
    if lacking:
        raise ScoresError(
            f"the modalities {', '.join('+'.join(subset) for subset in lacking)} were not scored "
            "without the others. Evaluate the run with --synergy, or with --subsets"
        )


def _check_same(evidence: Evidence, test: StressTest) -> None:
    ours, theirs = ([(s.id, s.labels) for s in e.scenes] for e in (evidence, test.evidence))
    if ours != theirs:
        raise ScoresError(
            f"test '{test.kind}' of {test.modality} is of other scenes or labels than the scores. "
            "Evaluate the run with --synergy again"
        )
