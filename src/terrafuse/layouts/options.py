"""Options of the layouts of published data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from terrafuse.errors import DataError, UnknownNameError, unknown_name
from terrafuse.layouts.facts import PublishedFacts
from terrafuse.layouts.layout import Layout
from terrafuse.layouts.tree import natural_key

_OPTIONS = ("split", "modalities", "incomplete", "without", "unknown")


@dataclass(frozen=True)
class Chosen:
    """Checked options of a layout.

    Args:
        split: Name of the lists.
        modalities: Names; None: the default ones.
        allow: Whether to continue with an incomplete copy.
        more: Options that only this layout has.
        without: Ids of scenes to leave out.
        unknown: Class, or "void", that label values outside the legend become; None: rejected.
        others: Name → id → split, of all lists known.
    """

    split: str
    modalities: tuple[str, ...] | None
    allow: bool
    more: Mapping[str, str]
    without: tuple[str, ...] = ()
    unknown: str | None = None
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_options(layout: Layout, facts: PublishedFacts, options: Mapping[str, str]) -> Chosen:
    """Check the options that a user gives.

    Raises:
        UnknownNameError: An option or modality is unknown; the nearest one is named.
        DataError: A value is not allowed.
    """
    allowed = [*_OPTIONS, *layout.choices]
    for key in options:
        if key not in allowed:
            raise UnknownNameError(unknown_name(f"option of layout '{facts.name}'", key, allowed))
    wanted = options.get("modalities")
    names = None if wanted is None else _listed(wanted)
    for name in names or ():
        if name not in layout.readings:
            what = f"modality of layout '{facts.name}'"
            raise UnknownNameError(unknown_name(what, name, layout.readings))
    if wanted is not None and (not names or len(set(names)) < len(names)):
        raise DataError(
            f"-O modalities={wanted} names no modality, or one twice; choose some of "
            f"{', '.join(layout.readings)}, separated by commas"
        )
    incomplete = choice(options, "incomplete", ("refuse", "allow"))
    more = {key: options[key] for key in layout.choices if key in options}
    return Chosen(
        options.get("split", "sound"),
        names,
        incomplete == "allow",
        more,
        without=_listed(options.get("without", "")),
        unknown=options.get("unknown"),
        others={name: facts.split(name) for name in facts.splits},
    )


def _listed(text: str) -> tuple[str, ...]:
    """Split words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def choice(options: Mapping[str, str], key: str, allowed: Sequence[str]) -> str:
    """Return the value of an option; the first allowed one is the default.

    Raises:
        DataError: The value is not allowed.
    """
    value = options.get(key, allowed[0])
    if value not in allowed:
        raise DataError(f"-O {key}={value} is not known; allowed are {', '.join(allowed)}")
    return value


def need_split(facts: PublishedFacts, chosen: Chosen, allowed: Sequence[str]) -> str:
    """Return the chosen split, if it is one that the layout builds itself.

    Raises:
        UnknownNameError: It is not; the nearest one is named.
    """
    if chosen.split not in allowed:
        what = f"split of layout '{facts.name}'"
        raise UnknownNameError(unknown_name(what, chosen.split, allowed))
    return chosen.split


def leave_out(layout: Layout, chosen: Chosen, split: Mapping[str, str]) -> dict[str, str]:
    """Remove the scenes that a user excludes from a split.

    Raises:
        UnknownNameError: No list has such a scene.
    """
    known = {*split, *(id for own in chosen.others.values() for id in own)}
    for id in chosen.without:
        if known and id not in known:
            near = unknown_name(f"scene of {layout.title}", id, sorted(known, key=natural_key)[:20])
            raise UnknownNameError(f"-O without: {near}")
    return {id: name for id, name in split.items() if id not in chosen.without}
