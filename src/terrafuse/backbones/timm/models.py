"""Construction of timm models: any band count, any weights, errors that name the cause."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import model_entrypoint
from torch import Tensor, nn

from terrafuse.backbones.base import Backbone, PretrainedSource
from terrafuse.backbones.colour import RGB
from terrafuse.backbones.family import Request
from terrafuse.backbones.first_layer import fit_bands, is_in_turn
from terrafuse.backbones.timm.names import (
    of_efficientnet_pytorch,
    refuse_torchvisions,
    timms_name,
)
from terrafuse.config.options import check_options, option_names
from terrafuse.errors import (
    ModelError,
    UnknownNameError,
    WeightsMismatchError,
    WeightsNotFoundError,
    cut,
    unknown_name,
)
from terrafuse.modalities import Modality
from terrafuse.weights import hub_or_cache, load_strict, pretrained_wanted, read_foreign, why_not

#: Value of `weights` for timm's own weights.
TIMM_WEIGHTS = "timm"
#: Value of `weights` for the published file of a model that timm does not have.
HUB_WEIGHTS = "hub"

_NVIDIA = "NVIDIA Source Code License for SegFormer (non-commercial)"

#: Published files by name, or by location where the name is generic: SHA-256 or its first digits
#: (None if unknown), and licence.
PUBLISHED_FILES: Mapping[str, tuple[str | None, str]] = {
    "sam_vit_b_01ec64.pth": (
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", "apache-2.0",
    ),
    "sam_vit_l_0b3195.pth": (
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", "apache-2.0",
    ),
    "sam_vit_h_4b8939.pth": (
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", "apache-2.0",
    ),
    # torchgeo's copies of DOFA carry the first digits in their names, following torch.hub.
    "dofa_base_patch16_224-a0275954.pth": ("a0275954", "cc-by-4.0"),
    "dofa_large_patch16_224-0ff904d3.pth": ("0ff904d3", "cc-by-4.0"),
    "DOFA_ViT_base_e100.pth": (None, "cc-by-4.0"),
    "DOFA_ViT_large_e100.pth": (None, "cc-by-4.0"),
    "dofav2_vit_base_e150.pth": (None, "cc-by-4.0"),
    "dofav2_vit_large_e150.pth": (None, "cc-by-4.0"),
    # torchgeo's copies, and the authors' own files.
    "CROMA_base-0238d814.pt": ("0238d814", "mit"),
    "CROMA_large-921e69ad.pt": ("921e69ad", "mit"),
    "CROMA_base.pt": (None, "mit"),
    "CROMA_large.pt": (None, "mit"),
    "hf://nasaharvest/galileo/models/nano/encoder.pt": (
        "eab6acacf527886a508a555bc24efe4b4a2cf91b162e84cd1c4a1807e942180c", "mit",
    ),
    "hf://nasaharvest/galileo/": (None, "mit"),
    "rn50_ssl4eo-s12_sar_decur_ep100-f0e69ba2.pth": ("f0e69ba2", "unknown"),
    "rn50_ssl4eo-s12_ms_decur_ep100-fc6b09ff.pth": ("fc6b09ff", "unknown"),
    **{
        f"DFormer_{size}.pth.tar": (None, "non-commercial use only (README of VCIP-RGBD/DFormer)")
        for size in ("Tiny", "Small", "Base", "Large")
    },
    "hf://bbynku/DFormerv2/": (None, "non-commercial use only (README of VCIP-RGBD/DFormer)"),
    **{f"mit_b{i}.pth": (None, _NVIDIA) for i in range(6)},
    **{f"hf://nvidia/mit-b{i}/pytorch_model.bin": (None, _NVIDIA) for i in range(6)},
}  # fmt: skip


def find_published(weights: str | Path) -> tuple[str | None, str]:
    """Look up SHA-256 and licence of a published file; None and "unknown" where not known.

    Args:
        weights: Path, or "hf://…".
    """
    for key, found in PUBLISHED_FILES.items():
        whole = key.endswith("/") and str(weights).startswith(key)  # a repository
        if whole or key in (str(weights), Path(weights).name):
            return found
    return None, "unknown"


def check_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        UnknownNameError: With the nearest names.
    """
    if timm.is_model(name):
        return
    # There are more than a thousand names: list near ones only.
    near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.6)
    hint = f" Did you mean {', '.join(repr(n) for n in near)}?" if near else ""
    raise UnknownNameError(
        f"unknown backbone '{name}'.{hint} 'terrafuse backbones' lists families; any timm name "
        "of a pyramid or a plain vision transformer is allowed"
    )


