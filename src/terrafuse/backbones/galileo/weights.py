"""Names of Galileo models, and their published files.

Reference: Tseng et al., "Galileo", ICML 2025, arXiv 2502.09356; repository nasaharvest/galileo
(code and weights MIT).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from terrafuse.backbones.base import PretrainedSource
from terrafuse.backbones.galileo.encoder import GalileoEncoder, GalileoVariant
from terrafuse.backbones.galileo.inputs import GROUPS
from terrafuse.backbones.timm.models import HUB_WEIGHTS, find_published
from terrafuse.errors import (
    UnknownNameError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
    unknown_name,
)
from terrafuse.weights import digest, load_strict, read_foreign

#: Prefix of all Galileo names.
GALILEO_PREFIX = "galileo_"
_HUB = "hf://nasaharvest/galileo/models/"
#: Every Galileo by its name.
VARIANTS: Mapping[str, GalileoVariant] = {
    "galileo_nano": GalileoVariant(128, 4, 8, file=f"{_HUB}nano/encoder.pt"),
    "galileo_tiny": GalileoVariant(192, 12, 3, file=f"{_HUB}tiny/encoder.pt"),
    "galileo_base": GalileoVariant(768, 12, 12, file=f"{_HUB}base/encoder.pt"),
}
_NANO = (
    "eab6acacf527886a508a555bc24efe4b4a2cf91b162e84cd1c4a1807e942180c",  # encoder.pt
    "7d216aada11478a52406509b69acc752f7c14539ccf41fe64c69f7366e908717",  # as safetensors
)
_FILES = ("encoder.safetensors", "encoder.pt")
_CONFIG = "config.json"
_BLOCK = re.compile(r"^blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"^(?:space_time|space|time|static)_embed\.(\w+)\.")
#: Fixed tables in the files → the encoder's buffers.
_TABLES = {"pos_embed": "dates", "month_embed.weight": "months"}


def find_variant(name: str, **sizes: float | None) -> GalileoVariant:
    """Look up the sizes of a Galileo by name; given sizes override them.

    Raises:
        UnknownNameError: No such Galileo; names the nearest.
        ModelError: Impossible sizes.
    """
    if name not in VARIANTS:
        raise UnknownNameError(unknown_name("backbone", name, VARIANTS))
    given: dict[str, Any] = {key: size for key, size in sizes.items() if size is not None}
    return replace(VARIANTS[name], **given)


def hub_location(name: str) -> str:
    """Return the location of a Galileo's published weights ("hf://…").

    Raises:
        UnknownNameError: There is no such Galileo.
    """
    location = find_variant(name).file
    assert location is not None
    return location


def load_published(
    encoder: GalileoEncoder, name: str, variant: GalileoVariant, weights: str
) -> PretrainedSource:
    """Load a published checkpoint into the encoder.

    Embeddings of unused groups, and blocks beyond the encoder's, are skipped; all else must fit,
    including the fixed tables. A config.json beside the file must describe the same model.

    Args:
        encoder: Changed in place.
        name: Name of the backbone.
        variant: Sizes of the backbone.
        weights: "hub" for the published file, its path or folder, or "hf://…".

    Raises:
        WeightsNotFoundError: The folder holds no weights.
        WeightsMismatchError: They are of another size, or values are missing or unknown.
        ChecksumError: The file is not the published one of its name.
    """
    location = hub_location(name) if weights == HUB_WEIGHTS else _file_in(weights)
    where = f"weights '{location}' for backbone '{name}'"
    sha256, licence = find_published(location)
    read = read_foreign(location, encoder.state_dict(), convert=_in_one, sha256=sha256)
    state = read.values
    path = Path(location).expanduser()
    if path.is_file():
        _check_config(path.with_name(_CONFIG), name, variant, where)
        licence = "mit" if digest(path) in _NANO else licence
    _check_size(state, name, variant, where)
    _check_tables(state, encoder, where)
    used = {k: value for k, value in state.items() if not _is_extra(k, encoder, variant)}
    load_strict(encoder, used, where=where)
    return PretrainedSource(name, location, licence, read.note)


def _in_one(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Files of pre-training hold the encoder as "backbone" of each part."""
    return {
        key.replace(".backbone.", ".").removeprefix("backbone."): value
        for key, value in state.items()
    }


