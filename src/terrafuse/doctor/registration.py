"""Misregistration between the rasters of a scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import hypot, inf
from statistics import median

from terrafuse.data.scene import Scene
from terrafuse.doctor.findings import Finding
from terrafuse.doctor.layers import choose_windows, read_layers
from terrafuse.doctor.shifts import (
    Shift,
    Structure,
    add_shifts,
    find_structure,
    measure_shift,
)
from terrafuse.samples import Window

__all__ = ["NOTED_PX", "SURE", "WARNED_PX", "Shift", "check_registration", "measure_shift"]

#: Shifts measured with at least this confidence are trusted (`benchmarks/registration.py`).
SURE = 4.0
#: Shifts, in pixels of the coarser raster, above which a note and a warning are issued. Two pixels
#: are common between two satellites, and at the edges of labels drawn by hand.
NOTED_PX, WARNED_PX = 1.5, 2.5
_MOST_PX = 32
_SHOWN_PX = 160


def check_registration(scene: Scene) -> list[Finding]:
    """Find modalities and labels of a scene that are shifted by more than 1.5 pixels.

    All are compared with the modality whose grid is the scene's (else the first of its pixel size);
    two others with each other only where one of them could not be compared with that. Those that
    agree with each other, if they are more than any others that do, say which are displaced. Up to
    six windows are read.
    """
    names = [m.name for m in scene.modalities if m.name not in scene.missing]
    names += ["labels"] if scene.has_labels else []
    if len(names) < 2:
        return []
    images = _Images(scene)
    reference = next((name for name in names if images.scale[name] == 1), names[0])
    if scene.grid_name in names and scene.grid_name != "labels":
        reference = scene.grid_name
    names.sort(key=lambda name: name != reference)
    return list(_compare(scene, images, names))


class _Images:
    """Windows of a scene, and their structures, computed when first needed."""

    def __init__(self, scene: Scene) -> None:
        self.scale = {m.name: float(m.scale) for m in scene.modalities} | {"labels": 1.0}
        self._windows = choose_windows(scene, max(self.scale.values()))
        self._layers = read_layers(scene, self._windows)
        self._structures: dict[tuple[str, float], list[Structure | None]] = {}

    def measure(self, one: str, other: str) -> Shift:
        """Measure the shift of the second against the first, in scene pixels."""
        fine, coarse = sorted((self.scale[one], self.scale[other]))
        # There is nothing to gain beyond half a pixel of the coarser one.
        pixel = max(fine, coarse / 2)
        sides = [round(min(w.height, w.width) / pixel) for w in self._windows]
        most = min(_MOST_PX, min(sides) // 8)
        if most < 1:
            return Shift(0.0, 0.0, 0.0)
        a, b = (self._find(name, pixel) for name in (one, other))
        return add_shifts(a, b, most=most).scaled(pixel)

    def _find(self, name: str, pixel: float) -> list[Structure | None]:
        key = (name, pixel)
        if key not in self._structures:
            shapes = [(round(w.height / pixel), round(w.width / pixel)) for w in self._windows]
            self._structures[key] = [
                find_structure(*layers[name].resized(pixel, shape), relief=layers[name].relief)
                for layers, shape in zip(self._layers, shapes, strict=True)
            ]
        return self._structures[key]


@dataclass(frozen=True)
class _Place:
    """Displacement of a raster, in scene pixels, from another of its group.

    Args:
        group: Rasters that could be compared with each other, be it through others.
        row: Rows down.
        col: Columns to the right.
        confidence: Of the comparison that tells; infinite for the first of a group.
    """

    group: int
    row: float
    col: float
    confidence: float


def _compare(scene: Scene, images: _Images, names: Sequence[str]) -> Iterator[Finding]:
    places = _find_places(images, names)
    for group in sorted({place.group for place in places.values()}):
        own = [name for name in names if name in places and places[name].group == group]
        yield from _judge(scene, images, {name: places[name] for name in own})


def _find_places(images: _Images, names: Sequence[str]) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    for one, other in combinations(names, 2):
        a, b = places.get(one), places.get(other)
        if a is not None and b is not None and a.group == b.group:
            continue
        shift = images.measure(one, other)
        if shift.confidence < SURE:
            continue
        if a is None and b is None:
            a = places[one] = _Place(len(places), 0.0, 0.0, inf)
        if a is not None:
            moved = _Place(a.group, a.row + shift.row, a.col + shift.col, shift.confidence)
            _join(places, b, moved)
            places[other] = moved
        else:
            assert b is not None
            places[one] = _Place(b.group, b.row - shift.row, b.col - shift.col, shift.confidence)
    return places


def _join(places: dict[str, _Place], old: _Place | None, new: _Place) -> None:
    """Bring all of a raster's former group into its new one."""
    if old is None:
        return
    row, col = new.row - old.row, new.col - old.col
    for name, place in list(places.items()):
        if place.group == old.group:
            confidence = min(place.confidence, new.confidence)
            places[name] = _Place(new.group, place.row + row, place.col + col, confidence)


