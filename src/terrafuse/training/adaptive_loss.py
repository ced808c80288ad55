"""A loss that weighs classes by how rare they have been in training so far."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.samples import IGNORE_INDEX

_EPS = 1e-5
#: Bounds of class weights in the published form.
_BOUNDS = (0.01, 1.0)


class AdaptiveClassWeighting(nn.Module):
    """Adaptive class weighting ("ACW"): PNC · CE − log D, or PNC − log D.

    With p the probabilities, y the one-hot labels, e = (y − p)² and f the class frequencies, a
    running mean over the batches of training:

        m_c = mean(f) / (f_c + ε), divided by Σ m;   a_c = (1 + p_c + y_c) m_c
        PNC = mean over pixels of Σ_c a_c (e_c − log((1 − e_c + ε) / (1 + e_c + ε)))
        D   = mean over classes of (2 Σ p y + ε) / (Σ (p + y) + ε)

    and CE the cross-entropy; ε is 1e-5. Ignored pixels count in the denominator of PNC's mean.

    Args:
        counts: Pixels per class of the training split, int64 (K,); only K is taken from them.
        form: "released" is the first formula, which the authors' code of PAGNet computes;
            "published" the second, of MSCG-Net, with m between 0.01 and 1.

    Reference:
        Liu et al., MSCG-Net, CVPR workshops 2020, and the code of PAGNet (samleoqh/MultiModNet,
        which defines both and computes the second definition). There, validation moves f, too.
    """

    frequencies: Tensor
    batches: Tensor

    def __init__(
        self, counts: Tensor, *, form: Literal["released", "published"] = "released"
    ) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("frequencies", torch.zeros(len(counts)))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of logits (N, K, H, W) and labels (N, H, W)."""
        logits = logits.float()
        known = (labels != IGNORE_INDEX).unsqueeze(1)  # (N, 1, H, W)
        classes = torch.arange(logits.shape[1], device=labels.device).view(1, -1, 1, 1)
        truth = (labels.unsqueeze(1) == classes).float()  # (N, K, H, W)
        # Also a factor: what lies under ignored pixels plays no part, nor does its gradient.
        probs = torch.where(known, logits.softmax(dim=1), 0.0)
        weights = self._weigh(truth)
        errors = (truth - probs).square()
        losses = errors - torch.log((1 - errors + _EPS) / (1 + errors + _EPS))
        pixel_loss = (1 + probs + truth) * weights.view(1, -1, 1, 1) * losses
        negative_classes = pixel_loss.sum() / labels.numel()
        overlap = (2 * (probs * truth).sum(dim=(0, 2, 3)) + _EPS) / (
            (probs + truth).sum(dim=(0, 2, 3)) + _EPS
        )
        dice = -overlap.mean().log()
        if self.form == "published":
            return negative_classes + dice
        entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
        return negative_classes * entropy / known.sum().clamp(min=1) + dice

    @torch.no_grad()
    def _weigh(self, truth: Tensor) -> Tensor:
        """Weights m (K,), after the batch has been counted."""
        pixels = truth.sum(dim=(0, 2, 3))
        if self.training and pixels.any():
            self.batches += 1
            self.frequencies += (pixels / pixels.sum() - self.frequencies) / self.batches
        weights = self.frequencies.mean() / (self.frequencies + _EPS)
        weights = weights / weights.sum().clamp(min=_EPS)
        return weights.clamp(*_BOUNDS) if self.form == "published" else weights
