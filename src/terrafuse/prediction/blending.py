"""Blending: weighted averages of overlapping windows' logits, and the map made from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrafuse.errors import ModelError
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


def taper(size: int, overlap: int) -> Tensor:
    """Return weights along one side of a window: a ramp 1, 2, … `overlap` + 1 at both ends.

    The weights of neighbours that share `overlap` pixels add up to the same total everywhere. They
    are integers, so that the average of equal integer logits is exact, and never 0, so that pixels
    at the scene's edge count.

    Args:
        size: Side of the window in pixels.
        overlap: Length of the ramp in pixels.

    Returns:
        Float32 tensor (size,).
    """
    position = torch.arange(size, dtype=torch.float32)
    return torch.minimum(position + 1, size - position).clamp(max=overlap + 1)


class Accumulator:
    """Sums of weighted logits over one row of windows, on the device.

    Windows are added in the part's order. When a row of windows is complete, the pixel rows above
    the start of the next are final: `advance` returns them and frees their buffer. Memory is one
    row of the part's windows, whatever the height of the scene and the overlap.

    Args:
        part: What is mapped.
        num_classes: Number of classes, K.
        device: Device of the logits and sums.
        needs: What the products need beside the sums of logits.
        abstain: As in `FinalRows`; so are the next three.
        sampled: What is computed in some rows only.
    """

    def __init__(
        self,
        part: Part,
        num_classes: int,
        *,
        device: torch.device | str = "cpu",
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
        self.device = torch.device(device)
        lattice = part.lattice
        #: First row not yet finished; the row of windows being added starts here.
        self.row = part.row_starts[0]
        # First column of the buffers, and those of them that belong to the part.
        self._col = part.col_starts[0]
        self._own = slice(part.window.col - self._col, part.window.col_stop - self._col)
        size, width = lattice.size, part.col_starts[-1] + lattice.size - self._col
        # Ring buffers: row r of the scene is at r modulo `size`. A row of windows fills the ring,
        # so it begins once the rows above it are returned, however far they overlap.
        self._sums = torch.zeros(num_classes, size, width, device=self.device)
        self._known = torch.ones(size, width, dtype=torch.bool, device=self.device)
        self._votes = torch.zeros_like(self._sums) if "votes" in needs else None
        self._sources = (
            torch.zeros(size, width, dtype=torch.uint8, device=self.device)
            if "sources" in needs
            else None
        )
        self._without = (
            torch.zeros(len(left_out), num_classes, size, width, device=self.device)
            if "without" in needs
            else None
        )
        # Likewise a ring, of the sampled rows: row r is at r / step modulo its size.
        self._sampled_votes = (
            torch.zeros(num_classes, -(-size // sampled.step), width, device=self.device)
            if sampled is not None and "votes" in sampled.needs
            else None
        )
        side = _side_weights(lattice).to(self.device)
        self._weights = side[:, None] * side
        # Every valid pixel receives all windows that cover it, so the sum of its weights is a
        # product of one sum along rows and one along columns.
        self._row_totals = _totals(lattice.row_counts, side)
        self._col_totals = _totals(lattice.col_counts, side)[part.window.col : part.window.col_stop]
        limit = _CPU_BAND_ELEMENTS if self.device.type == "cpu" else _DEVICE_BAND_ELEMENTS
        self._band_rows = max(1, limit // (num_classes * width))

    def add(
        self,
        window: Window,
        logits: Tensor | None,
        valid: Tensor,
        sources: Tensor | None = None,
        without: Tensor | None = None,
    ) -> None:
        """Add one window.

        Args:
            window: Window of the part, in the current row of windows.
            logits: Float tensor (K, size, size), or None if the model was not run: the window's
                pixels then have no data.
            valid: Bool tensor (size, size), true where any used modality has data.
            sources: Uint8 tensor (size, size), bits of the modalities with data.
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
                self._votes[:, ring, cols].scatter_add_(0, own[part][None].long(), weight[None])
            self._sums[:, ring, cols].addcmul_(logits[:, part], self._weights[part], value=times)
            # Windows agree on validity; `and` only matters next to windows not run.
            self._known[ring, cols] &= valid[part]
            if self._without is not None and without is not None:
                for total, own_logits in zip(self._without, without, strict=True):
                    total[:, ring, cols].addcmul_(
                        own_logits[:, part], self._weights[part], value=times
                    )
        if logits is not None:
            self._add_sampled_votes(window, logits, times)

    def _add_sampled_votes(self, window: Window, logits: Tensor, times: int) -> None:
        if self._sampled_votes is None or self.sampled is None:
            return
        rows = self.sampled.rows(window.row, window.row_stop)
        inside = slice(rows.start - window.row, None, rows.step)
        own = largest(logits[:, inside])[1][None].long()
        weights = (times * self._weights[inside])[None]
        cols = slice(window.col - self._col, window.col_stop - self._col)
        first, size = rows.start // rows.step, self._sampled_votes.shape[1]
        for ring, some in _pieces(first, first + len(rows), size):
            part = slice(some.start - first, some.stop - first)
            self._sampled_votes[:, ring, cols].scatter_add_(0, own[:, part], weights[:, part])

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

    def average(self, row: int, stop: int) -> Tensor:
        """Return the part's averaged logits of rows `row` to `stop`, float32 (K, rows, width).

        Only meaningful for rows to which all windows have been added and that `advance` has not
        returned.
        """
        parts = [
            self._sums[:, ring, self._own] / self._total_weights(rows)
            for ring, rows in self._pieces(row, stop)
        ]
        return torch.cat(parts, dim=1)

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
            unknown = ~self._known[ring, self._own]
            for product in products:
                values = product.compute(final)
                if product.is_masked:
                    values = values.masked_fill(unknown, product.nodata)
                layers[product.name][..., part, :] = values.cpu().numpy()
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
            scene = torch.tensor(band, device=self.device)
            ring = scene % self.part.lattice.size
            votes = self._sampled_votes
            if votes is not None:
                votes = votes[:, self._sampled_ring(band.start, band.stop)][:, :, self._own]
            final = self._finish(ring, scene, votes)
            unknown = ~self._known[ring, self._own]
            for product in self.sampled.layers:
                values = product.compute(final).masked_fill(unknown, product.nodata)
                layers[product.name][begin : begin + len(band)] = values.cpu().numpy()
        return layers

    def _sampled_ring(self, start: int, stop: int) -> Tensor:
        """Return the places in the buffer of the sampled rows from `start` to `stop`."""
        assert self.sampled is not None
        assert self._sampled_votes is not None
        rows = torch.tensor(self.sampled.rows(start, stop), dtype=torch.long, device=self.device)
        return rows // self.sampled.step % self._sampled_votes.shape[1]

    def _forget(self, ring: slice) -> None:
        """Empty rows of the buffers."""
        self._sums[:, ring].zero_()
        self._known[ring] = True
        for further in (self._votes, self._sources, self._without):
            if further is not None:
                further[..., ring, :].zero_()

    def _pieces(
        self, start: int, stop: int, most: int | None = None
    ) -> Iterator[tuple[slice, slice]]:
        """Split scene rows `start` to `stop` where the ring wraps and into at most `most` rows."""
        return _pieces(start, stop, self.part.lattice.size, most)

    def _finish(
        self, ring: slice | Tensor, rows: slice | Tensor, votes: Tensor | None
    ) -> FinalRows:
        """Return buffer rows in the form that products are computed from."""
        sums = self._sums[:, ring, self._own]
        best, index = largest(sums)
        known = self._known[ring, self._own]
        if (best.isnan() & known).any():
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

    def _total_weights(self, rows: slice | Tensor) -> Tensor:
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


def largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum over the first dimension and its index (the first of equal ones).

    Several times faster on a CPU than `Tensor.max(dim=0)`, which iterates over classes per pixel.

    Args:
        scores: Float tensor (K, …), K at most 255.

    Returns:
        Maximum (…) and uint8 index (…).
    """
    best = scores[0].clone()
    index = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for k in range(1, scores.shape[0]):
        # k increases, so the larger index is that of the later and better class.
        better = (scores[k] > best).view(torch.uint8).mul_(k)
        torch.maximum(index, better, out=index)
        torch.maximum(best, scores[k], out=best)
    return best, index


def _side_weights(lattice: Lattice) -> Tensor:
    """Return the weights along one side of a window, float32 (size,): a taper, or ones."""
    if lattice.blending == "taper":
        return taper(lattice.size, lattice.overlap)
    return torch.ones(lattice.size)


def _totals(counts: Mapping[int, int], side: Tensor) -> Tensor:
    """Sum the weights along one side of the scene."""
    totals = side.new_zeros(max(counts) + len(side))
    for start, times in counts.items():
        totals[start : start + len(side)] += times * side
    return totals
