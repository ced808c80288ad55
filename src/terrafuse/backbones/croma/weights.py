"""Names of CROMA models, and conversion of the published files to our names.

Reference: Fuller, Millard, Green: "CROMA", NeurIPS 2023, arXiv 2311.00566; files of the authors and
torchgeo's copies of them (MIT).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from terrafuse.backbones.base import PretrainedSource
from terrafuse.backbones.croma.encoder import CROMAVariant
from terrafuse.backbones.first_layer import is_in_turn
from terrafuse.backbones.sentinel import SENTINEL1, SENTINEL2_L2A, adapt_bands
from terrafuse.backbones.timm.models import HUB_WEIGHTS, find_published
from terrafuse.errors import (
    ModelError,
    UnknownNameError,
    WeightsMismatchError,
    unknown_name,
)
from terrafuse.modalities import Modality
from terrafuse.weights import load_strict, read_foreign, rename

#: Prefix of all CROMA names.
CROMA_PREFIX = "croma_"
#: Transformers of single sensors, and the bands of their published stems.
SENSOR_BANDS: Mapping[str, tuple[str, ...]] = {"sar": SENTINEL1, "optical": SENTINEL2_L2A}

_TORCHGEO = "hf://torchgeo/croma/"
#: Every CROMA by its name.
VARIANTS: Mapping[str, CROMAVariant] = {
    "croma_base": CROMAVariant(768, 12, file=f"{_TORCHGEO}CROMA_base-0238d814.pt"),
    "croma_large": CROMAVariant(1024, 24, file=f"{_TORCHGEO}CROMA_large-921e69ad.pt"),
}
#: Names of the transformers of single sensors.
SENSOR_NAMES = tuple(f"{name}_{sensor}" for name in VARIANTS for sensor in ("optical", "sar"))


def find_variant(name: str, **sizes: int | None) -> CROMAVariant:
    """Look up the sizes of a CROMA by name ("croma_base"); given sizes override them.

    Raises:
        UnknownNameError: No such CROMA; names the nearest.
        ModelError: Impossible sizes.
    """
    if name not in VARIANTS:
        raise UnknownNameError(unknown_name("backbone", name, VARIANTS))
    given: dict[str, Any] = {key: size for key, size in sizes.items() if size is not None}
    return replace(VARIANTS[name], **given)


def split_name(name: str) -> tuple[str, str]:
    """Split a name into model and sensor: "croma_base_sar" gives "croma_base" and "sar".

    Raises:
        UnknownNameError: No such name; names the nearest.
    """
    if name not in SENSOR_NAMES:
        hint = " Method 'croma' takes both sensors" if name in VARIANTS else ""
        raise UnknownNameError(unknown_name("backbone", name, SENSOR_NAMES) + hint)
    base, _, sensor = name.rpartition("_")
    return base, sensor


def divide_sensors(
    modalities: Sequence[Modality], radar: Sequence[str] | None
) -> tuple[tuple[Modality, ...], tuple[Modality, ...]]:
    """Divide modalities between the radar and the optical transformer.

    Args:
        modalities: Two or more.
        radar: Names of those for radar. Default: those of kind sar; if there are none, the last.

    Raises:
        UnknownNameError: `radar` names a modality that does not exist.
        ModelError: One of the two would get no modality.
    """
    names = [m.name for m in modalities]
    if radar is None:
        radar = [m.name for m in modalities if m.kind == "sar"] or names[-1:]
    unknown = [name for name in radar if name not in names]
    if unknown:
        raise UnknownNameError(unknown_name("modality in option 'radar'", unknown[0], names))
    chosen = tuple(m for m in modalities if m.name in radar)
    others = tuple(m for m in modalities if m.name not in radar)
    if not chosen or not others:
        raise ModelError(
            f"CROMA needs a modality for each of its two transformers; option 'radar' would give "
            f"{', '.join(names)} to one. For one sensor: method 'single' with backbone "
            "croma_base_optical or croma_base_sar"
        )
    return chosen, others


def hub_location(name: str) -> str:
    """Return the location of the published weights of a CROMA, or of one of its sensors ("hf://…").

    Raises:
        UnknownNameError: There is no such CROMA.
    """
    base = name if name in VARIANTS else split_name(name)[0]
    location = VARIANTS[base].file
    assert location is not None
    return location


#: Groups in published files, of the original's inference and pre-training classes → our parts.
_GROUPS = {
    "s1_encoder": "sar", "radar_encoder": "sar",
    "s2_encoder": "optical", "optical_encoder": "optical",
    "joint_encoder": "joint", "cross_encoder": "joint",
    "s1_GAP_FFN": "pool_sar", "GAP_FFN_s1": "pool_sar", "GAP_FFN_radar": "pool_sar",
    "s2_GAP_FFN": "pool_optical", "GAP_FFN_s2": "pool_optical", "GAP_FFN_optical": "pool_optical",
}  # fmt: skip
_ATTENTION = (
    (r"\.(to|create)_qkv\.", ".qkv."),
    (r"\.(to_)?out\.", ".proj."),
    (r"\.(to|create)_([qkv])\.", r".\2."),
)
#: MLP layers by index: the second is 3 in the inference model, 2 where dropout has no module.
_MLP = ((r"net\.0\.", "fc1."), (r"net\.[23]\.", "fc2."))


def convert_croma_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the original's inference or pre-training class to our names.

    The distance bias, which files may hold for one image size, is dropped; names outside CROMA's
    transformers are kept.

    Args:
        state: Original names, groups joined with a dot ("s1_encoder.linear_input.weight").

    Returns:
        "sar.…", "optical.…", "joint.…", "pool_sar.…", "pool_optical.…".
    """
    converted = {}
    for name, value in state.items():
        group, _, inner = name.partition(".")
        if inner == "attn_bias" or name == "attn_bias":
            continue
        if group not in _GROUPS:
            converted[name] = value
        elif _GROUPS[group].startswith("pool"):
            for number, layer in (("0.", "norm."), ("1.", "mlp.fc1."), ("3.", "mlp.fc2.")):
                if inner.startswith(number):
                    inner = layer + inner.removeprefix(number)
            converted[f"{_GROUPS[group]}.{inner}"] = value
        else:
            converted[f"{_GROUPS[group]}.{rename_transformer(inner)}"] = value
    return converted


