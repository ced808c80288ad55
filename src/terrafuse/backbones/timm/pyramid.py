"""Any timm pyramid (ResNet, ConvNeXt, Swin, EfficientNet …) as levels, stage by stage."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import timm
from timm.models import FeatureListNet
from torch import Tensor, nn

from terrafuse.backbones.base import PyramidBackbone
from terrafuse.backbones.family import Family
from terrafuse.backbones.timm import models as timm_models
from terrafuse.backbones.timm.swin_attention import make_traceable
from terrafuse.errors import ModelError
from terrafuse.modalities import Modality

# These pad their attention windows themselves once timm's check of the image size is off.
_ANY_SIZE_ON_REQUEST = ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")
_OWN_OPTIONS = ("strides", "every_stage")


class TimmPyramid(PyramidBackbone):
    """A timm model with a feature pyramid.

    Args:
        name: timm name.
        modalities: Modalities of the bands, in order; they assign pretrained kernels to bands.
        weights: None = from scratch, "timm" = pretrained by timm, else a path.
        strides: Strides of the levels; default: all from 4. ResNets and others also have 2.
        every_stage: Whether each stage makes a level; else, of stages with equal stride (as with
            timm's `output_stride`), only the last does.
        timm_options: Arguments of timm's constructor (`drop_path_rate`, `depths` …).

    Raises:
        ModelError: The model is not a sequence of stages, takes images of one size only, or lacks
            a requested level.
    """

    flat_files = True

    def __init__(
        self,
        name: str,
        in_channels: int,
        modalities: Sequence[Modality] | None = None,
        *,
        weights: str | None = None,
        strides: Sequence[int] | None = None,
        every_stage: bool = False,
        **timm_options: Any,
    ) -> None:
        super().__init__()
        options = timm_options | _any_size_options(name)
        net, self.pretrained = timm_models.build(
            name, in_channels, weights, _OWN_OPTIONS, modalities, features_only=True, **options
        )
        make_traceable(net)
        features = _choose_out_indices(name, net, strides, every_stage)
        modules = _modules_in_order(name, net)
        self.channels = tuple(info["num_chs"] for info in features)
        self.strides = tuple(info["reduction"] for info in features)
        self.stride = max(info["reduction"] for info in features)
        channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        self.stem, self.stages = _split(
            modules, [info["module"] for info in features], channels_last
        )
        undecayed = timm_models.undecayed(name, in_channels, options)
        self._undecayed = {own for key in undecayed if (own := self._rename(list(modules))(key))}
        if timm_models.wants_file(weights):
            whole, _ = timm_models.build(name, in_channels, None, _OWN_OPTIONS, **options)
            self.pretrained = timm_models.load_file_into(
                self,
                self._rename(list(modules)),
                whole,
                whole.state_dict(),
                name,
                str(weights),
                modalities=modalities,
            )

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that timm's model asks not to decay."""
        return self._undecayed

    def _rename(self, modules: Sequence[str]) -> Callable[[str], str | None]:
        own = {name.split(".", 2)[2] if name.startswith("stages.") else name.split(".", 1)[1]: name
               for name in self.state_dict()}  # fmt: skip

        def rename(key: str) -> str | None:
            # timm's feature networks join the two topmost names where they unpack a list.
            joined = key.replace(".", "_", 1)
            return own.get(key) or (own.get(joined) if joined.split(".")[0] in modules else None)

        return rename


class Stage(nn.Sequential):
    """Modules in sequence; maps are channel-first outside, whatever the modules use inside.

    Args:
        channels_last_in: The modules take (N, H, W, C).
        channels_last_out: The modules return (N, H, W, C).
    """

    def __init__(
        self,
        modules: OrderedDict[str, nn.Module],
        *,
        channels_last_in: bool = False,
        channels_last_out: bool = False,
    ) -> None:
        super().__init__(modules)
        self.channels_last_in = channels_last_in
        self.channels_last_out = channels_last_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) → map (N, C', H', W')."""
        if self.channels_last_in:
            x = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        for module in self:
            x = module(x)
        return x.permute(0, 3, 1, 2) if self.channels_last_out else x  # (N, C, H, W)


def _any_size_options(name: str) -> dict[str, Any]:
    if timm_models.module_of(name) in _ANY_SIZE_ON_REQUEST:
        return {"strict_img_size": False}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        raise ModelError(
            f"backbone '{name}' takes images of one size only ({config.input_size[1]} px). "
            "Choose one that takes any: resnet*, convnext*, swin*, efficientnet*, vit_*"
        )
    return {}


def _choose_out_indices(
    name: str, net: Any, strides: Sequence[int] | None, every_stage: bool
) -> list[dict[str, Any]]:
    # Of several features with one stride, the last is the most processed.
    by_stride = {info["reduction"]: info for info in net.feature_info.info}
    wanted = sorted(set(strides)) if strides else [s for s in by_stride if s >= 4]
    lacking = [stride for stride in wanted if stride not in by_stride]
    if lacking:
        raise ModelError(
            f"backbone '{name}' has no level of stride {', '.join(map(str, lacking))}; it has "
            f"{', '.join(map(str, by_stride))}"
        )
    if every_stage:
        return [info for info in net.feature_info.info if info["reduction"] in wanted]
    return [by_stride[stride] for stride in wanted]


def _modules_in_order(name: str, net: Any) -> dict[str, nn.Module]:
    """Modules of a feature network whose `forward` calls them in sequence."""
    if type(net) is FeatureListNet:
        return dict(net.items())
    # EfficientNet and MobileNet have a class of their own, with the same meaning.
    if all(hasattr(net, part) for part in ("conv_stem", "bn1", "blocks")):
        before = {key: module for key, module in net.named_children() if key != "blocks"}
        return before | {f"blocks_{i}": block for i, block in enumerate(net.blocks)}
    raise ModelError(
        f"backbone '{name}' is not a sequence of stages in timm ({type(net).__name__}), so it "
        "cannot be used. Choose another: resnet*, convnext*, swin*, efficientnet*, vit_*"
    )


def _split(
    modules: dict[str, nn.Module], features: Sequence[str], channels_last: bool
) -> tuple[Stage, nn.ModuleList]:
    """Group the modules up to each feature into a stage; those before the first are the stem."""
    names = list(modules)
    ends = [names.index(_module_name(feature, names)) for feature in features]
    parts = [names[: ends[0]], names[ends[0] : ends[0] + 1]]
    parts += [names[a + 1 : b + 1] for a, b in pairwise(ends)]
    stem, *stages = [
        Stage(
            OrderedDict((name, modules[name]) for name in part),
            channels_last_in=channels_last and index > 0,
            channels_last_out=channels_last and bool(part),
        )
        for index, part in enumerate(parts)
    ]
    return stem, nn.ModuleList(stages)


def _module_name(feature: str, names: Sequence[str]) -> str:
    # MobileNet's stem ends with its activation, though timm names the norm before it.
    if feature == "bn1" and "act1" in names:
        return "act1"
    return feature if feature in names else feature.replace(".", "_", 1)


def _owns(name: str) -> bool:
    timm_models.check_name(name)
    return True


#: Every timm model that no other family owns.
FAMILY = Family(
    examples={
        "ResNet": ("resnet18", "resnet50", "resnet101"),
        "ConvNeXt": ("convnext_atto", "convnext_tiny", "convnext_base"),
        "ConvNeXt V2": ("convnextv2_atto", "convnextv2_tiny", "convnextv2_base"),
        "Swin": ("swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224"),
        "Swin V2": ("swinv2_tiny_window8_256", "swinv2_base_window8_256"),
        "EfficientNet": ("efficientnet_b0", "efficientnet_b3", "tf_efficientnetv2_s"),
        "MobileNetV3": ("mobilenetv3_small_100", "mobilenetv3_large_100"),
        "RegNet": ("regnety_002", "regnety_032"),
        "PVT v2": ("pvt_v2_b0", "pvt_v2_b2"),
    },
    kind="pyramid",
    backbone=TimmPyramid,
    owns=_owns,
    create=lambda request: timm_models.create(TimmPyramid, request),
    licence=timm_models.licence_of,
)
