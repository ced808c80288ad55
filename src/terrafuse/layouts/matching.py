"""Matching of file names that differ in prefix or suffix."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from terrafuse.layouts.places import LABEL_WORDS, Place

#: Role → id → place.
Matched = dict[str, dict[str, Place]]
_IMAGE_WORDS = ("image", "images", "img", "rgb", "sat", "top", "tile")
_BETWEEN = re.compile(r"[_\-. ]+|(?<=[A-Za-z])(?=\d+$)")


def match_names(roles: Mapping[str, Sequence[Place]], labels: str) -> Matched:
    """Match places by scene, with names shortened where only then they match.

    Args:
        roles: Role → its places.
        labels: Name of the role that holds labels.
    """
    plain = {role: {place.id: place for place in places} for role, places in roles.items()}
    labelled = plain[labels].keys()
    if all(len(labelled & own.keys()) == min(len(labelled), len(own)) for own in plain.values()):
        return plain  # no shorter names match more
    variants = {role: _variants(role, places) for role, places in roles.items()}
    best: tuple[int, dict[str, dict[str, Place]]] = (-1, {})
    for truth in variants[labels]:
        chosen = {labels: truth}
        total = 0
        for role, own in variants.items():
            if role != labels:
                shared = [len(truth.keys() & variant.keys()) for variant in own]
                chosen[role] = own[shared.index(max(shared))]
                total += max(shared)
        if total > best[0]:
            best = total, chosen
    return {role: best[1][role] for role in roles}


def _variants(role: str, places: Sequence[Place]) -> list[dict[str, Place]]:
    """Name places unchanged, without the role's word, and without what all have in common."""
    word = re.compile(rf"[_-]?{re.escape(role)}[_-]?$|^{re.escape(role)}[_-]", re.IGNORECASE)
    ways: list[Callable[[str], str]] = [
        lambda name: name,
        lambda name: word.sub("", name),
        _common_taken_off([place.name for place in places]),
    ]
    found = []
    for way in ways:
        ids = {_id(place, way(place.name)): place for place in places}
        if len(ids) == len({place.id for place in places}) and ids not in found:
            found.append(ids)
    return found


def _id(place: Place, name: str) -> str:
    return "/".join(filter(None, (place.split, place.group, name)))


def _common_taken_off(names: Sequence[str]) -> Callable[[str], str]:
    """Return a function that strips words common to all names; from a single one, known words."""
    lists = [_BETWEEN.split(name) for name in names]
    start = end = 0
    while _shared([words[start:] for words in lists], 0):
        start += 1
    while _shared([words[start : len(words) - end] for words in lists], -1):
        end += 1

    def shorten(name: str) -> str:
        words = _BETWEEN.split(name)
        return "_".join(words[start : len(words) - end])

    return shorten


def _shared(lists: Sequence[Sequence[str]], index: int) -> bool:
    """Tell whether all have the same word there, and another one beside it."""
    if any(len(words) < 2 for words in lists):
        return False
    words = {words[index].lower() for words in lists}
    if len(words) > 1:
        return False
    word = re.sub(r"^\d+(?=\D)", "", next(iter(words)))
    return len(lists) > 1 or word in (*LABEL_WORDS, *_IMAGE_WORDS)
