"""`Segmenter`: the one model contract. Physical values in, class scores out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, lcm
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.backbones import Backbone
from terrafuse.errors import InputShapeError, MissingModalityError, ModelError
from terrafuse.modalities import BandStatistics, Modality, window_alignment
from terrafuse.samples import round_up
from terrafuse.tracing import is_traced, resize_traced, same_size, times

#: Height and width of the smallest window of a graph.
_LEAST_GRAPH = 64
# Share of a resampled pixel above which it is known. What is half known is not, however a graph
# and the model, which add up in other orders, round its share.
_MOSTLY = 0.5 + 1e-5


@dataclass
class SegmenterOutput:
    """Output of a segmenter.

    Args:
        logits: Class scores before softmax (N, K, H, W), on the scene grid.
        aux_logits: Scores of auxiliary heads, same shape; weighted by `training.aux_weight`.
        losses: Further scalar loss terms of a method, by name, already weighted.
    """

    logits: Tensor
    aux_logits: tuple[Tensor, ...] = ()
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """Input of `segment`: checked, normalised, padded.

    Args:
        images: Per modality, normalised (N, C_m, H_m, W_m); 0 where there is no data. All cover the
            same ground; sizes are multiples of the method's stride.
        valid: Per modality, bool (N, 1, H_m, W_m).
        size: Size of the padded scene window (H, W), to which logits are resized.
    """

    images: dict[str, Tensor]
    valid: dict[str, Tensor]
    size: tuple[int, int]

    @classmethod
    def of(cls, prepared: Mapping[str, tuple[Tensor, Tensor]], size: tuple[int, int]) -> Inputs:
        """Take image and mask of each modality apart."""
        images = {name: image for name, (image, _) in prepared.items()}
        return cls(images, {name: mask for name, (_, mask) in prepared.items()}, size)

    def present(self, name: str) -> Tensor:
        """Samples that have any data of this modality, bool (N,)."""
        return self.valid[name].flatten(1).any(dim=1)


class SensorModel(nn.Module):
    """A model of images from several sensors, with its normalisation.

    Inputs are in physical units. The base class normalises them with stored statistics, fills
    pixels without data with 0 (the mean), resamples modalities to the model's sizes, and pads.

    Args:
        modalities: Modalities of the input, in order.
    """

    def __init__(self, modalities: Sequence[Modality]) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        for modality in self.modalities:
            bands = len(modality.bands)
            self.register_buffer(f"mean_{modality.name}", torch.zeros(bands))
            self.register_buffer(f"std_{modality.name}", torch.ones(bands))

    def backbones(self) -> list[Backbone]:
        """Return every backbone of the model."""
        return [module for module in self.modules() if isinstance(module, Backbone)]

    def lr_factors(self) -> dict[str, float]:
        """Return learning-rate factors, by the name of a parameter or submodule.

        Any module of a model may have such a method, with names relative to it; factors multiply.
        """
        return {}

    def set_statistics(self, statistics: Mapping[str, BandStatistics]) -> None:
        """Store the normalisation; it is saved with the weights.

        Raises:
            ModelError: A modality is missing, or a band is constant.
            BandError: A backbone expects values on another scale.
        """
        for modality in self.modalities:
            if modality.name not in statistics:
                raise ModelError(f"no statistics for modality '{modality.name}'")
            values = statistics[modality.name]
            for band, std in zip(modality.bands, values.std, strict=True):
                if not std > 0:
                    raise ModelError(
                        f"band '{band}' of modality '{modality.name}' is constant over the "
                        "training split (standard deviation 0 or undefined); leave it out of "
                        "'bands', and out of what 'read_bands' takes (terrafuse data check --fix)"
                    )
            self.get_buffer(f"mean_{modality.name}").copy_(torch.tensor(values.mean))
            self.get_buffer(f"std_{modality.name}").copy_(torch.tensor(values.std))
        for backbone in self.backbones():
            backbone.set_statistics(statistics)

    def set_pixel_size(self, metres: float) -> None:
        """Pass the ground pixel size of scenes to backbones that take it into account."""
        own = {m.name: self._target_size(m, (2**16, 2**16))[0] for m in self.modalities}
        for backbone in self.backbones():
            backbone.set_pixel_sizes({name: metres * 2**16 / size for name, size in own.items()})

    def normalize(self, name: str, image: Tensor) -> Tensor:
        """(x − mean) / std per band, in float32; NaN stays NaN."""
        mean = self.get_buffer(f"mean_{name}").view(1, -1, 1, 1)
        std = self.get_buffer(f"std_{name}").view(1, -1, 1, 1)
        return (image.float() - mean).div_(std)

    def prepare(
        self,
        images: Mapping[str, Tensor],
        valid: Mapping[str, Tensor],
        padded: tuple[int, int],
        whole: frozenset[str] | None = None,
    ) -> Inputs:
        """Normalise and pad images and their valid masks.

        Args:
            images: Per modality (N, C_m, H_m, W_m) in physical units; NaN = no data; absent
                modalities may be omitted.
            valid: Per modality bool (N, H_m, W_m); modalities may be omitted.
            padded: Size of the padded scene window.
            whole: Modalities known to have data everywhere; None: it is found out.
        """
        whole = _whole(images, valid) if whole is None else whole
        prepared = {m.name: self._prepare(m, images, valid, padded, whole) for m in self.modalities}
        return Inputs.of(prepared, padded)

    def _prepare(
        self,
        modality: Modality,
        images: Mapping[str, Tensor],
        valid: Mapping[str, Tensor],
        padded: tuple[int, int],
        whole: frozenset[str],
    ) -> tuple[Tensor, Tensor]:
        target = self._target_size(modality, padded)
        if modality.name not in images:
            like = next(iter(images.values()))
            shape = (like.shape[0], len(modality.bands), *target)
            image = like.new_zeros(shape, dtype=torch.float32)
            return image, like.new_zeros((shape[0], 1, *target), dtype=torch.bool)
        image, mask = images[modality.name], valid.get(modality.name)
        # Modality pixels covered by the padded window, possibly fractional.
        own = [Fraction(length) / modality.scale_ratio for length in padded]
        if [*target] == own == [*image.shape[-2:]] and modality.name in whole:
            full = torch.ones((), dtype=torch.bool, device=image.device)
            return self.normalize(modality.name, image), full.expand(len(image), 1, *target)
        image = self.normalize(modality.name, image)
        known = ~image.isnan() & _has_data(image, mask)
        return _bring_to(torch.where(known, image, 0.0), known, own, target)

    def prepare_whole(self, images: Mapping[str, Tensor], padded: tuple[int, int]) -> Inputs:
        """As `prepare`, of images that need no padding, whose sizes may be symbols of a graph.

        Args:
            images: Every modality, (N, C_m, H_m, W_m) in physical units; NaN = no data.
            padded: Size of the scene window.
        """
        prepared = {m.name: self._prepare_whole(m, images[m.name], padded) for m in self.modalities}
        return Inputs.of(prepared, padded)

    def _prepare_whole(
        self, modality: Modality, image: Tensor, padded: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        target = self._target_size(modality, padded)
        image = self.normalize(modality.name, image)
        known = ~image.isnan()
        image = torch.where(known, image, 0.0)
        if same_size(image.shape[-2:], target):
            return image, known.any(dim=1, keepdim=True)
        both = torch.cat([image, known.to(image.dtype)], dim=1)  # (N, 2C, H, W)
        if self._at_own_scale() or modality.scale_ratio > 1:  # it does not shrink
            both = F.interpolate(both, target, mode="bilinear", align_corners=False)
        else:
            both = resize_traced(both, target)
        return _weigh_known(both)

    def _at_own_scale(self) -> bool:
        """Whether modalities are used at the size that they have, not at the scene's."""
        return False

    def _target_size(self, modality: Modality, padded: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width at which a modality is used: those of the padded window."""
        del modality
        return padded


class Segmenter(SensorModel, ABC):
    """A multimodal segmentation model with its inputs and its normalisation.

    A method derives from it, takes `(modalities, num_classes, *, …)` and implements `segment`. The
    base classes check inputs by name, normalise them, fill pixels without data with 0 (the mean),
    resample modalities of other scales to sizes the method can use, pad to the stride, and crop the
    logits to the window.

    Args:
        modalities: Modalities that `forward` expects, in the order the method fuses them.
        num_classes: K.

    Raises:
        ModelError: The number of modalities does not suit the method.
    """

    #: One-line description of the method, and its reference (empty for a baseline).
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    #: Input sizes are padded to multiples of this; the method sets it after creating its backbones.
    stride: int = 32
    #: False: every modality arrives at the size of the scene window. True: at its own scale,
    #: rounded up to the stride (per modality in `strides`, where backbones differ), at least two.
    own_scales: ClassVar[bool] = False
    #: Whether samples may lack modalities.
    supports_missing: ClassVar[bool] = False
    #: Smallest and largest number of modalities; None = no limit.
    num_modalities: ClassVar[tuple[int, int | None]] = (1, None)

    def __init__(self, modalities: Sequence[Modality], num_classes: int) -> None:
        least, most = self.num_modalities
        if not least <= len(modalities) <= (most or len(modalities)):
            allowed = f"{least}" if least == most else f"{least} to {most or 'any number'}"
            names = ", ".join(m.name for m in modalities)
            raise ModelError(
                f"{type(self).__name__} takes {allowed} modalities, got {len(modalities)} "
                f"({names}). Choose with data.modalities"
            )
        super().__init__(modalities)
        self.num_classes = num_classes
        self.strides: dict[str, int] = {}
        # Name and options under which `create_segmenter` made it; a run folder keeps them.
        self.method_name = ""
        self.method_options: dict[str, Any] = {}

    @abstractmethod
    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Compute logits for normalised, padded inputs.

        They may have any stride; the base class resizes them to `inputs.size`.
        """

    def forward(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None
    ) -> SegmenterOutput:
        """Compute the class scores of a batch.

        Args:
            images: Per modality float (N, C_m, H_m, W_m) in physical units; NaN = no data. A
                modality may be omitted if `supports_missing`.
            valid: Per modality bool (N, H_m, W_m); default: where some band is not NaN.

        Returns:
            Logits (N, K, H, W) on the scene grid.

        Raises:
            InputShapeError: Unknown modality, or sizes that do not cover the same ground.
            MissingModalityError: A modality is absent that the method needs.
        """
        height, width = self._check(images)
        padded = (round_up(height, self.stride), round_up(width, self.stride))
        valid = valid or {}
        whole = _whole(images, valid)
        self._check_present(images, valid, whole)
        output = self.segment(self.prepare(images, valid, padded, whole))
        return SegmenterOutput(
            logits=_to_window(output.logits, padded, (height, width)),
            aux_logits=tuple(_to_window(x, padded, (height, width)) for x in output.aux_logits),
            losses=output.losses,
        )

    def scores_of_whole(self, images: Mapping[str, Tensor]) -> Tensor:
        """Logits (N, K, H, W) as of `forward`, of windows that need no padding.

        It looks at no value and takes sizes that are symbols: what a graph records.

        Args:
            images: Every modality, (N, C_m, H_m, W_m) in physical units; NaN = no data, all NaN
                where a modality is absent. The scene window is a multiple of `size_unit`.
        """
        first = self.modalities[0]
        padded = (
            times(images[first.name].shape[-2], first.scale_ratio),
            times(images[first.name].shape[-1], first.scale_ratio),
        )
        output = self.segment(self.prepare_whole(images, padded))
        return _to_window(output.logits, padded, padded)

    @property
    def size_unit(self) -> int:
        """Pixels of which the height and width of a scene window in a graph are multiples.

        It is the stride, unless that is no whole number of pixels of every modality.
        """
        return lcm(self.stride, window_alignment(self.modalities))

    @property
    def least_units(self) -> int:
        """Units of the smallest window of a graph.

        64 pixels and two strides, also of every modality that is used at its own scale: torch
        records sizes of 1 as constants, which coarse levels of less would have.
        """
        own = self.modalities if self._at_own_scale() else ()
        least: list[Fraction] = [
            2 * self.strides.get(m.name, self.stride) * m.scale_ratio for m in own
        ]
        return max(2, *(ceil(size / self.size_unit) for size in (Fraction(_LEAST_GRAPH), *least)))

    def _at_own_scale(self) -> bool:
        return self.own_scales

    def _check(self, images: Mapping[str, Tensor]) -> tuple[int, int]:
        known = {modality.name: modality for modality in self.modalities}
        extra = sorted(set(images) - set(known))
        if extra or not images:
            raise InputShapeError(
                f"images hold {sorted(images)}; this model takes {', '.join(known)}"
            )
        absent = [name for name in known if name not in images]
        if absent and not self.supports_missing:
            raise MissingModalityError(self._needs_all(absent))
        sizes = {}
        for name, image in images.items():
            modality = known[name]
            if image.ndim != 4 or image.shape[1] != len(modality.bands):
                raise InputShapeError(
                    f"modality '{name}' has shape {tuple(image.shape)}; expected "
                    f"(N, {len(modality.bands)}, H, W) for bands {', '.join(modality.bands)}"
                )
            ratio = modality.scale_ratio
            sizes[name] = tuple(round(float(length * ratio)) for length in image.shape[-2:])
        if len(set(sizes.values())) > 1 or len({x.shape[0] for x in images.values()}) > 1:
            shapes = ", ".join(
                f"{n} {tuple(x.shape)} at scale {known[n].scale:g}" for n, x in images.items()
            )
            raise InputShapeError(f"modalities do not show the same ground: {shapes}")
        height, width = next(iter(sizes.values()))
        return height, width

    def _target_size(self, modality: Modality, padded: tuple[int, int]) -> tuple[int, int]:
        if not self.own_scales:
            return padded
        stride = self.strides.get(modality.name, self.stride)
        # At least two strides: one pixel on the coarsest level has no variance, so that a coarse
        # modality over a small window would make batch norms fail in training.
        ratio = 1 / modality.scale_ratio
        height, width = (
            max(round_up(times(length, ratio, up=True), stride), 2 * stride) for length in padded
        )
        return height, width

    def _check_present(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor], whole: frozenset[str]
    ) -> None:
        if self.supports_missing or is_traced():
            return
        # At the original scale: at the method's, a few valid pixels may be averaged away.
        masks = {
            name: _has_data(image, valid.get(name))
            for name, image in images.items()
            if name not in whole
        }
        absent = [n for n, mask in masks.items() if not mask.flatten(1).any(dim=1).all()]
        if absent:
            raise MissingModalityError(self._needs_all(absent))

    def _needs_all(self, absent: list[str]) -> str:
        return (
            f"{type(self).__name__} needs every modality; without data here: {', '.join(absent)}. "
            "Give rasters with data there, or use a method that supports missing modalities "
            "(terrafuse methods)"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode; afterwards restore every module's own mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _whole(images: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> frozenset[str]:
    """Names of the images that have data everywhere."""
    return frozenset(name for name, x in images.items() if _is_whole(x, valid.get(name)))


def _is_whole(image: Tensor, valid: Tensor | None) -> bool:
    """Whether every band of every pixel has data, where finding out is cheaper than masking.

    On an accelerator it would have to wait for the answer, and a graph cannot hold it.
    """
    if image.device.type != "cpu" or is_traced():
        return False
    # A sum is NaN if one number is.
    return bool(image.sum().isfinite()) and (valid is None or bool(valid.all()))


def _has_data(image: Tensor, valid: Tensor | None) -> Tensor:
    """Pixels with some band of (N, C, H, W) known and `valid` (N, H, W) set, bool (N, 1, H, W)."""
    mask = ~image.isnan().all(dim=1, keepdim=True)
    return mask if valid is None else mask & valid.unsqueeze(1)


def _bring_to(
    image: Tensor, known: Tensor, own: Sequence[Fraction], target: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Resample an image over a window of `own` pixels to `target`, exactly in register.

    Only pixels with data count (normalised convolution): values beside a gap or the padding are not
    biased towards 0.

    Args:
        image: (N, C, H, W); 0 where there is no data.
        known: Bool (N, C, H, W): has data.
        own: Height and width of the padded window, in pixels of the image.
        target: Height and width of the result.

    Returns:
        The image, 0 where most of a pixel has no data, and bool (N, 1, *target): any band has data.
    """
    factors = [float(size / length) for size, length in zip(target, own, strict=True)]
    if factors == [1.0, 1.0]:
        image, known = _fit(image, target), _fit(known, target)
        return image, known.any(dim=1, keepdim=True)
    rows, cols = (ceil(length) for length in own)
    both = torch.cat([_fit(image, (rows, cols)), _fit(known, (rows, cols)).to(image.dtype)], dim=1)
    # With the factor given instead of the size, coordinates are exact for fractional sizes.
    both = F.interpolate(
        both,  # (N, 2C, H, W)
        scale_factor=factors,
        mode="bilinear",
        align_corners=False,
        antialias=min(factors) < 1,
        recompute_scale_factor=False,
    )
    return _weigh_known(_fit(both, target))


def _weigh_known(both: Tensor) -> tuple[Tensor, Tensor]:
    """Resampled values beside shares of what is known of them (N, 2C, H, W) → as `_bring_to`."""
    values, share = both.chunk(2, dim=1)
    known = share > _MOSTLY
    values = values / torch.where(known, share, 1.0)
    return torch.where(known, values, 0.0), known.any(dim=1, keepdim=True)


def _fit(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad with 0 or crop at the bottom and right."""
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]))


def _to_window(logits: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    if not same_size(logits.shape[-2:], padded):
        logits = F.interpolate(logits, padded, mode="bilinear", align_corners=False)
    return logits[..., : size[0], : size[1]]
