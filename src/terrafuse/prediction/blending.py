"""Blending: weighted averages of overlapping windows' logits, and the map made from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ModelError
from terrafuse.prediction.array_kinds import arrays_of
from terrafuse.prediction.arrays import NUMPY, Array, Arrays
from terrafuse.prediction.lattice import Lattice, Part
from terrafuse.prediction.product_table import FinalRows, Need, Product
from terrafuse.prediction.settings import SampledRows
from terrafuse.samples import Window

# Logits processed at a time when rows are finished: on a CPU they stay in its cache, on an
# accelerator few large kernels are faster than many small ones.
_CPU_BAND_ELEMENTS = 2**18
_DEVICE_BAND_ELEMENTS = 2**26


@dataclass(frozen=True)
class Strip:
    """Finished rows of a map, over the full width of the part that is mapped.

    Args:
        row: First row, on the scene's grid.
        col: First column, likewise.
        layers: Values (rows, width), or (K, rows, width), by product name.
        sampled: Values (rows, width) by product name, of those rows only that are sampled.
    """

    row: int
    col: int
    layers: Mapping[str, NDArray[Any]]
    sampled: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def taper(size: int, overlap: int) -> NDArray[np.float32]:
    """Return weights along one side of a window: a ramp 1, 2, … `overlap` + 1 at both ends.

    The weights of neighbours that share `overlap` pixels add up to the same total everywhere. They
    are integers, so that the average of equal integer logits is exact, and never 0, so that pixels
    at the scene's edge count.

    Args:
        size: Side of the window in pixels.
        overlap: Length of the ramp in pixels.

    Returns:
        Float32 (size,).
    """
    position = np.arange(size, dtype=np.float32)
    ramp: NDArray[np.float32] = np.minimum(position + 1, size - position).clip(max=overlap + 1)
    return ramp


class Accumulator:
    """Sums of weighted logits over one row of windows, where the model's answers lie.

    Windows are added in the part's order. When a row of windows is complete, the pixel rows above
    the start of the next are final: `advance` returns them and frees their buffer. Memory is one
    row of the part's windows, whatever the height of the scene and the overlap.

    Args:
        part: What is mapped.
        num_classes: Number of classes, K.
        arrays: Of the logits and sums: those of NumPy, or tensors on a device.
        needs: What the products need beside the sums of logits.
        abstain: As in `FinalRows`; so are the next three.
        sampled: What is computed in some rows only.
    """

    def __init__(
        self,
        part: Part,
        num_classes: int,
        *,
        arrays: Arrays = NUMPY,
        needs: frozenset[Need] = frozenset(),
        abstain: float | None = None,
        temperature: float = 1.0,
        set_threshold: float | None = None,
        left_out: tuple[int, ...] = (),
        sampled: SampledRows | None = None,
    ) -> None:
        self.part = part
        self.left_out = left_out
        self.num_classes = num_classes
        self.abstain = abstain
        self.temperature = temperature
        self.set_threshold = set_threshold
        self.sampled = sampled
        self.arrays = arrays
        lattice = part.lattice
        #: First row not yet finished; the row of windows being added starts here.
        self.row = part.row_starts[0]
        # First column of the buffers, and those of them that belong to the part.
        self._col = part.col_starts[0]
        self._own = slice(part.window.col - self._col, part.window.col_stop - self._col)
        size, width = lattice.size, part.col_starts[-1] + lattice.size - self._col
        # Ring buffers: row r of the scene is at r modulo `size`. A row of windows fills the ring,
        # so it begins once the rows above it are returned, however far they overlap.
        shape = (num_classes, size, width)
        self._sums = arrays.zeros(shape)
        self._known = arrays.zeros((size, width), "bool")
        self._known[...] = True
        self._votes = arrays.zeros(shape) if "votes" in needs else None
        self._sources = arrays.zeros((size, width), "uint8") if "sources" in needs else None
        self._without = arrays.zeros((len(left_out), *shape)) if "without" in needs else None
        # Likewise a ring, of the sampled rows: row r is at r / step modulo its size.
        self._sampled_votes = (
            arrays.zeros((num_classes, -(-size // sampled.step), width))
            if sampled is not None and "votes" in sampled.needs
            else None
        )
        side = _side_weights(lattice)
        self._weights = arrays.put(side[:, None] * side)
        # Every valid pixel receives all windows that cover it, so the sum of its weights is a
        # product of one sum along rows and one along columns.
        self._row_totals = arrays.put(_totals(lattice.row_counts, side))
        cols = slice(part.window.col, part.window.col_stop)
        self._col_totals = arrays.put(_totals(lattice.col_counts, side)[cols])
        limit = _CPU_BAND_ELEMENTS if arrays.is_near else _DEVICE_BAND_ELEMENTS
        self._band_rows = max(1, limit // (num_classes * width))

    @np.errstate(all="ignore")  # pixels without data may have any score, as with torch
    def add(
        self,
        window: Window,
        logits: Array | None,
        valid: Array,
        sources: Array | None = None,
        without: Array | None = None,
    ) -> None:
        """Add one window.

        Args:
            window: Window of the part, in the current row of windows.
            logits: Float32 (K, size, size), or None if the model was not run: the window's
                pixels then have no data.
            valid: Bool (size, size), true where any used modality has data.
            sources: Uint8 (size, size), bits of the modalities with data.
            without: Logits without each of the modalities left out (M, K, size, size); None: the
                model cannot be run without them.
        """
        assert window.row == self.row, (window, self.row)
        cols = slice(window.col - self._col, window.col_stop - self._col)
        times = self.part.lattice.times(window)
        own = largest(logits)[1] if logits is not None and self._votes is not None else None
        for ring, rows in self._pieces(window.row, window.row_stop):
            part = slice(rows.start - window.row, rows.stop - window.row)
            if self._sources is not None and sources is not None:
                self._sources[ring, cols] |= sources[part]
            if logits is None:
                self._known[ring, cols] = False
                continue
            if self._votes is not None and own is not None:
                weight = times * self._weights[part]
                self.arrays.add_votes(self._votes[:, ring, cols], own[part], weight)
            own_weights = self._weights[part]
            self.arrays.add_weighted(self._sums[:, ring, cols], logits[:, part], own_weights, times)
            # Windows agree on validity; `and` only matters next to windows not run.
            self._known[ring, cols] &= valid[part]
            if self._without is not None and without is not None:
                for total, own_logits in zip(self._without, without, strict=True):
                    self.arrays.add_weighted(
                        total[:, ring, cols], own_logits[:, part], own_weights, times
                    )
        if logits is not None:
            self._add_sampled_votes(window, logits, times)

    def _add_sampled_votes(self, window: Window, logits: Array, times: int) -> None:
        if self._sampled_votes is None or self.sampled is None:
            return
        rows = self.sampled.rows(window.row, window.row_stop)
        inside = slice(rows.start - window.row, None, rows.step)
        own = largest(logits[:, inside])[1]
        weights = times * self._weights[inside]
        cols = slice(window.col - self._col, window.col_stop - self._col)
        first, size = rows.start // rows.step, self._sampled_votes.shape[1]
        for ring, some in _pieces(first, first + len(rows), size):
            part = slice(some.start - first, some.stop - first)
            votes = self._sampled_votes[:, ring, cols]
            self.arrays.add_votes(votes, own[part], weights[part])

    @np.errstate(all="ignore")
    def advance(self, row: int, products: Sequence[Product]) -> Strip | None:
        """Return the part's rows before `row`, which no later window touches.

        Args:
            row: Start of the next row of windows, or the end of the part.
            products: Layers to compute.

        Returns:
            The rows; None if they all lie above the part.

        Raises:
            ModelError: The model returned NaN for pixels with data.
        """
        start = min(max(self.row, self.part.window.row), row)
        for ring, _ in self._pieces(self.row, start):
            self._forget(ring)
        strip = self._compute(start, row, products) if start < row else None
        if self._sampled_votes is not None:
            self._sampled_votes[:, self._sampled_ring(self.row, row)] = 0
        self.row = row
        return strip

    def average(self, row: int, stop: int) -> Array:
        """Return the part's averaged logits of rows `row` to `stop`, float32 (K, rows, width).

        Only meaningful for rows to which all windows have been added and that `advance` has not
        returned.
        """
        parts = [
            self._sums[:, ring, self._own] / self._total_weights(rows)
            for ring, rows in self._pieces(row, stop)
        ]
        return self.arrays.lib.concatenate(parts, axis=1)

    def _compute(self, start: int, stop: int, products: Sequence[Product]) -> Strip:
        shape = (stop - start, self.part.window.width)
        layers = {
            product.name: np.empty(
                (self.num_classes, *shape) if product.per_class else shape, product.dtype
            )
            for product in products
        }
        sampled = self._sample(start, stop)
        for ring, rows in self._pieces(start, stop, self._band_rows):
            part = slice(rows.start - start, rows.stop - start)
            votes = None if self._votes is None else self._votes[:, ring, self._own]
            final = self._finish(ring, rows, votes)
            known = self._known[ring, self._own]
            unknown = None if bool(known.all()) else ~known
            for product in products:
                values = product.compute(final)
                if product.is_masked and unknown is not None:
                    values = self.arrays.filled(values, unknown, product.nodata)
                layers[product.name][..., part, :] = self.arrays.to_numpy(values)
            self._forget(ring)
        return Strip(start, self.part.window.col, layers, sampled)

    def _sample(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Compute the products of the sampled rows from `start` to `stop`."""
        if self.sampled is None:
            return {}
        rows = self.sampled.rows(start, stop)
        shape = (len(rows), self.part.window.width)
        layers = {p.name: np.empty(shape, p.dtype) for p in self.sampled.layers}
        for begin in range(0, len(rows), self._band_rows):
            band = rows[begin : begin + self._band_rows]
            scene = self.arrays.put(np.asarray(band))
            ring = scene % self.part.lattice.size
            votes = self._sampled_votes
            if votes is not None:
                votes = votes[:, self._sampled_ring(band.start, band.stop)][:, :, self._own]
            final = self._finish(ring, scene, votes)
            unknown = ~self._known[ring, self._own]
            for product in self.sampled.layers:
                values = self.arrays.filled(product.compute(final), unknown, product.nodata)
                values = self.arrays.to_numpy(values)
                layers[product.name][begin : begin + len(band)] = values
        return layers

    def _sampled_ring(self, start: int, stop: int) -> Array:
        """Return the places in the buffer of the sampled rows from `start` to `stop`."""
        assert self.sampled is not None
        assert self._sampled_votes is not None
        rows = np.asarray(self.sampled.rows(start, stop), np.int64)
        return self.arrays.put(rows // self.sampled.step % self._sampled_votes.shape[1])

    def _forget(self, ring: slice) -> None:
        """Empty rows of the buffers."""
        self._sums[:, ring] = 0
        self._known[ring] = True
        for further in (self._votes, self._sources, self._without):
            if further is not None:
                further[..., ring, :] = 0

    def _pieces(
        self, start: int, stop: int, most: int | None = None
    ) -> Iterator[tuple[slice, slice]]:
        """Split scene rows `start` to `stop` where the ring wraps and into at most `most` rows."""
        return _pieces(start, stop, self.part.lattice.size, most)

    def _finish(self, ring: slice | Array, rows: slice | Array, votes: Array | None) -> FinalRows:
        """Return buffer rows in the form that products are computed from."""
        sums = self._sums[:, ring, self._own]
        best, index = largest(sums)
        lib, known = self.arrays.lib, self._known[ring, self._own]
        if lib.isnan(lib.amax(best)) and (lib.isnan(best) & known).any():
            raise ModelError(
                "the model returns NaN scores for pixels with data; its weights are broken, or "
                "precision '16-mixed' overflows: use '32-true'"
            )
        return FinalRows(
            sums=sums,
            totals=self._total_weights(rows),
            best=best,
            index=index,
            votes=votes,
            sources=None if self._sources is None else self._sources[ring, self._own],
            abstain=self.abstain,
            temperature=self.temperature,
            set_threshold=self.set_threshold,
            without=None if self._without is None else self._without[:, :, ring, self._own],
            left_out=self.left_out,
        )

    def _total_weights(self, rows: slice | Array) -> Array:
        return self._row_totals[rows, None] * self._col_totals


def _pieces(
    start: int, stop: int, size: int, most: int | None = None
) -> Iterator[tuple[slice, slice]]:
    """Split rows `start` to `stop` where a ring of `size` wraps and into at most `most` rows.

    Yields:
        Rows of the buffer, and the same rows of the scene.
    """
    while start < stop:
        ring = start % size
        height = min(stop - start, size - ring, most or size)
        yield slice(ring, ring + height), slice(start, start + height)
        start += height


def largest(scores: Array) -> tuple[Array, Array]:
    """Return the maximum over the first dimension and its index (the first of equal ones).

    Several times faster on a CPU than torch's `max(dim=0)`, which iterates over classes per pixel.

    Args:
        scores: Float (K, …), K at most 255.

    Returns:
        Maximum (…) and uint8 index (…); where a score is NaN, NaN and the last index.
    """
    arrays, count = arrays_of(scores), scores.shape[0]
    best = arrays.lib.amax(scores, axis=0)
    # Of equal ones the first has the largest rank. In bytes, of which a processor takes many at
    # once.
    ranks = np.arange(count, 0, -1, dtype=np.uint8).reshape(-1, *[1] * (scores.ndim - 1))
    ranked = arrays.as_bytes(arrays.equal(scores, best))
    ranked *= arrays.put(ranks)
    rank = arrays.clip(arrays.lib.amax(ranked, axis=0), 1, None)  # 0 where one is NaN
    return best, count - rank


def _side_weights(lattice: Lattice) -> NDArray[np.float32]:
    """Return the weights along one side of a window, float32 (size,): a taper, or ones."""
    if lattice.blending == "taper":
        return taper(lattice.size, lattice.overlap)
    return np.ones(lattice.size, np.float32)


def _totals(counts: Mapping[int, int], side: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum the weights along one side of the scene."""
    totals = np.zeros(max(counts) + len(side), np.float32)
    for start, times in counts.items():
        totals[start : start + len(side)] += times * side
    return totals
