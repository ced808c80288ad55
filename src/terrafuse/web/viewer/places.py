"""Places worth a look: most uncertain, most wrong, decided by one modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from terrafuse.web.viewer.copies import read_small
from terrafuse.web.viewer.document import Place

#: Places of a list, at most.
MOST_PLACES = 24
# Side of a place in scene pixels, in scenes from this side on.
_SIDES = ((2048, 128), (256, 64), (0, 32))
# Pixels a side of what is looked at, and of a place in it, at least.
_LOOKED_AT, _LEAST_SIDE = 2048, 4
# Share of a place that must be known.
_KNOWN = 0.5

Float = NDArray[np.float64]
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Blocks:
    """Squares of a scene, in each of which pixels of its overviews are counted.

    Args:
        height: Of the scene in pixels.
        width: Of the scene.
        side: Of a square in scene pixels.
        step: Scene pixels per pixel that is looked at.
    """

    height: int
    width: int
    side: int
    step: int

    @classmethod
    def of(cls, height: int, width: int) -> Blocks:
        """Choose squares for a scene."""
        largest, step = max(height, width), 1
        while -(-largest // step) > _LOOKED_AT:
            step *= 2
        side = next(own for least, own in _SIDES if largest >= least)
        return cls(height, width, max(side, step * _LEAST_SIDE), step)

    def read(self, path: Path, nodata: float | None = None) -> tuple[Float, NDArray[np.bool_]]:
        """First band of a raster of the scene's grid in blocks, stored values and which are data.

        Returns:
            Both (rows, columns, pixels of a block).
        """
        values, known = read_small(path, -(-max(self.height, self.width) // self.step), nodata)
        return self.cut(values[0].astype(np.float64)), self.cut(known[0])

    def cut(self, pixels: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Pixels (h, w) by block; those beyond the end are zero."""
        n = self.side // self.step
        rows, cols = (-(-size // n) for size in pixels.shape)
        padded = np.zeros((rows * n, cols * n), pixels.dtype)
        padded[: pixels.shape[0], : pixels.shape[1]] = pixels
        return padded.reshape(rows, n, cols, n).swapaxes(1, 2).reshape(rows, cols, n * n)

    def mean(self, values: Float, known: NDArray[np.bool_]) -> Float:
        """Mean of each block's known values (rows, columns), NaN where too few are known."""
        count = known.sum(axis=2)
        total = np.where(known, values, 0).sum(axis=2)
        mean: Float = np.where(count >= self._enough(), total / np.maximum(count, 1), np.nan)
        return mean

    def share(self, chosen: NDArray[np.bool_], known: NDArray[np.bool_]) -> Float:
        """Share of each block's known pixels that are chosen, NaN where too few are known."""
        return self.mean(chosen.astype(np.float64), known)

    def best(self, score: Float, least: float = 0.0) -> list[tuple[int, int]]:
        """The blocks of the highest scores above `least`, best first, spread over the scene.

        Neighbours of one that was taken wait until there are no others.
        """
        order = np.argsort(-np.nan_to_num(score, nan=-np.inf), axis=None, kind="stable")
        able = [divmod(int(i), score.shape[1]) for i in order]
        able = [(r, c) for r, c in able if score[r, c] > least]
        taken: list[tuple[int, int]] = []
        near = np.zeros(score.shape, bool)
        for row, col in able:
            if len(taken) == MOST_PLACES:
                break
            if not near[row, col]:
                taken.append((row, col))
                near[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2] = True
        left = [at for at in able if at not in set(taken)][: MOST_PLACES - len(taken)]
        return sorted([*taken, *left], key=lambda at: -score[at])

    def place(self, at: tuple[int, int], value: float, text: str, thumbnail: str) -> Place:
        """The place of a block, cut where the scene ends."""
        row, col = at[0] * self.side, at[1] * self.side
        return Place(
            row=row,
            col=col,
            height=min(self.side, self.height - row),
            width=min(self.side, self.width - col),
            value=value,
            text=text,
            thumbnail=thumbnail,
        )

    def _enough(self) -> Float:
        """Pixels of each block that must be known: half of those within the scene."""
        shape = -(-self.height // self.step), -(-self.width // self.step)
        inside = self.cut(np.ones(shape, bool)).sum(axis=2)
        enough: Float = np.maximum(inside * _KNOWN, 1)
        return enough


def uncertain_places(
    blocks: Blocks,
    path: Path,
    factor: float,
    *,
    is_confidence: bool,
    nodata: float | None = None,
    mapped: Mapping[tuple[int, int], str] | None = None,
) -> list[Place]:
    """Places of the highest entropy, or of the lowest confidence.

    Args:
        blocks: Of the scene.
        path: Raster of the entropy, else of the confidence.
        factor: Of its stored values.
        is_confidence: Which of them.
        nodata: Stored value without data; None: the file's.
        mapped: Says of a block which classes it has.
    """
    values, known = blocks.read(path, nodata)
    mean = blocks.mean(values * factor, known)
    score = 1 - mean if is_confidence else mean
    word = "mean confidence" if is_confidence else "mean entropy"
    return [
        blocks.place(
            at,
            float(score[at]),
            f"{word} {mean[at]:.2f}{_of(mapped, at)}",
            f"places/uncertain-{n}.png",
        )
        for n, at in enumerate(blocks.best(score))
    ]


def wrong_places(
    blocks: Blocks, path: Path, wrong: int, mapped: Mapping[tuple[int, int], str] | None = None
) -> list[Place]:
    """Places where the map differs most from the truth.

    Args:
        blocks: Of the scene.
        path: Raster of the difference.
        wrong: Its value of pixels that differ.
        mapped: As in `uncertain_places`.
    """
    values, known = blocks.read(path)
    share = blocks.share(values == wrong, known)
    return [
        blocks.place(
            at,
            float(share[at]),
            f"{share[at]:.0%} of the labelled pixels differ{_of(mapped, at)}",
            f"places/wrong-{n}.png",
        )
        for n, at in enumerate(blocks.best(share))
    ]


def modality_places(blocks: Blocks, path: Path, names: Mapping[int, str]) -> list[Place]:
    """Places where most pixels have another class without one modality.

    Args:
        blocks: Of the scene.
        path: Raster of the attribution.
        names: Its value → the modality; without the value of pixels that no single one decides.
    """
    values, known = blocks.read(path)
    order = list(names)
    shares = np.stack([blocks.share(values == value, known) for value in order])
    score = shares.max(axis=0) if order else np.zeros(0)
    found = []
    for n, at in enumerate(blocks.best(score)):
        name = names[order[int(np.argmax(shares[:, at[0], at[1]]))]]
        text = f"{score[at]:.0%} of the pixels have another class without {name}"
        found.append(blocks.place(at, float(score[at]), text, f"places/modality-{n}.png"))
    return found


def mapped_classes(
    blocks: Blocks, path: Path, classes: Sequence[tuple[int, str]], nodata: float | None = None
) -> dict[tuple[int, int], str]:
    """Say of each block which class, or which two, most of its pixels have.

    Args:
        blocks: Of the scene.
        path: The class map.
        classes: Value and name of each.
        nodata: Stored value without data; None: the file's.
    """
    values, known = blocks.read(path, nodata)
    counts = np.stack([((values == value) & known).sum(axis=2) for value, _ in classes])
    order = np.argsort(-counts, axis=0, kind="stable")[:2]
    found = {}
    for at in np.ndindex(counts.shape[1:]):
        row, col = at
        named = [classes[k][1] for k in order[:, row, col] if counts[k, row, col]]
        if named:
            found[row, col] = ", ".join(named)
    return found


def _of(mapped: Mapping[tuple[int, int], str] | None, at: tuple[int, int]) -> str:
    named = (mapped or {}).get(at)
    return f"; mapped as {named}" if named else ""
