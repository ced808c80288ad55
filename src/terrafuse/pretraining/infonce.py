"""Contrastive learning between sensors: identify the images of the same place.

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
    """Contrastive loss that draws vectors of the same place together across sensors.

    Args:
        backbones: Trained backbones, by sensor. Their last level, normalised and averaged over
            pixels, is compared directly, without a projection.
        temperature: τ.

    Raises:
        ModelError: A single sensor, vectors of different lengths, or a temperature not above 0.
    """

    def __init__(self, backbones: Mapping[str, Backbone], *, temperature: float = 0.2) -> None:
        super().__init__()
        widths = {name: backbone.channels[-1] for name, backbone in backbones.items()}
        if len(widths) < 2 or len(set(widths.values())) > 1 or temperature <= 0:
            raise ModelError(
                "contrast needs two or more sensors whose backbones end in equally many channels, "
                f"and a temperature above 0; got {widths} and {temperature:g}"
            )
        self.backbones = nn.ModuleDict(backbones)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items()})
        self.temperature = temperature

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss "contrast" of images (N, C, H, W) of all sensors, by sensor."""
        vectors = [self.embed(name, image) for name, image in images.items()]
        return {"contrast": contrast(vectors, self.temperature)}

    def embed(self, name: str, image: Tensor) -> Tensor:
        """Embed images (N, C, H, W) of a sensor as vectors (N, D)."""
        last = self.backbones[name](image)[-1].flatten(2).transpose(1, 2)  # (N, L, D)
        vector: Tensor = self.norms[name](last).mean(dim=1)
        return vector


def contrast(vectors: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean cross-entropy of identifying the same place in another sensor.

    Args:
        vectors: Per sensor (N, D), of the same places in the same order.
        temperature: τ.
    """
    logits = contrast_logits(vectors, temperature)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def contrast_logits(vectors: Sequence[Tensor], temperature: float) -> Tensor:
    """Cosines divided by τ: first with the same place in another sensor, then with all others.

    Args:
        vectors: Per sensor (N, D).
        temperature: τ.

    Returns:
        A row per vector and other sensor, (M (M − 1) N, 1 + M (N − 1)) for M sensors.
    """
    count, samples = len(vectors), len(vectors[0])
    x = F.normalize(torch.cat(list(vectors)).float(), dim=1)
    cosines = x @ x.T / temperature  # (M · N, M · N)
    places = torch.arange(samples, device=x.device)
    others = places[:-1] + (places[:-1] >= places[:, None])  # (N, N - 1): all but the row's own
    columns = torch.cat([others + sensor * samples for sensor in range(count)], dim=1)
    negatives = cosines.gather(1, columns.repeat(count, 1))  # (M · N, M (N - 1))
    rows = []
    for step in range(1, count):  # the sensor `step` positions further
        other = torch.arange(count * samples, device=x.device).roll(-step * samples)
        positive = cosines.gather(1, other[:, None])
        rows.append(torch.cat([positive, negatives], dim=1))
    return torch.cat(rows)
