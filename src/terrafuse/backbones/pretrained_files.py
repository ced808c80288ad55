"""Weight files of `terrafuse pretrain`: their content, and loading them into a backbone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from terrafuse.backbones.base import Backbone, PretrainedSource, TokenBackbone
from terrafuse.backbones.family import Images
from terrafuse.backbones.timm.models import HUB_WEIGHTS, TIMM_WEIGHTS
from terrafuse.errors import WeightsError, WeightsMismatchError
from terrafuse.modalities import Modality
from terrafuse.version import VERSION
from terrafuse.weights import (
    load_strict,
    pretrained_wanted,
    read_metadata,
    read_weights,
    write_tensors,
)

_KEY = "terrafuse_backbone"
_B = TypeVar("_B", bound=Backbone)
# New in every model, and not learned from pixels alone.
_NECKS = ("pyramid.", "vit.neck.", "tap_norms.")
# Transformers only, where the stem is not the embedding but convolutions beside it.
_BESIDE = ("stem.",)
# Embeddings of bands without a wavelength; files record which bands these are.
_PSEUDO = "pseudo_bands."
_NORM = re.compile(r"^vit\.norm\.")
_STAGE = re.compile(r"^(stem|stages\.\d+)\.")
_BLOCK = re.compile(r"^(?:vit\.|joint\.)?blocks\.(\d+)\.")


@dataclass(frozen=True)
class OwnFile:
    """Metadata of a file of `terrafuse pretrain`.

    Args:
        backbone: Name of the backbone.
        options: Options of the backbone.
        objective: Name of the pre-training objective.
        bands: Per input image, modality and band of each channel.
        pseudo_bands: Per image the indices of channels without a wavelength, for a backbone that
            identifies bands by wavelength.
    """

    path: str
    backbone: str
    options: Mapping[str, Any]
    objective: str
    bands: Mapping[str, tuple[tuple[str, str], ...]]
    pseudo_bands: Mapping[str, Sequence[int]]


def save_backbone(
    path: Path,
    backbone: Backbone,
    name: str,
    options: Mapping[str, Any],
    images: Images,
    objective: str,
) -> None:
    """Write a backbone without its neck; call it under `written_whole`.

    Args:
        path: A safetensors file.
        name: Name of the backbone.
        options: Options of the backbone.
        images: Its input images, by name.
        objective: Name of the pre-training objective.

    Raises:
        OSError: Not writable, or the disk is full.
    """
    facts = {
        "backbone": name,
        "options": dict(options),
        "objective": objective,
        "bands": {image: _channels(modalities) for image, modalities in images.items()},
        "pseudo_bands": backbone.values_of_bands().get(_PSEUDO, {}),
    }
    state = backbone.state_dict()
    values = {new: state[name] for name, new in _names_in_file(backbone).items()}
    write_tensors(path, values, {"terrafuse": VERSION, _KEY: json.dumps(facts)})


def is_own(weights: str | None) -> bool:
    """Tell whether weights are a file of `terrafuse pretrain` that should be loaded."""
    return read_own(weights) is not None


def read_own(weights: str | None) -> OwnFile | None:
    """Read the metadata of a file of `terrafuse pretrain`; None for all other weights.

    Raises:
        WeightsError: This version does not understand the metadata.
    """
    if weights in (None, TIMM_WEIGHTS, HUB_WEIGHTS) or not pretrained_wanted():
        return None
    text = read_metadata(str(weights)).get(_KEY)
    if text is None:
        return None
    try:
        facts = json.loads(text)
        bands = {
            image: tuple((str(modality), str(band)) for modality, band in channels)
            for image, channels in facts["bands"].items()
        }
        return OwnFile(
            path=str(weights),
            backbone=facts["backbone"],
            options=facts["options"],
            objective=facts["objective"],
            bands=bands,
            pseudo_bands=facts["pseudo_bands"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"'{weights}' does not say what it holds ({error}). Run 'terrafuse pretrain' again"
        ) from None


def refuse_own(weights: str | None, method: str, instead: str) -> None:
    """Refuse a file of `terrafuse pretrain` for a method that cannot use one.

    Args:
        weights: The method's option `weights`.
        method: Name of the method.
        instead: Weights the method does start from.

    Raises:
        WeightsMismatchError: Names the file's backbone and the method.
    """
    own = read_own(weights)
    if own is not None:
        raise WeightsMismatchError(
            f"weights '{weights}' were made by terrafuse pretrain for backbone '{own.backbone}'; "
            f"method '{method}' has an encoder of its own, which pretrain does not know, and "
            f"starts from {instead}"
        )


def create_with(
    name: str, weights: str | None, images: Images | int, create: Callable[[str | None], _B]
) -> _B:
    """Create a backbone and load weights of any kind.

    Args:
        name: Name of the backbone.
        weights: As in `create_backbone`.
        images: Its input images, or the number of bands where nothing else is known.
        create: Builds it, given weights that are not a file of `terrafuse pretrain`.

    Raises:
        WeightsMismatchError: The file is for another backbone, or for other bands.
    """
    own = read_own(weights)
    backbone = create(None if own else weights)
    if own is not None:
        _load(backbone, name, own, images)
    return backbone


def _load(backbone: Backbone, name: str, own: OwnFile, images: Images | int) -> None:
    where = f"weights '{own.path}' for backbone '{name}'"
    if own.backbone != name:
        raise WeightsMismatchError(
            f"{where} were made by terrafuse pretrain for backbone '{own.backbone}'. Choose that "
            f"backbone, or pre-train '{name}'"
        )
    if not backbone.band_sets:  # else bands are identified by their wavelengths
        _check_bands(own, images, where)
    state = _fit_values_of_bands(read_weights(own.path), backbone, own, images)
    names = {in_file: name for name, in_file in _names_in_file(backbone).items()}
    used = {
        names.get(key, key): value
        for key, value in state.items()
        if key in names or not _is_beyond(key, names, backbone)
    }
    necks = {k: v for k, v in backbone.state_dict().items() if k.startswith(_necks(backbone))}
    load_strict(backbone, used | necks, where=f"{where}{_options(own)}")
    backbone.pretrained = PretrainedSource(name, own.path, "that of the images it learnt from")


def _check_bands(own: OwnFile, images: Images | int, where: str) -> None:
    if isinstance(images, int):
        found = sum(len(channels) for channels in own.bands.values())
        if found != images:
            raise WeightsMismatchError(
                f"{where} were made for {found} bands ({_listed(own)}), and the image has {images}"
            )
        return
    given = {image: _channels(modalities) for image, modalities in images.items()}
    ours = {image: [band for _, band in channels] for image, channels in given.items()}
    theirs = {image: [band for _, band in channels] for image, channels in own.bands.items()}
    if ours == theirs:
        return
    same = {i: sorted(bands) for i, bands in ours.items()} == {
        i: sorted(bands) for i, bands in theirs.items()
    }
    bands = "; ".join(", ".join(own_bands) for own_bands in ours.values())
    raise WeightsMismatchError(
        f"{where} were made for the bands {_listed(own)}, and the image has {bands}"
        f"{', the same in another order' if same else ''}. Choose weights of these bands, or "
        "pre-train on them"
    )


def _fit_values_of_bands(
    state: Mapping[str, Tensor], backbone: Backbone, own: OwnFile, images: Images | int
) -> dict[str, Tensor]:
    """Replace per-band values by the learned ones, for bands that the file knows.

    For DOFA these are the embedding of a band without a wavelength, and the offset of one that
    shares its wavelength.
    """
    ours = {} if isinstance(images, int) else images
    every = {name: range(len(channels)) for name, channels in own.bands.items()}
    kinds, parameters = backbone.values_of_bands(), dict(backbone.named_parameters())
    values = {k: v for k, v in state.items() if not k.startswith(tuple(kinds))}
    for kind, sets in kinds.items():
        learnt = _learnt_of_bands(state, own, kind, own.pseudo_bands if kind == _PSEUDO else every)
        for image, places in sets.items():
            rows = parameters[f"{kind}{image}"].detach().clone()
            channels = _channels(ours.get(image, ()))
            _take_known(rows, [channels[place] for place in places if channels], learnt)
            values[f"{kind}{image}"] = rows
    return values


def _learnt_of_bands(
    state: Mapping[str, Tensor], own: OwnFile, kind: str, places: Mapping[str, Sequence[int]]
) -> dict[tuple[str, str], Tensor]:
    """Rows of one kind of per-band values in a file, by modality and band."""
    learnt: dict[tuple[str, str], Tensor] = {}
    for image, channels in own.bands.items():
        rows = state.get(f"{kind}{image}")
        if rows is not None:
            learnt |= dict(zip([channels[i] for i in places[image]], rows, strict=True))
    return learnt


def _take_known(
    rows: Tensor, channels: Sequence[tuple[str, str]], learnt: Mapping[tuple[str, str], Tensor]
) -> None:
    """Overwrite the rows of channels that a file knows with its values."""
    for row, channel in enumerate(channels):
        rows[row] = learnt.get(channel, rows[row])


def _names_in_file(backbone: Backbone) -> dict[str, str]:
    """Names of the values stored in files → their names in the file.

    How a timm pyramid groups layers into stages depends on options; the layers' own names do not.
    """
    names = [name for name in backbone.state_dict() if not name.startswith(_necks(backbone))]
    if not backbone.flat_files:
        return {name: name for name in names}
    return {name: _STAGE.sub("", name) for name in names}


def _necks(backbone: Backbone) -> tuple[str, ...]:
    return (*_NECKS, *_BESIDE) if isinstance(backbone, TokenBackbone) else _NECKS


def _is_beyond(key: str, known: Mapping[str, str], backbone: Backbone) -> bool:
    """Tell whether a value belongs to layers after the last level, or to an unused final norm."""
    if backbone.flat_files:
        return not any(name.startswith(f"{key.partition('.')[0]}.") for name in known)
    found = _BLOCK.match(key)
    if found is None:
        return _NORM.match(key) is not None
    return not any(name.startswith(f"{found[0]}") for name in known)


def _channels(modalities: Sequence[Modality]) -> list[tuple[str, str]]:
    return [(m.name, band) for m in modalities for band in m.bands]


def _listed(own: OwnFile) -> str:
    return "; ".join(", ".join(band for _, band in channels) for channels in own.bands.values())


def _options(own: OwnFile) -> str:
    """Options that the file was made with, for the message of a mismatch."""
    return f" (made with backbone_options {json.dumps(own.options)})" if own.options else ""
