"""Losses over pixels and over regions, and their weighted sums.

A new loss is a class that is a `Loss`, and its line in `LOSSES`; or, outside the package,
`module:Name` or an entry point.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.classes import ClassScheme
from terrafuse.config import LossConfig
from terrafuse.config.options import check_options
from terrafuse.errors import ConfigError, LabelError
from terrafuse.plugins import find
from terrafuse.samples import IGNORE_INDEX
from terrafuse.segmenter import SegmenterOutput

ClassWeights = Sequence[float] | Literal["balanced"] | None

_EPS = 1e-5
#: Bounds of the class weights of "acw" in the published form.
_BOUNDS = (0.01, 1.0)


class Loss(Protocol):
    """Protocol of losses that `training.losses` can name.

    Pixels labelled 255 are left out, the loss is computed in float32 whatever the precision of
    training, and it is exactly 0 (with a graph) for a batch without a labelled pixel.

    Where several batches make a step, each counts by its labelled pixels. A loss that divides by
    something else says so in a method `denominator(labels)`, a scalar: the step then has the
    gradient of one large batch.

    Args:
        counts: Pixels per class of the training split, int64 (K,).
        options: Keyword-only, with defaults: the options available in run.yaml.
    """

    def __init__(self, counts: Tensor, **options: Any) -> None: ...

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (N, K, H, W) and labels (N, H, W)."""
        ...


