"""Contrast between sensors: which images show the same place.

Reference: Scheibenreif, Hanna, Mommert, Borth: "Self-supervised vision transformers for land-cover
segmentation and classification", CVPR Workshops 2022, DOI 10.1109/CVPRW56347.2022.00148. Loss:
Chen, Kornblith, Norouzi, Hinton: "A simple framework for contrastive learning of visual
representations" (SimCLR), ICML 2020, arXiv 2002.05709; sensors take the place of random views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.backbones import Backbone
from terrafuse.errors import ModelError


class SSLViTPretraining(nn.Module):
    """Vectors of the same place alike in all sensors, of different places unlike.

    Args:
        backbones: One per sensor, by its name; what learns. Their last level, normalised and
            averaged over pixels, is compared: there is no projection.
        temperature: τ.

    Raises:
        ModelError: A single sensor, vectors of different length, or no temperature.
    """

    def __init__(self, backbones: Mapping[str, Backbone], *, temperature: float = 0.2) -> None:
        super().__init__()
        widths = {name: backbone.channels[-1] for name, backbone in backbones.items()}
        if len(widths) < 2 or len(set(widths.values())) > 1 or temperature <= 0:
            raise ModelError(
                "contrast needs two sensors or more whose backbones end in equally many channels, "
                f"and a temperature above 0; got {widths} and {temperature:g}"
            )
        self.backbones = nn.ModuleDict(backbones)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items()})
        self.temperature = temperature

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of images (N, C, H, W) of all sensors, by their names: "contrast"."""
        vectors = [self.embed(name, image) for name, image in images.items()]
        return {"contrast": contrast(vectors, self.temperature)}

    def embed(self, name: str, image: Tensor) -> Tensor:
        """Vector (N, D) of images (N, C, H, W) of a sensor."""
        last = self.backbones[name](image)[-1].flatten(2).transpose(1, 2)  # (N, L, D)
        vector: Tensor = self.norms[name](last).mean(dim=1)
        return vector


def contrast(vectors: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean cross entropy of finding the same place in another sensor.

    Args:
        vectors: Per sensor (N, D), of the same places in the same order.
        temperature: τ.
    """
    logits = contrast_logits(vectors, temperature)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def contrast_logits(vectors: Sequence[Tensor], temperature: float) -> Tensor:
    """Cosines over τ: first with the same place in another sensor, then with all other places.

    Args:
        vectors: Per sensor (N, D).
        temperature: τ.

    Returns:
        A row per vector and other sensor (M (M − 1) N, 1 + M (N − 1)), for M sensors.
    """
    count, samples = len(vectors), len(vectors[0])
    x = F.normalize(torch.cat(list(vectors)).float(), dim=1)
    cosines = x @ x.T / temperature  # (M · N, M · N)
    place = torch.arange(samples, device=x.device).repeat(count)
    elsewhere = place[:, None] != place[None, :]
    negatives = cosines[elsewhere].reshape(count * samples, -1)
    rows = []
    for step in range(1, count):  # the sensor `step` further on
        other = torch.arange(count * samples, device=x.device).roll(-step * samples)
        positive = cosines.gather(1, other[:, None])
        rows.append(torch.cat([positive, negatives], dim=1))
    return torch.cat(rows)
