"""Misregistration between the rasters of a scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

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
    two others are compared only where one of them could not be compared with it. Up to six windows
    are read.
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


def _compare(scene: Scene, images: _Images, names: Sequence[str]) -> Iterator[Finding]:
    reference = names[0]
    placed = {reference}
    for one, other in combinations(names, 2):
        if one != reference and {one, other} <= placed:
            continue
        shift = images.measure(one, other)
        if shift.confidence < SURE:
            continue
        if one == reference:
            placed.add(other)
        coarser = max(images.scale[one], images.scale[other])
        if shift.length > NOTED_PX * coarser:
            yield _describe(scene, one, other, shift, coarser)


def _describe(scene: Scene, one: str, other: str, shift: Shift, coarser: float) -> Finding:
    subject = "labels" if other == "labels" else f"modality '{other}'"
    where = f"{_toward(shift.row, 'rows below', 'rows above')} and "
    where += _toward(shift.col, "columns right of", "columns left of")
    shows = "show" if other == "labels" else "shows"
    unit = "scene pixels"
    unit += f" ({shift.length / coarser:.1f} of the coarser raster)" if coarser > 1 else ""
    message = (
        f"what {subject} of scene '{scene.id}' {shows} lies {where} where '{one}' shows it: "
        f"{shift.length:.1f} {unit}, confidence {shift.confidence:.0f} ({SURE:g} is enough)"
    )
    remedy = (
        f"A model would learn from neighbouring pixels. {_remedy(scene, other, shift)}. Look at "
        "both first (terrafuse data preview): the other one may be displaced, and shadows or "
        "tall objects seen from another side look like a shift"
    )
    return Finding(
        "warning" if shift.length > WARNED_PX * coarser else "note",
        "registration", message, scene.id, next(iter(scene.paths().get(other, ())), None), remedy,
        modality=other, window=_middle(scene),
    )  # fmt: skip


def _middle(scene: Scene) -> Window:
    """Return a part of the scene in which a shift is visible."""
    height, width = (min(_SHOWN_PX, n) for n in (scene.grid.height, scene.grid.width))
    return Window((scene.grid.height - height) // 2, (scene.grid.width - width) // 2, height, width)


def _toward(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.1f} {positive if value >= 0 else negative}"


def _remedy(scene: Scene, name: str, shift: Shift) -> str:
    if scene.grid.crs is None:
        rows, cols = (f"{-value:+.1f}" for value in (shift.row, shift.col))
        return f"Move the pixels of '{name}' by {rows} rows and {cols} columns"
    t = scene.grid.transform
    x = -(t.a * shift.col + t.b * shift.row)
    y = -(t.d * shift.col + t.e * shift.row)
    return f"Add {x:+.4g} to x and {y:+.4g} to y of the origin of '{name}', or register it again"
