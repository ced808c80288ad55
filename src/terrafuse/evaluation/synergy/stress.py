"""Stress tests: which ones suit a run's modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from terrafuse.errors import ConfigError, unknown_name
from terrafuse.evaluation.synergy.alterations import (
    Alteration,
    Clouded,
    Noisy,
    Shifted,
    Stripped,
    Unpaired,
)
from terrafuse.modalities import BandStatistics, Modality

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

SHIFTS_PX = (1, 2, 4, 8)
DEVIATIONS = (0.5, 1.0)
CLOUD_SHARE = STRIP_SHARE = 0.3
#: Kinds of tests → what is done to one modality at a time.
TESTS: Mapping[str, str] = {
    "pairing": "it comes from another place",
    "shift": "it is shifted to the right by 1, 2, 4 and 8 of its pixels",
    "noise": "Gaussian noise of 0.5 and 1 standard deviations of each band",
    "cloud": "opaque clouds over 30 % (optical modalities only)",
    "strips": "30 % of its columns have no data",
}


@dataclass(frozen=True)
class PlannedTest:
    """A test to run.

    Args:
        kind: Name in `TESTS`.
        level: Of `unit`, as it is shown: pixels, standard deviations, share.
    """

    kind: str
    level: float
    unit: str
    alteration: Alteration

    @property
    def name(self) -> str:
        """Part of the names of files."""
        return f"{self.kind}-{self.alteration.modality}-{self.level:g}"


def find_tests(names: Sequence[str]) -> tuple[str, ...]:
    """Check names of tests.

    Raises:
        ConfigError: There is no such test, or one is named twice.
    """
    for name in names:
        if name not in TESTS:
            raise ConfigError(unknown_name("stress test", name, TESTS))
    if len(set(names)) < len(names):
        raise ConfigError(f"stress tests are '{','.join(names)}'; name each once")
    return tuple(names)


def plan_tests(
    kinds: Sequence[str],
    modalities: Sequence[Modality],
    statistics: Mapping[str, BandStatistics],
    scenes: Sequence[Scene],
) -> tuple[list[PlannedTest], list[str]]:
    """Choose the tests that suit the modalities.

    Args:
        kinds: Names in `TESTS`.
        statistics: Of the training.
        scenes: That are scored.

    Returns:
        The tests, and sentences on what is left out.
    """
    makers: dict[str, Callable[[Modality], Iterator[PlannedTest]]] = {
        "pairing": lambda m: iter([PlannedTest("pairing", 1, "", Unpaired(m.name, scenes))]),
        "shift": lambda m: (
            PlannedTest("shift", px, "px", Shifted(m.name, px)) for px in SHIFTS_PX
        ),
        "noise": lambda m: _noise_tests(m, statistics[m.name]),
        "cloud": lambda m: _cloud_tests(m, statistics[m.name]),
        "strips": lambda m: iter(
            [PlannedTest("strips", STRIP_SHARE, "share", Stripped(m.name, STRIP_SHARE))]
        ),
    }
    tests, left_out = [], []
    for kind in find_tests(kinds):
        for modality in modalities:
            reason = _unsuited(kind, modality)
            if reason:
                left_out.append(f"{kind} of {modality.name}: {reason}")
            else:
                tests += list(makers[kind](modality))
    return tests, left_out


def _unsuited(kind: str, modality: Modality) -> str:
    if kind == "cloud" and modality.kind != "optical":
        return f"its kind is {modality.kind}, and clouds are in optical images"
    if kind == "noise" and modality.kind == "structure":
        return "its values are numbers of segments, to which noise adds nothing"
    return ""


def _noise_tests(modality: Modality, found: BandStatistics) -> Iterator[PlannedTest]:
    for deviations in DEVIATIONS:
        own = tuple(deviations * std for std in found.std)
        yield PlannedTest("noise", deviations, "std", Noisy(modality.name, own))


def _cloud_tests(modality: Modality, found: BandStatistics) -> Iterator[PlannedTest]:
    own: Any = tuple(found.high)
    yield PlannedTest("cloud", CLOUD_SHARE, "share", Clouded(modality.name, own, CLOUD_SHARE))
