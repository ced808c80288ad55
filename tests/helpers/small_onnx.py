"""ONNX files made by hand: a 1×1 convolution of two modalities, and the same as a segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from array_scene import make_modality
from terrafuse.classes import ClassScheme
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.weights import RunInfo
from terrafuse.weights.portable import METADATA_KEY, PortableInfo

SCHEME = ClassScheme(("water", "field", "town"), codes=((3,), (7,), (9,)))
MODALITIES = (make_modality("sar", 2), make_modality("dsm", 1, 2.0))
STRIDE = 4


class Pointwise(Segmenter):
    """A sum of a 1×1 convolution of each modality; a coarse one is repeated, not smoothed."""

    supports_missing = True

    def __init__(self, modalities: Sequence[Modality] = MODALITIES, num_classes: int = 3) -> None:
        super().__init__(modalities, num_classes)
        self.stride = STRIDE
        self.convs = nn.ModuleDict(
            {m.name: nn.Conv2d(len(m.bands), num_classes, 1, bias=False) for m in modalities}
        )

    def forward(self, images: Any, valid: Any = None) -> SegmenterOutput:
        """See the base class."""
        total = None
        for m in self.modalities:
            if m.name not in images:
                continue
            x = images[m.name]
            x = torch.where(x.isnan(), 0.0, self.normalize(m.name, x))
            scores = self.convs[m.name](x)
            if m.scale != 1:
                times = int(m.scale)
                scores = scores.repeat_interleave(times, -2).repeat_interleave(times, -1)
            total = scores if total is None else total + scores
        return SegmenterOutput(total)

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Of no use here."""
        raise NotImplementedError


def make_model(seed: int = 0, *, sixteenths: bool = True) -> Pointwise:
    """A model of fixed weights; in sixteenths all its arithmetic is exact on small numbers."""
    model = Pointwise().eval()
    generator = np.random.default_rng(seed)
    for conv in model.convs.values():
        values = generator.normal(size=tuple(conv.weight.shape))
        values = np.round(values * 16) / 16 if sixteenths else values
        conv.weight.data.copy_(torch.from_numpy(values))
    for m, (mean, std) in zip(MODALITIES, ((3.0, 2.0), (-1.0, 0.5)), strict=True):
        model.get_buffer(f"mean_{m.name}").fill_(mean)
        model.get_buffer(f"std_{m.name}").fill_(std)
    return model


def info_of(model: Pointwise, run: RunInfo | None = None, **changed: Any) -> PortableInfo:
    """What its file says about itself; `run` is what it comes from."""
    statistics = {}
    for m in model.modalities:
        bands = len(m.bands)
        mean, std = (tuple(model.get_buffer(f"{key}_{m.name}").tolist()) for key in ("mean", "std"))
        low, high = (-20.0,) * bands, (20.0,) * bands
        statistics[m.name] = BandStatistics(mean, std, low, high, (1000,) * bands)
    made = RunInfo("single", {}, model.modalities, SCHEME, statistics, crop_size=16, overlap=4)
    values: dict[str, Any] = {
        "model": (run or made).to_dict(),
        "windows": {
            "crop_size": 16, "overlap": 4, "blending": "taper", "batch_size": 2,
            "precision": "32-true",
        },
        "stride": model.stride,
        "supports_missing": True,
        "opset": 18,
    }  # fmt: skip
    return PortableInfo(**{**values, **changed})


def write_onnx(
    path: Path,
    model: Pointwise,
    info: PortableInfo | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Path:
    """Write it node by node: normalise, fill, convolve, repeat, add."""
    nodes, tensors, inputs, sums = [], [], [], []

    def put(name: str, values: Any, dtype: Any = np.float32) -> str:
        tensors.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(kind: str, out: str, *names: str, **options: Any) -> str:
        nodes.append(helper.make_node(kind, list(names), [out], **options))
        return out

    zero = put("zero", 0.0)
    for m in model.modalities:
        name = (rename or {}).get(m.name, m.name)
        shape = ["n", len(m.bands), f"h_{name}", f"w_{name}"]
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        mean, std = (model.get_buffer(f"{key}_{m.name}").numpy() for key in ("mean", "std"))
        centred = add("Sub", f"{name}_c", name, put(f"{name}_mean", mean[:, None, None]))
        scaled = add("Div", f"{name}_s", centred, put(f"{name}_std", std[:, None, None]))
        gone = add("IsNaN", f"{name}_n", name)
        filled = add("Where", f"{name}_f", gone, zero, scaled)
        weight = put(f"{name}_w", model.convs[m.name].weight.detach().numpy())
        scores = add("Conv", f"{name}_l", filled, weight)
        if m.scale != 1:
            factors = put(f"{name}_x", [1, 1, m.scale, m.scale])
            scores = add(
                "Resize", f"{name}_r", scores, "", factors, mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            )  # fmt: skip
        sums.append(scores)
    add("Sum", "logits", *sums)
    classes = ["n", model.num_classes, "h", "w"]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, classes)
    graph = helper.make_graph(nodes, "pointwise", inputs, [output], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    found = metadata
    if found is None:
        found = {METADATA_KEY: (info or info_of(model)).to_json()}
    helper.set_model_props(proto, dict(found))
    onnx.save(proto, path)
    return path
