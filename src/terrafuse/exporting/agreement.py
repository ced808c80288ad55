"""Does a written graph say what the model says?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from terrafuse.errors import ModelError
from terrafuse.exporting.running import Graph, fit_to_graph
from terrafuse.modalities import BandStatistics
from terrafuse.segmenter import Segmenter
from terrafuse.weights.portable import StoredPrecision

#: Least share of pixels with the same label, by the precision of the weights. Rounding them moves
#: pixels whose two best classes are nearly equal; int8 is judged by its scores beside.
LEAST_EQUAL: Mapping[StoredPrecision, float] = {"float32": 0.9999, "float16": 0.99, "int8": 0.8}
#: Largest difference of float32 logits, per unit of the largest logit: sums in another order.
_MOST_DIFFERENCE = 1e-4

Images = Mapping[str, Tensor]


@dataclass(frozen=True)
class Agreement:
    """What a comparison of a graph with its model found.

    Args:
        images: What they were compared on, in words.
        windows: Number of windows, each counted once per set of modalities that it was tried with.
        pixels: Of all of them.
        equal_labels: Share of pixels whose best class is the same.
        largest_difference: Of two logits, or of two logarithms of probabilities.
        largest_logit: By its size, of the model.
    """

    images: str
    windows: int
    pixels: int
    equal_labels: float
    largest_difference: float
    largest_logit: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def check(self, precision: StoredPrecision) -> None:
        """Refuse a graph that does not agree.

        Raises:
            ModelError: With what was found.
        """
        least = LEAST_EQUAL[precision]
        is_near = self.largest_difference <= _MOST_DIFFERENCE * max(1.0, self.largest_logit)
        is_exact = precision != "float32" or is_near
        if self.equal_labels >= least and is_exact and self.largest_difference < torch.inf:
            return
        remedy = {
            "float32": "Nothing was written. Please report it, with the method and its options",
            "float16": "Export without --half",
            "int8": "Export with --half, or without --int8",
        }[precision]
        raise ModelError(
            f"the graph does not agree with the model: on {self.images}, "
            f"{100 * self.equal_labels:.3f} % of the labels are equal, at least "
            f"{100 * least:g} % have to be, and logits differ by up to "
            f"{self.largest_difference:.2g} (the largest is {self.largest_logit:.2g}). {remedy}"
        )


def compare(
    segmenter: Segmenter,
    graph: Graph,
    batches: Sequence[Images],
    images: str,
    *,
    unit: int,
    least: int = 0,
    as_shares: bool = False,
) -> Agreement:
    """Compare a graph with its model, also without each modality where one may be missing.

    Args:
        segmenter: The model.
        graph: What was made of it.
        batches: Per modality (N, C_m, H_m, W_m) in physical units; NaN = no data.
        images: What they are, in words.
        unit: Sizes of the scene window in a graph are multiples of it.
        least: Smallest size.
        as_shares: Compare logarithms of probabilities, since the graph returns these.
    """
    windows = pixels = equal = 0
    difference = largest = 0.0
    with torch.no_grad():
        for batch in _with_gaps(segmenter, batches):
            whole, (height, width) = fit_to_graph(batch, segmenter.modalities, unit, least)
            # What was added to the window, where both see nothing, is no evidence.
            expected, found = (
                scores[..., :height, :width] for scores in (segmenter(whole).logits, graph(whole))
            )
            if as_shares:
                # As far as float32 tells probabilities from 0.
                expected = expected.log_softmax(dim=1).clamp_min(-80)
                found = found.clamp_min(-80)
            windows += len(expected)
            pixels += expected[:, 0].numel()
            equal += int((expected.argmax(dim=1) == found.argmax(dim=1)).sum())
            apart = (expected - found).abs().max()
            # NaN is no agreement.
            difference = max(difference, float(apart) if bool(apart.isfinite()) else torch.inf)
            largest = max(largest, float(expected.abs().max()))
    return Agreement(images, windows, pixels, equal / pixels, difference, largest)


def _with_gaps(segmenter: Segmenter, batches: Sequence[Images]) -> Iterator[Images]:
    """The batches; and the first of them without each of its modalities, and with a gap in each."""
    yield from batches
    names = list(batches[0])
    gap = {name: image.clone() for name, image in batches[0].items()}
    for image in gap.values():
        image[..., : image.shape[-2] // 4, : image.shape[-1] // 3] = torch.nan
    yield gap
    if segmenter.supports_missing and len(names) > 1:
        for name in names:
            yield {**batches[0], name: torch.full_like(batches[0][name], torch.nan)}


def random_images(
    segmenter: Segmenter,
    statistics: Mapping[str, BandStatistics],
    size: int,
    count: int = 2,
) -> Images:
    """Images of random values in the range of the training's.

    Args:
        segmenter: The model.
        statistics: Per modality.
        size: Side of the scene window, a multiple of what the scales need.
        count: N.
    """
    generator = torch.Generator().manual_seed(0)
    images = {}
    for modality in segmenter.modalities:
        own = statistics[modality.name]
        side = modality.size_at(size)
        mean, std, low, high = (
            torch.tensor(values).view(-1, 1, 1) for values in (own.mean, own.std, own.low, own.high)
        )
        noise = torch.randn((count, len(modality.bands), side, side), generator=generator)
        images[modality.name] = (mean + std * noise).clamp(low, high)
    return images
