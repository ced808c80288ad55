"""Methods by name: create one, load a trained one, list them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from terrafuse.backbones import bands_in_turn
from terrafuse.classes import ClassScheme
from terrafuse.config.options import check_options
from terrafuse.errors import (
    ChecksumError,
    ConfigError,
    ModelError,
    PluginError,
    UnknownNameError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from terrafuse.methods.ammfusenet import AMMFuseNet
from terrafuse.methods.cmx import CMX
from terrafuse.methods.croma import CROMASegmenter
from terrafuse.methods.decur import DeCUR
from terrafuse.methods.dformer import DFormer
from terrafuse.methods.early_fusion import EarlyFusion
from terrafuse.methods.galileo import GalileoSegmenter
from terrafuse.methods.late_fusion import LateFusion
from terrafuse.methods.mcanet import MCANet
from terrafuse.methods.mfnet import MFNet
from terrafuse.methods.pagnet import PAGNet
from terrafuse.methods.saving import base_state, load_tuned, missing_base, tuned_state
from terrafuse.methods.single import Single
from terrafuse.methods.sslvit import SSLViT
from terrafuse.methods.upseg import UPSeg
from terrafuse.methods.vsgnet import VSGNet
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.plugins import find, folder_of, origins_in, say_what_changed
from terrafuse.segmenter import Segmenter
from terrafuse.tuning import merge_tuning
from terrafuse.weights import (
    MODEL_JSON,
    STATE_FILE,
    RunInfo,
    also_looking_in,
    digest_values,
    read_run_info,
    read_state,
    without_pretrained,
)

#: Every method by its name; add a new one here.
METHODS: Mapping[str, type[Segmenter]] = {
    "single": Single,
    "early_fusion": EarlyFusion,
    "late_fusion": LateFusion,
    "mfnet": MFNet,
    "croma": CROMASegmenter,
    "galileo": GalileoSegmenter,
    "decur": DeCUR,
    "sslvit": SSLViT,
    "upseg": UPSeg,
    "vsgnet": VSGNet,
    "cmx": CMX,
    "dformer": DFormer,
    "mcanet": MCANet,
    "pagnet": PAGNet,
    "ammfusenet": AMMFuseNet,
}


@dataclass(frozen=True)
class MethodSummary:
    """A row of `terrafuse methods`.

    Args:
        name: As in `run.yaml`.
        title: One-line description.
        paper: Reference; empty for a baseline.
        modalities: Number of modalities it takes ("1", "2 to 3", "1 or more").
        supports_missing: Whether samples may lack modalities.
    """

    name: str
    title: str
    paper: str
    modalities: str
    supports_missing: bool


def create_segmenter(
    name: str,
    modalities: Sequence[Modality],
    num_classes: int,
    options: Mapping[str, Any] | None = None,
) -> Segmenter:
    """Build an untrained model.

    Args:
        name: One of `METHODS`, of an installed plug-in, or `module:Class`.
        modalities: What it will receive, in the order the method fuses.
        num_classes: K.
        options: Keyword arguments of the method's constructor.

    Raises:
        UnknownNameError: No such method, backbone, decoder or option; names the nearest.
        ModelError: The number of modalities or the value of an option does not suit the method.
        PluginError: It is from outside the package, and cannot be imported or is no method.
        WeightsError: Pretrained weights are wanted and cannot be used.
    """
    method = find_method(name)
    given = dict(options or {})
    checked = check_options("method", name, method, given)
    segmenter = method(tuple(modalities), num_classes, **checked)
    segmenter.method_name, segmenter.method_options = name, given
    return segmenter


def find_method(name: str) -> type[Segmenter]:
    """The class of a method.

    Args:
        name: One of `METHODS`, of an installed plug-in, or `module:Class`.

    Raises:
        UnknownNameError: No such method; the nearest is named.
        PluginError: It is from outside the package, and cannot be imported or is no method.
    """
    method: type[Segmenter] = find(
        "method", name, METHODS, _is_method, "a class derived from terrafuse.Segmenter that "
        "defines 'segment' (docs/howto/add-method.md)",
    )  # fmt: skip
    return method


def _is_method(value: Any) -> bool:
    is_segmenter = inspect.isclass(value) and issubclass(value, Segmenter)
    return is_segmenter and not inspect.isabstract(value)


def load_segmenter(
    run_folder: str | Path, device: str | torch.device = "cpu", *, merge: bool = False
) -> tuple[Segmenter, RunInfo]:
    """Load the trained model of a run folder, in evaluation mode, and its metadata.

    Args:
        run_folder: Folder of a finished run.
        merge: Whether to merge low-rank updates into the weights: slightly faster, and equal up to
            rounding.

    Raises:
        PluginError: It was trained with code from outside the package, which is not here.
        WeightsError: Not a run folder, damaged, or of another version; or the base weights of a
            tuned run are missing or have changed.
        ChecksumError: The weights are not those that `model.json` describes.
    """
    info = read_run_info(run_folder)
    state = read_state(run_folder, info)
    where = f"weights in '{Path(run_folder) / STATE_FILE}'"
    segmenter = _build_again(info, run_folder)
    try:
        load_tuned(segmenter, state, info, where)
    except ChecksumError as error:
        with bands_in_turn():  # an earlier version may have built the frozen first layer
            segmenter = _build_again(info, run_folder)
        try:
            load_tuned(segmenter, state, info, where)
        except ChecksumError:
            raise error from None
    say_what_changed(info.code, f"the run in '{run_folder}'")
    if merge:
        merge_tuning(segmenter)
    return segmenter.to(device).eval(), info


def _build_again(info: RunInfo, run_folder: str | Path) -> Segmenter:
    """Rebuild the model of a run folder in its state before training."""
    is_whole = info.base_values_sha256 is None
    try:
        # If all weights come from the folder, none must be downloaded.
        with without_pretrained() if is_whole else also_looking_in(run_folder):
            return create_segmenter(
                info.method, info.modalities, info.scheme.num_classes, info.method_options
            )
    except PluginError as error:
        raise PluginError(_missing_code(info, run_folder, error)) from error
    except UnknownNameError as error:
        if info.code:
            raise PluginError(_missing_code(info, run_folder, error)) from error
        raise WeightsMismatchError(
            f"'{run_folder}' was written by terrafuse {info.version} and cannot be built by this "
            f"one: {error}"
        ) from error
    except WeightsNotFoundError as error:
        raise missing_base(error, run_folder) from None
    except (ConfigError, ModelError) as error:
        raise WeightsError(
            f"the model that '{Path(run_folder) / MODEL_JSON}' describes cannot be built: {error}. "
            "The file was changed; bring it from the run folder as it was trained"
        ) from error


def _missing_code(info: RunInfo, run_folder: str | Path, error: Exception) -> str:
    lines = [
        f"'{run_folder}' needs code from outside terrafuse, which no run folder brings: {error}"
    ]
    for name, origin in info.code.items():
        folder = folder_of(origin)
        if origin["distribution"]:
            lines.append(f"'{name}' was of {origin['distribution']}; install that")
        elif folder is not None:
            lines.append(
                f"'{name}' was in '{origin['file']}'. If that is code you trust, set "
                f"PYTHONPATH={folder} (or the folder in which it lies now)"
            )
    return ". ".join(line.rstrip(".") for line in lines)


def describe_run(
    segmenter: Segmenter,
    *,
    scheme: ClassScheme,
    statistics: Mapping[str, BandStatistics],
    crop_size: int,
    overlap: int,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    grid: str | None = None,
) -> RunInfo:
    """Collect the metadata that `save_model` stores beside a model's state.

    Args:
        segmenter: A model from `create_segmenter`.
        statistics: Per modality, over the training split.
        crop_size: Window size of prediction, in scene pixels.
        overlap: Overlap of windows, in scene pixels.
        rules: Per modality, rules for reading its rasters.
        grid: Modality whose grid is the scene's; None = the labels', else the finest.
    """
    sources = [b.pretrained.to_dict() for b in segmenter.backbones() if b.pretrained is not None]
    left_out = base_state(segmenter)
    return RunInfo(
        method=segmenter.method_name,
        method_options=segmenter.method_options,
        modalities=segmenter.modalities,
        scheme=scheme,
        statistics={m.name: statistics[m.name] for m in segmenter.modalities},
        crop_size=crop_size,
        overlap=overlap,
        rules={name: dict(rule) for name, rule in (rules or {}).items()},
        grid=grid,
        base_weights=tuple(sources),
        base_values_sha256=digest_values(left_out) if left_out else None,
        total_parameters=sum(p.numel() for p in segmenter.parameters()),
        code=origins_in([segmenter.method_name, segmenter.method_options]),
    )


def list_methods() -> list[MethodSummary]:
    """List the methods, one row each."""
    return [
        MethodSummary(
            name=name,
            title=method.title,
            paper=method.paper,
            modalities=_range(*method.num_modalities),
            # With a single modality nothing can be missing.
            supports_missing=method.supports_missing and method.num_modalities != (1, 1),
        )
        for name, method in METHODS.items()
    ]


def _range(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"


__all__ = [
    "CMX",
    "METHODS",
    "AMMFuseNet",
    "CROMASegmenter",
    "DFormer",
    "DeCUR",
    "EarlyFusion",
    "GalileoSegmenter",
    "LateFusion",
    "MCANet",
    "MFNet",
    "MethodSummary",
    "PAGNet",
    "SSLViT",
    "Single",
    "UPSeg",
    "VSGNet",
    "create_segmenter",
    "describe_run",
    "find_method",
    "list_methods",
    "load_segmenter",
    "tuned_state",
]