def rename_transformer(name: str) -> str:
    """Map a value's name inside one of the original's transformers to ours."""
    name = name.removeprefix("transformer.").replace("linear_input.", "patch_embed.")
    name = re.sub(r"^norm_out\.", "norm.", name)
    found = re.match(r"^layers\.(\d+)\.(\d)\.(.*)$", name)
    if found is None:
        return name
    index, part, rest = found[1], int(found[2]), f".{found[3]}"
    if rest.startswith(".input_norm."):
        return f"blocks.{index}.norm{part + 1}{rest.removeprefix('.input_norm')}"
    if rest.startswith(".net."):
        return f"blocks.{index}.mlp{rename(rest, _MLP)}"
    return f"blocks.{index}.{('attn', 'cross')[part]}{rename(rest, _ATTENTION)}"


def load_published(
    parts: Mapping[str, nn.Module],
    places: Mapping[str, Sequence[int | None]],
    name: str,
    weights: str,
) -> PretrainedSource:
    """Load a published checkpoint into some of CROMA's parts.

    Parts that are not requested, and layers that are not built, are skipped. Stems take the columns
    of the image's bands (`adapt_bands`).

    Args:
        parts: Any of "sar", "optical", "joint"; changed in place.
        places: Per sensor, the index of each image band among the published bands.
        name: Name of the backbone, for messages.
        weights: "hub" for the published file, a path, or "hf://…".

    Raises:
        WeightsMismatchError: Values are missing, unknown or of another shape.
        ChecksumError: The file is not the published one of its name.
    """
    location = hub_location(name) if weights == HUB_WEIGHTS else weights
    where = f"weights '{location}' for backbone '{name}'"
    sha256, licence = find_published(location)
    wanted = [f"{part}.{key}" for part, module in parts.items() for key in module.state_dict()]
    read = read_foreign(location, wanted, convert=convert_croma_state_dict, sha256=sha256)
    state = read.values
    for part, module in parts.items():
        own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
        if not own:
            raise WeightsMismatchError(
                f"{where} hold nothing for CROMA's part '{part}'; choose a CROMA file, with the "
                "groups s1_encoder, s2_encoder and joint_encoder"
            )
        own = {key: value for key, value in own.items() if not _is_beyond(key, module)}
        if part in places and "patch_embed.weight" in own:
            own["patch_embed.weight"] = _fit_stem(own["patch_embed.weight"], part, places[part])
        load_strict(module, own, where=f"{where}, part '{part}',")
    return PretrainedSource(name, location, licence, read.note)


def _fit_stem(weight: Tensor, sensor: str, places: Sequence[int | None]) -> Tensor:
    """Adapt the columns (D, C · p²) of the published bands to those of the image."""
    bands = len(SENSOR_BANDS[sensor])
    if weight.shape[1] % bands:
        return weight  # `load_strict` will report the shape
    kernels = weight.reshape(len(weight), bands, -1, 1)  # (D, C, p², 1)
    return adapt_bands(kernels, places, tell_apart=not is_in_turn()).flatten(1)


def _is_beyond(key: str, module: nn.Module) -> bool:
    """Tell whether a value belongs to a layer that is not built."""
    found = re.match(r"^blocks\.(\d+)\.", key)
    blocks = getattr(module, "blocks", ())
    return found is not None and int(found[1]) >= len(blocks)
