"""Objectives by name, each with the backbones it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from terrafuse.backbones import (
    COLOUR,
    RGB,
    TokenBackbone,
    create_backbone,
    create_croma,
    divide_sensors,
    has_band_sets,
    images_of,
    is_token_backbone,
)
from terrafuse.backbones.sentinel import scale_two_sigma
from terrafuse.config.options import check_options, option_names
from terrafuse.config.pretrain import PretrainConfig
from terrafuse.errors import ConfigError, ModelError, UnknownNameError, unknown_name
from terrafuse.modalities import Modality
from terrafuse.pretraining.croma import CROMAPretraining
from terrafuse.pretraining.decur import DeCURPretraining
from terrafuse.pretraining.infonce import SSLViTPretraining
from terrafuse.pretraining.mae import MaskedAutoencoding
from terrafuse.pretraining.pretrainer import (
    Learned,
    Pretrainer,
    backbone_options,
    build_branches,
    one_backbone,
    without_neck,
)
from terrafuse.segmenter import Inputs

#: File name of a network for all modalities.
SHARED = "backbone"


class DeCURObjective(Pretrainer):
    """`DeCURPretraining` on two views; one file per modality.

    Args:
        modalities: One or more.
        config: Names and options of the backbones.
        inner: Options of `DeCURPretraining`.
        scaling: Mapping of standardised values, as in method "decur".
        view_area: Range of the share of a window that a view covers, by area; all modalities of a
            view cover the same ground.
    """

    kind = DeCURPretraining
    views = 2

    def __init__(
        self,
        modalities: Sequence[Modality],
        config: PretrainConfig,
        inner: Mapping[str, Any],
        *,
        scaling: Literal["two_sigma", "none"] = "two_sigma",
        view_area: tuple[float, float] = (0.2, 1.0),
    ) -> None:
        if not 0 < view_area[0] <= view_area[1] <= 1:
            raise ModelError(
                f"option 'view_area' is {list(view_area)}; give two ascending shares of a window, "
                "above 0 and up to 1"
            )
        super().__init__(modalities, build_branches(config, modalities))
        self.scaling, self.view_area = scaling, view_area
        self.objective = DeCURPretraining(
            {name: found.backbone for name, found in self.learned.items()}, **inner
        )

    def losses(self, views: Sequence[Inputs]) -> dict[str, Tensor]:
        """Compute a loss per modality and per pair."""
        first, second = views
        pairs = {
            n: (self._scale(x), self._scale(second.images[n])) for n, x in first.images.items()
        }
        found: dict[str, Tensor] = self.objective(pairs)
        return found

    def _scale(self, image: Tensor) -> Tensor:
        return scale_two_sigma(image) if self.scaling == "two_sigma" else image


class InfoNCEObjective(Pretrainer):
    """`SSLViTPretraining`, with modalities in place of views; one file per modality.

    Args:
        modalities: Two or more.
        config: Names and options of the backbones.
        inner: Options of `SSLViTPretraining`.
    """

    kind = SSLViTPretraining

    def __init__(
        self, modalities: Sequence[Modality], config: PretrainConfig, inner: Mapping[str, Any]
    ) -> None:
        super().__init__(modalities, build_branches(config, modalities))
        self.objective = SSLViTPretraining(
            {name: found.backbone for name, found in self.learned.items()}, **inner
        )

    def losses(self, views: Sequence[Inputs]) -> dict[str, Tensor]:
        """Compute the loss "contrast"."""
        found: dict[str, Tensor] = self.objective(views[0].images)
        return found


class CROMAObjective(Pretrainer):
    """`CROMAPretraining`; one file for both sensors and the joint transformer.

    Args:
        modalities: Two or more.
        config: The backbone: "croma_base" or "croma_large".
        inner: Options of `CROMAPretraining`.
        radar: Names of the modalities for the radar transformer, as in method "croma".
    """

    kind = CROMAPretraining
    can_checkpoint = False

    def __init__(
        self,
        modalities: Sequence[Modality],
        config: PretrainConfig,
        inner: Mapping[str, Any],
        *,
        radar: tuple[str, ...] | None = None,
    ) -> None:
        sar, optical = divide_sensors(modalities, radar)
        name = one_backbone(config, "croma")
        options = backbone_options(config, name)
        backbone = create_croma(
            name, sar, optical, weights=config.weights, options={**options, "neck": "none"}
        )
        images = {"sar": sar, "optical": optical}
        super().__init__(modalities, {SHARED: Learned(backbone, name, options, images)})
        self.parts = (sar, optical)
        self.objective = CROMAPretraining(backbone, **inner)

    def losses(self, views: Sequence[Inputs]) -> dict[str, Tensor]:
        """Compute the losses "contrast" and "reconstruction"."""
        images = views[0].images
        sar, optical = (torch.cat([images[m.name] for m in part], dim=1) for part in self.parts)
        found: dict[str, Tensor] = self.objective(sar, optical)
        return found


class MAEObjective(Pretrainer):
    """`MaskedAutoencoding`; one file for a shared transformer, else one per modality.

    Args:
        modalities: One or more.
        config: The backbone: a DOFA or a plain transformer.
        inner: Options of `MaskedAutoencoding`.
        shared: Whether one transformer sees all modalities. A DOFA always does; others then see
            three bands of each, as in methods "upseg" and "mfnet". Default: one per modality.
    """

    kind = MaskedAutoencoding
    needs_all = False
    needs_others = False

    def __init__(
        self,
        modalities: Sequence[Modality],
        config: PretrainConfig,
        inner: Mapping[str, Any],
        *,
        shared: bool | None = None,
    ) -> None:
        name = one_backbone(config, "mae")
        if not is_token_backbone(name):
            raise ModelError(
                f"objective 'mae' hides patches of a transformer, but backbone '{name}' is a "
                "pyramid. Choose dofa_*, vit_* or deit_*, or objective 'decur' or 'infonce'"
            )
        if has_band_sets(name) and shared is False:
            raise ModelError(
                f"option 'shared' of objective 'mae' is false, but '{name}' is one transformer for "
                "all bands; leave it out"
            )
        is_shared = has_band_sets(name) or bool(shared)
        learned = (
            _shared(config, name, modalities) if is_shared else build_branches(config, modalities)
        )
        super().__init__(modalities, learned)
        encoders = {m.name: self._encoder(m.name) for m in modalities}
        as_colour = is_shared and not has_band_sets(name)
        self.objective = MaskedAutoencoding(encoders, modalities, as_colour, **inner)

    def losses(self, views: Sequence[Inputs]) -> dict[str, Tensor]:
        """Compute a loss per modality."""
        found: dict[str, Tensor] = self.objective(views[0].images, views[0].valid)
        return found

    def _encoder(self, name: str) -> TokenBackbone:
        found = self.learned[SHARED if SHARED in self.learned else name].backbone
        assert isinstance(found, TokenBackbone)
        return found


def _shared(
    config: PretrainConfig, name: str, modalities: Sequence[Modality]
) -> dict[str, Learned]:
    """Create one transformer: a DOFA with a band set per modality, or one that sees three bands."""
    seen = modalities if has_band_sets(name) else [COLOUR]
    options = backbone_options(config, name)
    backbone = create_backbone(
        name,
        RGB,
        weights=config.weights,
        modalities=seen,
        one_image=False,
        **options,
        **without_neck(name),
    )
    images = images_of(name, seen, one_image=False)
    return {SHARED: Learned(backbone, name, options, images)}


#: Every objective by its name.
OBJECTIVES: Mapping[str, Callable[..., Pretrainer]] = {
    "decur": DeCURObjective,
    "infonce": InfoNCEObjective,
    "croma": CROMAObjective,
    "mae": MAEObjective,
}


def create_pretrainer(config: PretrainConfig, modalities: Sequence[Modality]) -> Pretrainer:
    """Create the objective named in the settings, with untrained backbones.

    Raises:
        UnknownNameError: No such objective, backbone or option; names the nearest.
        ModelError: The value of an option, or the modalities, do not suit.
        ConfigError: A setting has no effect, or the batch size is too small.
        WeightsError: Weights to start from cannot be used.
    """
    name, options = config.objective.name, config.objective.options
    if name not in OBJECTIVES:
        raise UnknownNameError(unknown_name("objective", name, OBJECTIVES))
    outer: Any = OBJECTIVES[name]
    inner: type[nn.Module] = outer.kind
    allowed = [*option_names(outer), *option_names(inner)]
    unknown = [key for key in options if key not in allowed]
    if unknown:
        raise UnknownNameError(unknown_name(f"option of objective '{name}'", unknown[0], allowed))
    own = {key: value for key, value in options.items() if key in option_names(outer)}
    rest = {key: value for key, value in options.items() if key not in own}
    pretrainer: Pretrainer = outer(
        modalities,
        config,
        check_options("objective", name, inner, rest),
        **check_options("objective", name, outer, own),
    )
    _check_training(pretrainer, config)
    return pretrainer


def _check_training(pretrainer: Pretrainer, config: PretrainConfig) -> None:
    name = config.objective.name
    if pretrainer.needs_others and config.data.batch_size < 2:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, but objective '{name}' compares the "
            "samples of a batch; give 2 or more, ideally as many as fit into memory"
        )
    if config.training.gradient_checkpointing and not pretrainer.can_checkpoint:
        raise ConfigError(
            f"training.gradient_checkpointing has no effect with objective '{name}'; leave it out"
        )
