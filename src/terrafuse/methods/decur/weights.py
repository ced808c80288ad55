"""Conversion of DeCUR's published weights, of encoders and of the segmentation network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from torch import Tensor

from terrafuse.backbones import PretrainedSource, PyramidBackbone, find_published, fit_bands
from terrafuse.backbones.timm.models import check_name, module_of
from terrafuse.errors import WeightsMismatchError
from terrafuse.methods.decur.deformable import AttendedStage
from terrafuse.modalities import Modality
from terrafuse.weights import load_strict, pretrained_wanted, read_foreign

#: Parts of the original's deformable attention → ours.
_ATTENTION = {
    "proj_q": "query", "proj_k": "key", "proj_v": "value", "proj_out": "project",
    "conv_offset.0": "offset.0", "conv_offset.1.norm": "offset.1", "conv_offset.3": "offset.3",
    "rpe_table": "position_table",
}  # fmt: skip
_HEAD = {"uc": "reduce", "cls": "classifiers"}


def is_resnet(name: str) -> bool:
    """Tell whether timm has a ResNet of this name; DeCUR files name its layers as torchvision."""
    check_name(name)
    return module_of(name) == "resnet"


def convert_reference_state_dict(
    state: Mapping[str, Tensor],
    modalities: Sequence[str],
    *,
    attention: Literal["own", "first"] = "own",
) -> dict[str, Tensor]:
    """Rename weights of the original's segmentation network.

    Args:
        state: Original names ("backbone_1.conv1.weight", "uc0.weight").
        modalities: Our modality names, in the original's order.
        attention: In pre-training, every sensor passes through the deformable attention of the
            first; files also contain the untrained one of the others. "first" gives every sensor
            the trained one, "own" its own from the file, as the published transfer does.
    """
    converted: dict[str, Tensor] = {}
    for number, name in enumerate(modalities, start=1):
        encoder = convert_encoder_state_dict(state, number, attention=attention)
        converted |= {f"branches.{name}.{key}": value for key, value in encoder.items()}
    for key, value in state.items():
        if found := re.match(r"^(uc|cls)(\d)\.(.*)$", key):
            converted[f"head.{_HEAD[found[1]]}.{found[2]}.{found[3]}"] = value
    return converted


def convert_encoder_state_dict(
    state: Mapping[str, Tensor], number: int = 1, *, attention: Literal["own", "first"] = "own"
) -> dict[str, Tensor]:
    """Rename weights of one encoder, with its deformable attention if there is any.

    Args:
        state: Values of one sensor ("conv1.weight", or "backbone.conv1.weight" beside "da1_l3.…")
            or of both ("backbone_1.conv1.weight").
        number: Number of the sensor in a file of both, from 1.
        attention: See `convert_reference_state_dict`.
    """
    prefix = next((p for p in (f"backbone_{number}.", "backbone.") if _has(state, p)), "")
    own = f"da{1 if attention == 'first' else number}_"
    if prefix != f"backbone_{number}." and not _has(state, own):
        # A file of one sensor has one attention, under its original number.
        own = next((p for p in ("da1_", "da2_") if _has(state, p)), own)
    stage = "stage." if _has(state, own) else ""
    converted = {}
    for key, value in state.items():
        if key.startswith(own):
            level, _, inner = key.removeprefix(f"{own}l").partition(".")
            for original, ours in _ATTENTION.items():
                inner = re.sub(rf"^{re.escape(original)}(?=\.|$)", ours, inner)
            converted[f"stages.{int(level) - 1}.attention.{inner}"] = value
        elif key.startswith(prefix):
            inner = key.removeprefix(prefix)
            if found := re.match(r"^layer(\d)\.", inner):
                wrapped = stage if int(found[1]) > 2 else ""
                converted[f"stages.{int(found[1]) - 1}.{wrapped}{inner}"] = value
            elif inner.startswith(("conv1.", "bn1.")):
                converted[f"stem.{inner}"] = value
    return converted


def load_encoder(
    backbone: PyramidBackbone, name: str, weights: str, modality: Modality, number: int
) -> None:
    """Load a DeCUR file, or another ResNet under torchvision's names, into a branch.

    The first convolution takes the kernels of the modality's bands if it was made for Sentinel's.

    Args:
        backbone: Changed in place.
        name: Name of the backbone, for messages.
        weights: Path, or "hf://…".
        modality: Modality of the input bands.
        number: Number of the sensor in a file of both, from 1.

    Raises:
        WeightsMismatchError: Values are missing or of another shape.
        ChecksumError: The file is not the published one of its name.
    """
    if not pretrained_wanted():
        return
    where = f"weights '{weights}' for backbone '{name}' of modality '{modality.name}'"
    sha256, licence = find_published(weights)
    # In pre-training all sensors passed through the first attention, so only it was trained.
    convert = partial(convert_encoder_state_dict, number=number, attention="first")
    read = read_foreign(weights, backbone.state_dict(), convert=convert, sha256=sha256)
    state = read.values
    attends = any(isinstance(stage, AttendedStage) for stage in backbone.stages)
    if attends != any(".attention." in key for key in state):
        raise WeightsMismatchError(
            f"{where} have {'no ' if attends else ''}deformable attention; set option 'attention' "
            f"of method 'decur' to {str(not attends).lower()}, or choose another file"
        )
    first = "stem.conv1.weight"
    if first in state:
        # RGB kernels: DeCUR's encoders saw blue first, others red, and files do not say which.
        state[first] = fit_bands(state[first], len(modality.bands), [modality], in_order=True)
    load_strict(backbone, state, where=where)
    backbone.pretrained = PretrainedSource(name, weights, licence, read.note)


def _has(state: Mapping[str, Tensor], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)
