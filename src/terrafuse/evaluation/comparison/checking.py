"""Refusal of runs that were not scored on the same ground, classes and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from terrafuse.errors import ScoresError
from terrafuse.evaluation.evidence import Evidence, ScoredScene

_SHOWN = 3
_SAME_GROUND = (
    "Evaluate both on the same scenes (terrafuse evaluate RUN --manifest … --split … --scenes …)"
)


def check_same_ground(runs: Mapping[str, Evidence]) -> None:
    """Refuse runs of which differences would not come from the models.

    Args:
        runs: Name of a run → what it was scored on.

    Raises:
        ScoresError: Scenes, labels, classes, rules or the files of a modality differ.
    """
    names = list(runs)
    first = names[0]
    for name in names[1:]:
        for check in (_classes, _rules, _scenes, _labels, _bytes):
            what = check(runs[first], runs[name])
            if what:
                raise ScoresError(f"'{first}' and '{name}' cannot be compared: {what}")


def _classes(a: Evidence, b: Evidence) -> str:
    if a.classes == b.classes:
        return ""
    return (
        f"their classes are {', '.join(a.classes)} and {', '.join(b.classes)}. "
        "Compare runs of the same classes"
    )


#: Fact → what it is, and the setting that gives it.
_RULES = {
    "scored_classes": ("means cover the classes", "evaluation.mean_over"),
    "class_mean": ("means are over the classes in", "evaluation.class_mean"),
    "reference": ("maps were compared with", "evaluation.reference"),
}


def _rules(a: Evidence, b: Evidence) -> str:
    for key, (what, setting) in _RULES.items():
        own, other = a.facts.get(key), b.facts.get(key)
        if own != other:
            return (
                f"{what} {_text(own)} of one and {_text(other)} of the other. Evaluate one again "
                f"with the {setting} of the other (terrafuse evaluate RUN -s {setting}=…)"
            )
    return ""


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else f"'{value}'"


def _scenes(a: Evidence, b: Evidence) -> str:
    own, other = ([scene.id for scene in runs.scenes] for runs in (a, b))
    if own == other:
        return ""
    if set(own) == set(other):
        return f"they list the same scenes in another order. {_SAME_GROUND}"
    lacks = [
        f"scenes that only the {word} was scored on: {_some(missing)}"
        for word, missing in (
            ("first", [id for id in own if id not in set(other)]),
            ("second", [id for id in other if id not in set(own)]),
        )
        if missing
    ]
    return f"test areas differ ({'; '.join(lacks)}). {_SAME_GROUND}"


def _labels(a: Evidence, b: Evidence) -> str:
    def differs(x: ScoredScene, y: ScoredScene) -> bool:
        return (x.labels, x.height, x.width) != (y.labels, y.height, y.width)

    found = _differing(a.scenes, b.scenes, differs)
    if not found:
        return ""
    return f"reference labels differ in {_some(found)}. {_SAME_GROUND}"


def _bytes(a: Evidence, b: Evidence) -> str:
    shared = {name for scene in a.scenes for name in scene.bytes}
    for name in sorted(shared):

        def differs(x: ScoredScene, y: ScoredScene, name: str = name) -> bool:
            sizes = x.bytes.get(name), y.bytes.get(name)
            return None not in sizes and sizes[0] != sizes[1]

        found = _differing(a.scenes, b.scenes, differs)
        if found:
            return (
                f"modality '{name}' was of another version of the data in {_some(found)}: its "
                "files have another size. Evaluate both on one version (terrafuse evaluate RUN "
                "--manifest …)"
            )
    return ""


def _differing(
    a: Sequence[ScoredScene],
    b: Sequence[ScoredScene],
    differs: Callable[[ScoredScene, ScoredScene], bool],
) -> list[str]:
    return [x.id for x, y in zip(a, b, strict=True) if differs(x, y)]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"scenes {shown}" + (f" and {more} more" if more > 0 else "")