def _judge(scene: Scene, images: _Images, places: Mapping[str, _Place]) -> Iterator[Finding]:
    """Judge the others by the largest group of rasters that agree.

    Where no more agree than differ, nobody can tell which is displaced.
    """

    def apart(one: str, other: str, most: float = NOTED_PX) -> bool:
        a, b = places[one], places[other]
        coarser = max(images.scale[one], images.scale[other])
        return hypot(a.row - b.row, a.col - b.col) > most * coarser

    groups: list[list[str]] = []
    left = list(places)
    while left:
        groups.append(max(([n for n in left if not apart(name, n)] for name in left), key=len))
        left = [name for name in left if name not in groups[-1]]
    agreed = len(groups[0]) > 1 and all(len(group) < len(groups[0]) for group in groups[1:])
    if not agreed:  # that of the scene's grid, for want of a better one
        groups.sort(key=lambda group: next(iter(places)) not in group)
    base = groups[0]
    row, col = (median(getattr(places[n], axis) for n in base) for axis in ("row", "col"))
    for group in groups[1:]:
        for names in [[name] for name in group] if agreed else [group]:
            place = places[names[0]]
            confidence = min(place.confidence, *(places[n].confidence for n in base))
            shift = Shift(place.row - row, place.col - col, confidence)
            coarser = max(images.scale[n] for n in (names[0], *base))
            if shift.length > NOTED_PX * coarser:
                yield _describe(scene, base, names, shift, coarser, agreed=agreed)


def _subject(names: Sequence[str]) -> str:
    named = [f"'{name}'" for name in names if name != "labels"]
    kinds = [f"modalit{'y' if len(named) == 1 else 'ies'} {', '.join(named)}"] if named else []
    return " and ".join(kinds + (["labels"] if "labels" in names else []))


def _listed(names: Sequence[str]) -> str:
    quoted = ["the labels" if name == "labels" else f"'{name}'" for name in names]
    return ", ".join(quoted[:-1]) + f" and {quoted[-1]}" if len(quoted) > 1 else quoted[0]


def _describe(
    scene: Scene,
    base: Sequence[str],
    moved: Sequence[str],
    shift: Shift,
    coarser: float,
    *,
    agreed: bool,
) -> Finding:
    where = f"{_toward(shift.row, 'rows below', 'rows above')} and "
    where += _toward(shift.col, "columns right of", "columns left of")
    many = len(moved) > 1 or "labels" in moved
    unit = "scene pixels"
    unit += f" ({shift.length / coarser:.1f} of the coarser raster)" if coarser > 1 else ""
    message = (
        f"what {_subject(moved)} of scene '{scene.id}' {'show' if many else 'shows'} lies {where} "
        f"where {_listed(base)} {'show' if len(base) > 1 or 'labels' in base else 'shows'} it: "
        f"{shift.length:.1f} {unit}, confidence {shift.confidence:.0f} ({SURE:g} is enough)"
    )
    doubt = "shadows or tall things seen from another side look like a shift"
    if agreed:
        doubt = f"{_listed(base)} agree with each other, so it is the one displaced; but {doubt}"
    else:
        doubt = f"it may as well be {_listed(base)} that is displaced, and {doubt}"
    remedy = (
        f"A model would learn from neighbouring pixels. {_remedy(scene, moved, shift)}. Look at "
        f"them first (terrafuse data preview): {doubt}"
    )
    name = moved[0]
    return Finding(
        "warning" if shift.length > WARNED_PX * coarser else "note",
        "registration", message, scene.id, next(iter(scene.paths().get(name, ())), None), remedy,
        modality=name, window=_middle(scene),
    )  # fmt: skip


def _middle(scene: Scene) -> Window:
    """Return a part of the scene in which a shift is visible."""
    height, width = (min(_SHOWN_PX, n) for n in (scene.grid.height, scene.grid.width))
    return Window((scene.grid.height - height) // 2, (scene.grid.width - width) // 2, height, width)


def _toward(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.1f} {positive if value >= 0 else negative}"


def _remedy(scene: Scene, names: Sequence[str], shift: Shift) -> str:
    name = " and ".join(f"'{name}'" for name in names)
    if scene.grid.crs is None:
        # + 0.0: no "-0.0".
        rows, cols = (f"{round(-value, 1) + 0.0:+.1f}" for value in (shift.row, shift.col))
        return f"Move the pixels of {name} by {rows} rows and {cols} columns"
    t = scene.grid.transform
    x = -(t.a * shift.col + t.b * shift.row)
    y = -(t.d * shift.col + t.e * shift.row)
    return f"Add {x:+.4g} to x and {y:+.4g} to y of the origin of {name}, or register it again"