def _file_in(weights: str) -> str:
    """Resolve a folder to its file of weights."""
    folder = Path(weights).expanduser()
    if weights.startswith("hf://") or folder.is_file():
        return weights
    if folder.is_dir():
        found = [folder / file for file in _FILES if (folder / file).is_file()]
        if not found:
            raise WeightsNotFoundError(
                f"folder '{folder}' holds no weights of Galileo ({' or '.join(_FILES)})"
            )
        return str(found[0])
    return weights if folder.suffix else str(folder / _FILES[0])


def _check_config(path: Path, name: str, variant: GalileoVariant, where: str) -> None:
    """Compare the sizes in a config.json, where there is one, with the backbone's."""
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["model"]["encoder"]
    except (ValueError, KeyError, TypeError):
        return  # some other config.json
    wanted = {
        "embedding_size": variant.embed_dim,
        "depth": variant.depth,
        "num_heads": variant.num_heads,
        "mlp_ratio": variant.mlp_ratio,
        "max_sequence_length": variant.max_dates,
        "max_patch_size": variant.kernel_size,
    }
    differ = [
        f"{key} is {config[key]}, needed {value:g}"
        for key, value in wanted.items()
        if key in config and config[key] != value
    ]
    if differ:
        hint = _named_like(int(config.get("embedding_size", 0)), int(config.get("depth", 0)))
        raise WeightsMismatchError(
            f"{where}: by the {_CONFIG} beside it {'; '.join(differ)}.{hint} Choose the backbone "
            f"that the file was made for, not '{name}'"
        )


def _check_size(
    state: Mapping[str, Tensor], name: str, variant: GalileoVariant, where: str
) -> None:
    norm = state.get("norm.weight")
    if norm is None:
        raise WeightsMismatchError(
            f"{where} hold no 'norm.weight', which every Galileo has: they are of another model"
        )
    depth = len({found[1] for key in state if (found := _BLOCK.match(key))})
    if (len(norm), depth) != (variant.embed_dim, variant.depth):
        raise WeightsMismatchError(
            f"{where} have embed_dim {len(norm)} and depth {depth}, needed {variant.embed_dim} and "
            f"{variant.depth}.{_named_like(len(norm), depth)} Choose the backbone that the file "
            f"was made for, not '{name}'"
        )


def _named_like(embed_dim: int, depth: int) -> str:
    for name, variant in VARIANTS.items():
        if (variant.embed_dim, variant.depth) == (embed_dim, depth):
            return f" They are of the size of '{name}'."
    return ""


def _check_tables(state: Mapping[str, Tensor], encoder: GalileoEncoder, where: str) -> None:
    for key, own in _TABLES.items():
        table = encoder.get_buffer(own)
        if key not in state or table.is_meta:
            continue
        value = state[key].float()
        if value.shape != table.shape or not torch.allclose(value.cpu(), table.cpu(), atol=1e-5):
            raise WeightsError(
                f"{where}: '{key}' is not Galileo's fixed table; the file is damaged, or of "
                "another model"
            )


def _is_extra(key: str, encoder: GalileoEncoder, variant: GalileoVariant) -> bool:
    if key in _TABLES:
        return True
    block, embedding = _BLOCK.match(key), _EMBEDDING.match(key)
    if block is not None:
        return len(encoder.blocks) <= int(block[1]) < variant.depth
    built = {group.name for group in encoder.groups}
    if embedding is not None:
        return embedding[1] in GROUPS and embedding[1] not in built
    return key.endswith("_channel_embed") and key not in encoder.state_dict()