def module_of(name: str) -> str:
    """Return the timm module that defines a model ("resnet", "vision_transformer")."""
    return str(model_entrypoint(name.split(".")[0]).__module__).rpartition(".")[2]


def is_of(name: str, modules: Iterable[str]) -> bool:
    """Tell whether timm has a model of this name, defined in one of `modules`."""
    return timm.is_model(name) and module_of(name) in modules


# Arguments of timm's constructors that are no options: the package sets them, they belong to the
# classifier, or they take code.
_NO_OPTIONS = frozenset(
    {
        "in_chans", "num_classes", "global_pool", "out_indices", "feature_location", "cfg", "args",
        "kwargs", "device", "dtype", "weights", "strict_img_size", "dynamic_img_size",
        "dynamic_img_pad", "weight_init", "fix_init", "fc_norm", "pool_include_prefix", "head",
        "head_init_scale", "head_norm_first", "head_hidden_size", "head_bias", "head_norm",
        "attn_pool_num_heads", "attn_pool_mlp_ratio", "block", "block_fn", "block_args",
        "embed_layer", "embed_norm_layer", "mlp_layer", "attn_layer", "se_layer", "round_chs_fn",
        "ref_feat_shape", "use_fc_norm",
    }
)  # fmt: skip
# What constructors take in a dictionary whose keys no signature names.
_IN_DICTIONARIES = {"hrnet": ("stem_width", "stage1", "stage2", "stage3", "stage4")}


def timm_options(name: str) -> list[str]:
    """List the options in `backbone_options` that go to timm: sizes and drop rates of a model.

    None of them can load weights, change what is built around the model, or run code.

    Args:
        name: timm name.
    """
    module = sys.modules[model_entrypoint(name.split(".")[0]).__module__]
    found = set(_IN_DICTIONARIES.get(module_of(name), ()))
    for value in vars(module).values():
        if not inspect.isclass(value):
            continue
        if is_dataclass(value):  # options of models that are described by a record
            found |= {field.name for field in fields(value)}
        elif issubclass(value, nn.Module):
            arguments = inspect.signature(value).parameters
            found |= set(arguments) if {"in_chans", "num_classes"} <= set(arguments) else set()
    return sorted(found - _NO_OPTIONS)


def create(backbone: Callable[..., Backbone], request: Request) -> Backbone:
    """Build a timm backbone; options that its class does not define go to timm.

    Raises:
        UnknownNameError: An option is neither its class's nor one of `timm_options`.
    """
    own = {k: value for k, value in request.options.items() if k in option_names(backbone)}
    rest = {k: value for k, value in request.options.items() if k not in own}
    allowed = {*option_names(backbone), *timm_options(request.name)}
    for key in rest:
        if key not in allowed:
            raise UnknownNameError(
                unknown_name(f"option of backbone '{request.name}'", key, allowed)
            )
    checked = check_options("backbone", request.name, backbone, own)
    return backbone(
        request.name,
        request.in_channels,
        request.modalities,
        weights=request.weights,
        **checked,
        **rest,
    )


def wants_file(weights: str | None) -> bool:
    """Tell whether `weights` names a file that must be loaded now."""
    return weights not in (None, TIMM_WEIGHTS) and pretrained_wanted()