class CrossEntropy(nn.Module):
    """Mean over labelled pixels of −log p of the labelled class, weighted by class.

    As in `torch.nn.functional.cross_entropy`, the sum is divided by the sum of the pixels' weights.

    Args:
        counts: Pixels per class of the training split, int64 (K,).
        class_weights: One per class, or "balanced" (`balanced_weights`).
        label_smoothing: Share of the target spread uniformly over all classes, 0 to 1.
        ohem: Share of a batch's labelled pixels that count, those with the largest weighted loss
            (online hard example mining); None = all.
    """

    weights: Tensor | None

    def __init__(
        self,
        counts: Tensor,
        *,
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
        ohem: float | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weights", _resolve_weights("class_weights", class_weights, counts))
        self.label_smoothing = _within("label_smoothing", label_smoothing, 0, 1)
        self.ohem = None if ohem is None else _within("ohem", ohem, 0, 1)
        if self.ohem == 0:
            raise ConfigError("loss option 'ohem' is 0: no pixel would count; leave it out for all")

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (N, K, H, W) and labels (N, H, W)."""
        losses = F.cross_entropy(
            logits.float(),
            labels,
            self.weights,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )  # (N, H, W), 0 where ignored
        shares = _pixel_weights(labels, self.weights)
        if self.ohem is not None:
            known = labels != IGNORE_INDEX
            losses, shares = losses[known], shares[known]  # (P,)
            hardest = losses.detach().topk(ceil(self.ohem * len(losses))).indices
            losses, shares = losses[hardest], shares[hardest]
        return _mean(losses.sum(), shares.sum())

    def denominator(self, labels: Tensor) -> Tensor:
        """Return the sum of the weights of the labelled pixels, whatever `ohem` leaves of them."""
        return _weight_of(labels, self.weights)


class Dice(nn.Module):
    """1 − mean over classes of the soft Dice coefficient 2 Σ p y / (Σ p + Σ y).

    Sums run over all labelled pixels of the batch; a class without a pixel in the labels is left
    out of the mean, so no smoothing constant is needed.

    Args:
        counts: Unused; every loss is built alike.

    Reference:
        Milletari et al., "V-Net", 3DV 2016 (there with squares in the denominator).
    """

    def __init__(self, counts: Tensor) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (N, K, H, W) and labels (N, H, W)."""
        probs = logits.float().softmax(dim=1)
        known = (labels != IGNORE_INDEX).unsqueeze(1)  # (N, 1, H, W)
        truth = one_hot(labels, logits.shape[1])
        overlap = torch.where(truth, probs, 0.0).sum(dim=(0, 2, 3))  # (K,)
        predicted = torch.where(known, probs, 0.0).sum(dim=(0, 2, 3))
        pixels = truth.sum(dim=(0, 2, 3))
        present = pixels > 0
        # An absent class has predicted + pixels ≥ 0, possibly 0: it must not divide.
        dice = 2 * overlap / torch.where(present, predicted + pixels, 1.0)
        return _mean(torch.where(present, 1 - dice, 0.0).sum(), present.sum())


class Focal(nn.Module):
    """Mean over labelled pixels of −α (1 − p)^γ log p of the labelled class.

    Args:
        counts: Pixels per class of the training split, int64 (K,).
        gamma: Focusing exponent γ, which discounts well-classified pixels; 0 = cross-entropy.
        alpha: Weight per class, or "balanced" (`balanced_weights`). Unlike in cross-entropy, the
            sum is not divided by the weights.

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """

    alpha: Tensor | None

    def __init__(self, counts: Tensor, *, gamma: float = 2.0, alpha: ClassWeights = None) -> None:
        super().__init__()
        self.gamma = _within("gamma", gamma, 0, 10)
        self.register_buffer("alpha", _resolve_weights("alpha", alpha, counts))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (N, K, H, W) and labels (N, H, W)."""
        losses = F.cross_entropy(
            logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none"
        )  # −log p, (N, H, W)
        # The bound keeps the gradient finite at p = 1 if gamma < 1.
        miss = -torch.expm1(-losses).clamp(max=-1e-6)
        losses = _pixel_weights(labels, self.alpha) * miss**self.gamma * losses
        return _mean(losses.sum(), (labels != IGNORE_INDEX).sum())


class Lovasz(nn.Module):
    """Lovász-softmax: the convex extension of the Jaccard loss 1 − IoU, mean over classes.

    The whole batch is one set of pixels; a class without a pixel in the labels is left out.

    Args:
        counts: Unused; every loss is built alike.

    Reference:
        Berman et al., "The Lovász-Softmax Loss", CVPR 2018, equations 9 and 11, algorithm 1.
    """

    def __init__(self, counts: Tensor) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (N, K, H, W) and labels (N, H, W)."""
        known = labels != IGNORE_INDEX
        probs = logits.float().softmax(dim=1).movedim(1, -1)[known]  # (P, K)
        labels = labels[known]  # (P,)
        pixels = torch.bincount(labels, minlength=logits.shape[1]).tolist()
        present = [k for k, count in enumerate(pixels) if count]
        if not present:
            return _no_loss(logits)
        return torch.stack([_lovasz_of_class(probs[:, k], labels == k) for k in present]).mean()


class Tversky(nn.Module):
    """1 − mean over classes of the soft Tversky index O / (O + α Σ p (1 − y) + β Σ (1 − p) y).

    O = Σ p y; sums run over all labelled pixels of the batch, and a class without a pixel in the
    labels is left out of the mean, as in `Dice`, which is the case α = β = 0.5.

    Args:
        counts: Unused; every loss is built alike.
        alpha: Weight of false positives, 0 to 1.
        beta: Weight of false negatives, 0 to 1; above `alpha`, thin and rare classes are missed
            less often.

    Reference:
        Salehi, Erdogmus, Gholipour: "Tversky loss function for image segmentation using 3D fully
        convolutional deep networks", MLMI 2017, equation 4 and its best α and β.
    """

    def __init__(self, counts: Tensor, *, alpha: float = 0.3, beta: float = 0.7) -> None:  # noqa: ARG002
        super().__init__()
        self.alpha, self.beta = _within("alpha", alpha, 0, 1), _within("beta", beta, 0, 1)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (N, K, H, W) and labels (N, H, W)."""
        probs = logits.float().softmax(dim=1)
        known = (labels != IGNORE_INDEX).unsqueeze(1)  # (N, 1, H, W)
        truth = one_hot(labels, logits.shape[1])
        overlap, false_positive, false_negative = (
            torch.where(where, values, 0.0).sum(dim=(0, 2, 3))  # (K,)
            for where, values in ((truth, probs), (known & ~truth, probs), (truth, 1 - probs))
        )
        present = truth.sum(dim=(0, 2, 3)) > 0
        whole = overlap + self.alpha * false_positive + self.beta * false_negative
        index = overlap / torch.where(whole > 0, whole, 1.0)
        return _mean(torch.where(present, 1 - index, 0.0).sum(), present.sum())


class AdaptiveClassWeighting(nn.Module):
    """Adaptive class weighting ("ACW"): PNC · CE − log D, or PNC − log D.

    With p the probabilities, y the one-hot labels, e = (y − p)² and f the class frequencies as a
    running mean over training batches:

        m_c = mean(f) / (f_c + ε), divided by Σ m;   a_c = (1 + p_c + y_c) m_c
        PNC = mean over pixels of Σ_c a_c (e_c − log((1 − e_c + ε) / (1 + e_c + ε)))
        D   = mean over classes of (2 Σ p y + ε) / (Σ (p + y) + ε)

    and CE the cross-entropy; ε = 1e-5. Ignored pixels count in the denominator of PNC's mean.

    Args:
        counts: Pixels per class of the training split, int64 (K,); only K is used.
        form: "released": the first formula, which the authors' code of PAGNet computes;
            "published": the second, of MSCG-Net, with m clamped to 0.01 to 1.

    Reference:
        Liu et al., MSCG-Net, CVPR workshops 2020, and the code of PAGNet (samleoqh/MultiModNet,
        which defines both and uses the second definition). There, validation updates f, too.
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
        """Return the scalar loss of logits (N, K, H, W) and labels (N, H, W)."""
        logits = logits.float()
        known = (labels != IGNORE_INDEX).unsqueeze(1)  # (N, 1, H, W)
        truth = one_hot(labels, logits.shape[1]).float()
        # Masked, as probs is also a factor: ignored pixels contribute neither loss nor gradient.
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

    def denominator(self, labels: Tensor) -> Tensor:
        """Return the number of pixels, labelled or not."""
        return torch.tensor(labels.numel(), dtype=torch.float64)

    @torch.no_grad()
    def _weigh(self, truth: Tensor) -> Tensor:
        """Count the batch and return the weights m (K,)."""
        pixels = truth.sum(dim=(0, 2, 3))
        if self.training and pixels.any():
            self.batches += 1
            self.frequencies += (pixels / pixels.sum() - self.frequencies) / self.batches
        weights = self.frequencies.mean() / (self.frequencies + _EPS)
        weights = weights / weights.sum().clamp(min=_EPS)
        return weights.clamp(*_BOUNDS) if self.form == "published" else weights


#: All losses by name; each satisfies `Loss`.
LOSSES: Mapping[str, type[Loss]] = {
    "acw": AdaptiveClassWeighting,
    "cross_entropy": CrossEntropy,
    "dice": Dice,
    "focal": Focal,
    "lovasz": Lovasz,
    "tversky": Tversky,
}


class WeightedSum(nn.Module):
    """Weighted sum of losses over the main head, the auxiliary heads and a method's own terms.

    Args:
        losses: Losses by the name under which they are reported.
        weights: One weight per loss, in the same order.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.weights = tuple(weights)

    def denominators(self, labels: Tensor) -> Tensor:
        """Return what each loss counts a batch by: float64 (number of losses,), on the CPU.

        Args:
            labels: Class indices (N, H, W); 255 = ignore.
        """
        own = (getattr(loss, "denominator", None) for loss in self.losses.values())
        found = [_weight_of(labels, None) if count is None else count(labels) for count in own]
        return torch.stack([value.detach().double().cpu() for value in found])

    def forward(
        self,
        output: SegmenterOutput,
        labels: Tensor,
        aux_weight: float = 0.0,
        factors: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the scalar terms of the loss, unweighted, and their weighted sum.

        Args:
            output: A segmenter's output for the batch.
            labels: Class indices (N, H, W); 255 = ignore.
            aux_weight: Weight of each auxiliary head.
            factors: Factor on each loss (number of losses,); None: 1. A method's own terms have
                none.

        Returns:
            "total", then each loss by name on the main head, "aux" (the sum over the auxiliary
            heads, if there are any) and the method's own terms, which are weighted already.
        """
        with torch.autocast(labels.device.type, enabled=False):
            terms = self._of_head(output.logits, labels, factors)
            total = self._weigh(terms)
            if output.aux_logits:
                heads = [
                    self._weigh(self._of_head(logits, labels, factors))
                    for logits in output.aux_logits
                ]
                terms["aux"] = torch.stack(heads).sum()
                total = total + aux_weight * terms["aux"]
            for name, value in output.losses.items():
                terms[name] = value.float()
                total = total + terms[name]
        return {"total": total, **terms}

    def _of_head(self, logits: Tensor, labels: Tensor, factors: Tensor | None) -> dict[str, Tensor]:
        terms = {name: loss(logits, labels) for name, loss in self.losses.items()}
        if factors is None:
            return terms
        return {name: term * f for (name, term), f in zip(terms.items(), factors, strict=True)}

    def _weigh(self, terms: Mapping[str, Tensor]) -> Tensor:
        weighted = [w * term for w, term in zip(self.weights, terms.values(), strict=True)]
        return torch.stack(weighted).sum()


def create_loss(
    configs: Sequence[LossConfig], scheme: ClassScheme, class_counts: Tensor
) -> WeightedSum:
    """Create the loss that a run's settings describe.

    Args:
        configs: Names, weights and options of the terms.
        scheme: Classes of the dataset, for messages.
        class_counts: Labelled pixels per class of the training split, int64 (K,).

    Raises:
        UnknownNameError: A loss or option does not exist.
        ConfigError: An option's value is not allowed.
        LabelError: No class has a labelled pixel.
    """
    options = check_losses(configs)
    if len(class_counts) != scheme.num_classes:
        raise ConfigError(
            f"{len(class_counts)} class counts for the {scheme.num_classes} classes "
            f"{', '.join(scheme.names)}"
        )
    if not class_counts.sum() > 0:
        raise LabelError(
            "the training split has no labelled pixel: every label is ignored. Check 'code' and "
            "'void' of the classes in the manifest"
        )
    losses: dict[str, nn.Module] = {}
    for config, values in zip(configs, options, strict=True):
        # As it is reported: a module's name must not be part of one, nor a dot.
        name = config.name.rpartition(":")[2].replace(".", "_")
        while name in losses:
            name += "_again"
        loss = find_loss(config.name)(class_counts, **values)
        assert isinstance(loss, nn.Module), name
        losses[name] = loss
    return WeightedSum(losses, [config.weight for config in configs])


def check_losses(configs: Sequence[LossConfig]) -> list[dict[str, Any]]:
    """Refuse losses and options that do not exist.

    Returns:
        Options per loss, converted to the annotated types.

    Raises:
        UnknownNameError: Names the nearest one that does.
        PluginError: One is from outside the package, and cannot be imported or is no loss.
        ModelError: An option is of another type.
        ConfigError: All weights are 0.
    """
    found = [find_loss(config.name) for config in configs]
    if not any(config.weight > 0 for config in configs):
        raise ConfigError("every weight in training.losses is 0: there is nothing to learn from")
    return [
        check_options("loss", config.name, loss, config.options)
        for config, loss in zip(configs, found, strict=True)
    ]


def find_loss(name: str) -> type[Loss]:
    """The class of a loss.

    Args:
        name: One of `LOSSES`, of an installed plug-in, or `module:Class`.

    Raises:
        UnknownNameError: No such loss; the nearest is named.
        PluginError: It is from outside the package, and cannot be imported or is no loss.
    """
    loss: type[Loss] = find(
        "loss", name, LOSSES, _is_loss, "a subclass of torch.nn.Module that takes (counts, *, "
        "options), called with logits and labels",
    )  # fmt: skip
    return loss


def _is_loss(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Encode labels (N, H, W) as bool (N, K, H, W), all false where ignored."""
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1, 1)
    return labels.unsqueeze(1) == classes


def balanced_weights(counts: Tensor) -> Tensor:
    """Return class weights w_k = f_k^(−1/2) / Σ_j f_j^(1/2), f_k the share of class k in labels.

    The inverse square root helps rare classes without letting a handful of pixels dominate; the
    divisor makes the mean weight over pixels 1. A class without pixels gets 1.

    Args:
        counts: Pixels per class, int64 (K,).
    """
    shares = counts.double() / counts.sum()
    weights = shares.clamp(min=torch.finfo(torch.double).tiny) ** -0.5 / shares.sqrt().sum()
    return torch.where(counts > 0, weights, 1.0).float()


def _lovasz_of_class(probs: Tensor, truth: Tensor) -> Tensor:
    """Return the Lovász extension of the Jaccard loss of one class: probs and truth (P,)."""
    errors = torch.where(truth, 1 - probs, probs)
    errors, order = errors.sort(descending=True)
    truth = truth[order].float()
    pixels = truth.sum()
    overlap = pixels - truth.cumsum(0)
    union = pixels + (1 - truth).cumsum(0)
    jaccard = 1 - overlap / union
    return errors @ torch.diff(jaccard, prepend=jaccard.new_zeros(1))


def _pixel_weights(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weight of each pixel's class (N, H, W), 0 where ignored."""
    known = labels != IGNORE_INDEX
    if weights is None:
        return known.float()
    return torch.where(known, weights[torch.where(known, labels, 0)], 0.0)


def _weight_of(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the sum of the weights of all labelled pixels, a float64 scalar on the CPU."""
    counts = torch.bincount(labels[labels != IGNORE_INDEX]).cpu().double()
    return counts.sum() if weights is None else counts @ weights[: len(counts)].cpu().double()


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """Return `total` / `count`, or `total` (an empty sum) if nothing was counted."""
    return total / torch.where(count > 0, count, 1)


def _no_loss(logits: Tensor) -> Tensor:
    """Return 0 with a graph: an empty sum, since 0 · inf is not 0."""
    return logits[:0].float().sum()


def _within(option: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ConfigError(f"loss option '{option}' is {value:g}; allowed is {low:g} to {high:g}")
    return value


def _resolve_weights(option: str, value: ClassWeights, counts: Tensor) -> Tensor | None:
    if value is None:
        return None
    if value == "balanced":
        return balanced_weights(counts)
    weights = torch.tensor([float(weight) for weight in value])
    if len(weights) != len(counts) or not ((weights >= 0).all() and 0 < weights.sum() < inf):
        raise ConfigError(
            f"loss option '{option}' is {list(value)}; give {len(counts)} numbers (one per class, "
            "in the manifest's order, not negative, not all 0) or 'balanced'"
        )
    return weights
