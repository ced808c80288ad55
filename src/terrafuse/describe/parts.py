"""Parts of a model, their trainable parameters, and the origin of its weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from terrafuse.backbones import (
    HUB_WEIGHTS,
    Backbone,
    PretrainedSource,
    find_published,
    has_hub_weights,
    hub_location,
)
from terrafuse.backbones.timm import models as timm_models
from terrafuse.config import RunConfig
from terrafuse.describe.costs import as_trained, derive_cost
from terrafuse.methods import tuned_state
from terrafuse.segmenter import Segmenter


def describe_segmenter(
    segmenter: Segmenter, config: RunConfig, known: Sequence[Mapping[str, str]] = ()
) -> dict[str, Any]:
    """Describe parts, weights and cost of a model as trained in a run, as plain values.

    Args:
        segmenter: From `without_values`; the run's settings are applied to it.
        config: Settings of the run.
        known: Base weights recorded in a run folder, backbone by backbone.

    Returns:
        "method", "modalities" (name → bands), "backbones", "parts", "total", "alike_bands" (lines
        on bands that share a wavelength), "saved_values" (number of values in a run folder) and
        "cost", which is {"error": reason} if it cannot be derived from shapes.
    """
    name_sources(segmenter, known)
    as_trained(segmenter, config.training)
    rows = [{**asdict(row), "frozen": row.frozen} for row in describe_parts(segmenter)]
    counts = ("parameters", "trainable", "frozen")
    return {
        "method": segmenter.method_name,
        "modalities": {m.name: list(m.bands) for m in segmenter.modalities},
        "backbones": [asdict(base) for base in describe_bases(segmenter)],
        "parts": rows,
        "total": {key: sum(row[key] for row in rows) for key in counts},
        "alike_bands": describe_alike_bands(segmenter),
        "saved_values": sum(value.numel() for value in tuned_state(segmenter).values()),
        "cost": _cost(segmenter, config),
    }


def _cost(segmenter: Segmenter, config: RunConfig) -> dict[str, Any]:
    try:
        return derive_cost(segmenter, config).to_dict()
    except Exception as error:  # models may do anything with missing values
        return {"error": (str(error).strip().splitlines() or [type(error).__name__])[0]}


@dataclass(frozen=True)
class PartSummary:
    """A row of `terrafuse describe`.

    Args:
        part: Name within the segmenter ("decoder", "branches.sar").
        piece: For a backbone: "pretrained part" or "from scratch", "tuning …", "neck", "of bands";
            else "".
        modality: The backbone's modality, if each modality has one.
        parameters: Number of values.
        trainable: Number of trainable values.
    """

    part: str
    piece: str
    modality: str | None
    parameters: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Number of frozen values."""
        return self.parameters - self.trainable


@dataclass(frozen=True)
class BaseSummary:
    """A backbone and its weights.

    Args:
        part: Name within the segmenter.
        modality: The backbone's modality, if each modality has one.
        backbone: Its name; the class name if the method has no option for it.
        tuning: Name of its tuning; empty for full fine-tuning.
        source: Origin of its weights; None if trained from scratch.
        licence: Licence of the weights, or "unknown".
        note: What was recognised and changed while their file was read; of a run folder only.
    """

    part: str
    modality: str | None
    backbone: str
    tuning: str
    source: str | None
    licence: str | None
    note: str = ""


def describe_parts(segmenter: Segmenter) -> list[PartSummary]:
    """List a row per child of the segmenter, several per backbone, none without parameters."""
    rows = []
    counted: set[int] = set()
    for name, child in segmenter.named_children():
        for path, backbone in _backbones_in(child, name):
            modality = _modality_of(segmenter, path)
            for piece, parameters in _pieces(backbone).items():
                rows.append(_row(path, piece, modality, parameters, counted))
        rows.append(_row(name, "", None, child.parameters(), counted))
    rows.append(_row("itself", "", None, segmenter.parameters(recurse=False), counted))
    return [row for row in rows if row.parameters]


def describe_bases(segmenter: Segmenter) -> list[BaseSummary]:
    """List a row per backbone; `name_sources` must have set their pretrained weights."""
    return [
        BaseSummary(
            part=path,
            modality=_modality_of(segmenter, path),
            backbone=_backbone_name(segmenter, path, backbone),
            tuning=backbone.tuning,
            source=backbone.pretrained.source if backbone.pretrained else None,
            licence=backbone.pretrained.licence if backbone.pretrained else None,
            note=backbone.pretrained.note if backbone.pretrained else "",
        )
        for path, backbone in _backbones_in(segmenter)
    ]


def name_sources(segmenter: Segmenter, known: Sequence[Mapping[str, str]] = ()) -> None:
    """Set the origin of each backbone's weights, in a model built without them.

    Args:
        segmenter: Changed in place: `pretrained` of its backbones.
        known: Base weights recorded in a run folder, backbone by backbone.
    """
    wanted = []
    for path, backbone in _backbones_in(segmenter):
        weights = _option(segmenter, "weights", path)
        if weights is not None:
            name = _backbone_name(segmenter, path, backbone)
            backbone.pretrained = find_source(name, str(weights))
            wanted.append(backbone)
    if len(known) == len(wanted):
        for backbone, source in zip(wanted, known, strict=True):
            backbone.pretrained = PretrainedSource(**source)