def refuse_timm(name: str, weights: str | None) -> None:
    """Refuse timm's weights for a backbone that is not timm's.

    Raises:
        WeightsNotFoundError: They are requested.
    """
    if weights == TIMM_WEIGHTS:
        raise WeightsNotFoundError(
            f"timm has no pretrained weights for '{name}'. Choose weights '{HUB_WEIGHTS}' for the "
            "published ones, give the path of a checkpoint, or leave 'weights' out"
        )


def build(
    name: str,
    in_channels: int,
    weights: str | None,
    own_options: Iterable[str],
    modalities: Sequence[Modality] | None = None,
    **options: Any,
) -> tuple[Any, PretrainedSource | None]:
    """Build a timm model without its classifier.

    Args:
        name: timm name.
        weights: None for random values, "timm" for timm's own; anything else is left to
            `load_file_into`.
        own_options: Options of our wrapper, for the message on an unknown one.
        modalities: Modalities of the bands, in order, if known; see `fit_bands`.
        options: Arguments of timm's constructor.

    Returns:
        The model, and the origin of its weights.

    Raises:
        UnknownNameError: timm's model takes no such option.
        ModelError: The model cannot be built with these options.
        WeightsNotFoundError: Pretrained weights are requested but cannot be downloaded.
    """
    pretrained = weights == TIMM_WEIGHTS and pretrained_wanted()
    if pretrained:
        _check_published(name)
    try:
        model = timm.create_model(name, in_chans=in_channels, num_classes=0, **options)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise ModelError(f"backbone '{name}' cannot be built: {cut(error, 600)}") from error
        raise UnknownNameError(
            f"unknown option '{unknown[1]}' of backbone '{name}'. Known: "
            f"{', '.join(sorted(own_options))}, weights and timm's arguments for this model"
        ) from None
    except (AssertionError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        raise ModelError(
            f"backbone '{name}' cannot be built with {cut(options, 600)}: {cut(error, 600)}"
        ) from error
    if not pretrained:
        return model, None
    del model  # it only validated name and options; keeping it would double the memory
    return _fetch(name, in_channels, modalities, options)


def undecayed(name: str, in_channels: int, options: Mapping[str, Any]) -> set[str]:
    """Names of the parameters that a timm model asks not to decay, which its parts do not know.

    Args:
        name: timm name.
        options: Arguments of timm's constructor that `build` was given.
    """
    module = sys.modules[model_entrypoint(name.split(".")[0]).__module__]
    if not any(inspect.isclass(c) and hasattr(c, "no_weight_decay") for c in vars(module).values()):
        return set()
    # Shapes are enough, and random numbers are left to the model that is used.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        whole, _ = build(name, in_channels, None, (), **options)
    listed: Iterable[str] = getattr(whole, "no_weight_decay", set)()
    return {
        key
        for key, _ in whole.named_parameters()
        if any(key == entry or key.startswith(f"{entry}.") for entry in listed)
    }


def _check_published(name: str) -> None:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise WeightsNotFoundError(
            f"timm has no pretrained weights for '{name}'. Leave 'weights' out to train from "
            "scratch, or give the path of a checkpoint"
        )


def _fetch(
    name: str,
    in_channels: int,
    modalities: Sequence[Modality] | None,
    options: Mapping[str, Any],
) -> tuple[Any, PretrainedSource]:
    config = timm.get_pretrained_cfg(name)
    try:
        with hub_or_cache():
            model = timm.create_model(
                name, pretrained=True, in_chans=in_channels, num_classes=0, **options
            )
    except Exception as error:  # the hub's errors come from several libraries
        place = str(config.hf_hub_id or config.url)
        raise WeightsNotFoundError(
            f"pretrained weights of backbone '{name}' ({place}) are not on this machine and cannot "
            f"be downloaded ({why_not(error, place)}). Download them where there is a "
            "network and give their path as 'weights', or leave 'weights' out"
        ) from error
    if modalities is not None and config.input_size[0] == RGB and not is_in_turn():
        _refit(model, _listed(config.first_conv), in_channels, modalities)
    return model, PretrainedSource(name, str(config.hf_hub_id or config.url), licence_of(name))


def _refit(
    model: nn.Module, first: Sequence[str], in_channels: int, modalities: Sequence[Modality]
) -> None:
    """Apply `fit_bands` to a first layer that timm has already adapted from three bands."""
    # timm's feature networks join the two topmost names where they unpack a list.
    names = {f"{layer}.weight" for layer in first}
    names |= {name.replace(".", "_", 1) for name in names}
    for name, value in model.named_parameters():
        if name in names and value.ndim == 4 and value.shape[1] == in_channels >= RGB:
            # The first three repeated kernels are the published ones times 3 / C.
            kernels = value.detach()[:, :RGB] * (in_channels / RGB)
            value.data.copy_(fit_bands(kernels, in_channels, modalities))


def licence_of(name: str) -> str:
    """Return the licence of timm's weights of a model, or "unknown"."""
    config = timm.get_pretrained_cfg(name)
    return str((config and config.license) or "unknown")


def load_file_into(
    part: nn.Module,
    rename: Callable[[str], str | None],
    whole: nn.Module,
    known: Mapping[str, Tensor],
    name: str,
    weights: str | Path,
    *,
    prefix: str = "",
    modalities: Sequence[Modality] | None = None,
) -> PretrainedSource:
    """Load weights from a file into the parts of a timm model that are in use.

    Names are timm's; checkpoints of the original authors that timm can convert are converted, and
    so are EfficientNets of efficientnet_pytorch. Prefixes are recognised (`read_foreign`).
    The classifier may be absent or of any size, unused parts may be absent, and the first
    convolution is adapted to the bands (`fit_bands`). Everything else must fit. A file with a name
    in `PUBLISHED_FILES` must be that file.

    Args:
        part: Module that holds the parts in use.
        rename: timm's name of a value → its name in `part`, or None where it is unused.
        whole: The timm model, which knows how to convert checkpoints.
        known: Its values before any part was removed; other names in the file are unexpected.
        name: timm name.
        weights: Path, or "hf://…".
        prefix: Prefix of this model in the authors' own files, which hold other parts beside it.
        modalities: Modalities of the bands, in order, if known; see `fit_bands`.

    Raises:
        WeightsMismatchError: Values are missing, unknown or of another shape.
        ChecksumError: The file is not the published one of its name.
    """
    where = f"weights '{weights}' for backbone '{name}'"
    sha256, licence = find_published(weights)
    names = [key for key in known if rename(key) is not None]
    read = read_foreign(
        weights,
        names,
        convert=lambda state: _in_timms_names(_inside(prefix, state), whole, known, where),
        sha256=sha256,
    )
    config: Mapping[str, Any] = getattr(whole, "pretrained_cfg", {})
    # The classifier "head.fc" stands for all of "head", which may include a norm.
    heads = tuple(head.split(".")[0] + "." for head in _listed(config.get("classifier")))
    first = [f"{layer}.weight" for layer in _listed(config.get("first_conv"))]
    renamed: dict[str, Tensor] = {}
    for key, value in read.values.items():
        new = rename(key) if key in known else None
        if new is not None:
            renamed[new] = (
                fit_bands(value, known[key].shape[1], modalities) if key in first else value
            )
        elif key not in known and not key.startswith(heads):
            renamed[key] = value  # reported as unexpected
    load_strict(part, renamed, where=where)
    return PretrainedSource(name, str(weights), licence, read.note)


def _inside(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return inner if prefix and inner else state


def _in_timms_names(
    state: dict[str, Tensor], whole: nn.Module, known: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    state = of_efficientnet_pytorch(state, whole, where)
    state = {timms_name(name, known): value for name, value in state.items()}
    refuse_torchvisions(state, known, where)
    # By timm's convention, a model's module defines its converter under this name.
    convert = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted: dict[str, Tensor] = convert(state, whole)
    except Exception as error:  # on names of other models, anything
        raise WeightsMismatchError(
            f"{where} do not fit the model; timm's checkpoint conversion fails on {error}. "
            "Choose the model that they were made for, or other weights"
        ) from None
    return converted


def _listed(names: str | Iterable[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())