def find_source(backbone: str, weights: str) -> PretrainedSource:
    """Find the origin of weights without accessing them.

    Args:
        weights: "timm", "hub" or a path.
    """
    if weights == HUB_WEIGHTS and has_hub_weights(backbone):
        weights = hub_location(backbone)
    if weights != timm_models.TIMM_WEIGHTS:
        return PretrainedSource(backbone, weights, find_published(weights)[1])
    config = timm.get_pretrained_cfg(backbone)
    place = (config.hf_hub_id or config.url) if config is not None else None
    return PretrainedSource(backbone, str(place or weights), timm_models.licence_of(backbone))


def mean_gates(segmenter: Segmenter, state: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean share of its own features that each modality keeps where a tuning mixes modalities.

    Args:
        segmenter: Model that defines the gates.
        state: Values by the segmenter's names.

    Returns:
        Per modality the mean over all blocks; empty if nothing mixes.
    """
    gates = [
        state[f"{path}.{name}"]
        for path, backbone in _backbones_in(segmenter)
        for name in sorted(backbone.added)
        if name.endswith("mixing.own") and f"{path}.{name}" in state
    ]  # (M) each
    if not gates:
        return {}
    means = torch.stack(gates).float().mean(dim=0).tolist()
    return {m.name: mean for m, mean in zip(segmenter.modalities, means, strict=True)}


def describe_alike_bands(segmenter: Segmenter) -> list[str]:
    """Describe, a line per band set, bands that share a wavelength."""
    lines = []
    for path, backbone in _backbones_in(segmenter):
        for name in backbone.band_sets:
            bands = _band_names(segmenter, path, name)
            groups = [", ".join(bands[i] for i in g) for g in backbone.alike_bands(name)]
            how = (
                "are distinguished by trained offsets"
                if backbone.tells_apart(name)
                else "enter as their sum, because wave_delta is false"
            )
            if groups:
                lines.append(f"{path}: bands of one wavelength ({'; '.join(groups)}) {how}")
    return lines


def _band_names(segmenter: Segmenter, path: str, band_set: str) -> list[str]:
    """Names of the bands of a set, with their modalities where it has several."""
    by_name = {m.name: m for m in segmenter.modalities}
    own = by_name.get(band_set) or by_name.get(_modality_of(segmenter, path) or "")
    if own is not None:
        return list(own.bands)
    return [f"{m.name} {band}" for m in segmenter.modalities for band in m.bands]


def _pieces(backbone: Backbone) -> dict[str, list[nn.Parameter]]:
    """Group the parameters of a backbone by their role."""
    by_name = dict(backbone.named_parameters())
    of_bands = tuple(backbone.values_of_bands())
    base = {id(p) for group in backbone.layer_groups() for p in group}
    pieces: dict[str, list[nn.Parameter]] = {
        "pretrained part" if backbone.pretrained else "from scratch": [],
        f"tuning {backbone.tuning}": [],
        "neck": [],
        "of bands": [],  # per-band embeddings and offsets
    }
    first, added, neck, bands = pieces.values()
    for name, parameter in by_name.items():
        new = bands if name.startswith(of_bands) else neck
        where = added if name in backbone.added else first if id(parameter) in base else new
        where.append(parameter)
    return pieces


def _row(
    part: str,
    piece: str,
    modality: str | None,
    parameters: Iterable[nn.Parameter],
    counted: set[int],
) -> PartSummary:
    """Row of the parameters that no earlier row has counted."""
    own = [p for p in parameters if id(p) not in counted]
    counted.update(map(id, own))
    trainable = sum(p.numel() for p in own if p.requires_grad)
    return PartSummary(part, piece, modality, sum(p.numel() for p in own), trainable)


def _backbones_in(module: nn.Module, name: str = "") -> Iterator[tuple[str, Backbone]]:
    for path, inner in module.named_modules(prefix=name):
        if isinstance(inner, Backbone):
            yield path, inner


def _modality_of(segmenter: Segmenter, path: str) -> str | None:
    """Modality that a part is named after, as in methods with one part per modality."""
    last = path.rpartition(".")[2]
    return last if last in {m.name for m in segmenter.modalities} else None


def _backbone_name(segmenter: Segmenter, path: str, backbone: Backbone) -> str:
    return backbone.name or str(_option(segmenter, "backbone", path) or type(backbone).__name__)


def _option(segmenter: Segmenter, name: str, path: str) -> Any:
    """Value of a method's option, for the part at `path` if it is given by part."""
    parameter = inspect.signature(type(segmenter)).parameters.get(name)
    value = segmenter.method_options.get(name, parameter.default if parameter else None)
    if isinstance(value, Mapping):
        return value.get(path.rpartition(".")[2])  # by modality, or by stream
    return value
