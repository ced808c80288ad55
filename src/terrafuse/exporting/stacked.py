"""Graphs for tools that give a model one raster with all bands, such as QGIS with Deepness.

Reference: Deepness, https://github.com/PUTvision/qgis-plugin-deepness (Apache-2.0), commit f450c63:
`processing/models/model_base.py` for the keys and the preparation of values,
`deepness_dockwidget.py` for the size of tiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.errors import ConfigError
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter
from terrafuse.weights import RunInfo

#: What values are divided by before a model gets them there, whatever their range is.
_DIVISOR = 255.0
# Values come back from a division and a multiplication in float32.
_ROUNDING = 1e-6
_LARGEST_BATCH = 4096


class StackedGraph(nn.Module):
    """A segmenter as a function of one image of stored values.

    Such tools know neither NaN nor reading rules: values are scaled and nodata is told apart here,
    and probabilities are returned, since thresholds are applied to them.

    Args:
        segmenter: A trained model, all modalities of which have the scene's pixels.
        rules: Per modality its reading rules, as in `model.json`.
        nodata: Per modality the value that says "no data"; None: there is none.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        rules: Mapping[str, Mapping[str, Any]],
        nodata: Mapping[str, float | None],
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self._nodata = dict(nodata)
        self._judged_jointly = {
            name: own.get("nodata_rule", "each") == "all" for name, own in rules.items()
        }
        for modality in segmenter.modalities:
            own = rules.get(modality.name, {})
            for key, default in (("value_scale", 1.0), ("value_offset", 0.0)):
                value = own.get(key)
                factors = torch.tensor(default if value is None else value).expand(
                    len(modality.bands)
                )
                self.register_buffer(f"{key}_{modality.name}", factors.clone().view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (N, K, H, W).

        Args:
            image: Stored values (N, C, H, W) of all bands, modality by modality.
        """
        images, start = {}, 0
        for modality in self.segmenter.modalities:
            stop = start + len(modality.bands)
            images[modality.name] = self._physical(modality, image[:, start:stop])
            start = stop
        return self.segmenter.scores_of_whole(images).softmax(dim=1)

    def stored_values(self, images: Mapping[str, Tensor]) -> Tensor:
        """The image of stored values (N, C, H, W) that stands for physical ones.

        Args:
            images: Every modality (N, C_m, H, W) in physical units; NaN = no data.
        """
        stored = []
        for modality in self.segmenter.modalities:
            name, image = modality.name, images[modality.name]
            scale, offset = (
                self.get_buffer(f"{key}_{name}") for key in ("value_scale", "value_offset")
            )
            empty = image.isnan()
            if self._judged_jointly.get(name, False):
                empty = empty.all(dim=1, keepdim=True)
            nodata = self._nodata.get(name)
            values = (image - offset) / scale
            stored.append(values if nodata is None else torch.where(empty, nodata, values))
        return torch.cat(stored, dim=1)

    def _physical(self, modality: Modality, image: Tensor) -> Tensor:
        name = modality.name
        scaled = image * self.get_buffer(f"value_scale_{name}") + self.get_buffer(
            f"value_offset_{name}"
        )
        nodata = self._nodata.get(name)
        if nodata is None:
            return scaled
        empty = (image - nodata).abs() <= _ROUNDING * abs(nodata)
        if self._judged_jointly.get(name, False):
            empty = empty.all(dim=1, keepdim=True)
        return torch.where(empty, torch.nan, scaled)


def to_stacked_program(graph: StackedGraph, side: int) -> torch.export.ExportedProgram:
    """Record a stacked graph: the batch stays open, and windows have one size.

    Deepness needs it as a number in the file.

    Args:
        graph: In evaluation mode.
        side: Of the windows, in pixels.
    """
    bands = sum(len(modality.bands) for modality in graph.segmenter.modalities)
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    with torch.no_grad():
        return torch.export.export(
            graph,
            (torch.zeros(2, bands, side, side),),
            dynamic_shapes={"image": {0: batch}},
            strict=False,
        )


def check_stackable(modalities: Sequence[Modality], rules: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a model whose modalities cannot be the bands of one raster.

    Args:
        modalities: Of the model.
        rules: Per modality its reading rules, as in `model.json`.

    Raises:
        ConfigError: Names the modality, and why.
    """
    for modality in modalities:
        name, own = modality.name, rules.get(modality.name, {})
        if modality.scale_ratio != 1:
            raise ConfigError(
                f"modality '{name}' has pixels of {modality.scale:g} × the scene's, and a stacked "
                "graph takes all bands on one grid. Export without --stacked, or train with "
                "'scale: 1' for every modality"
            )
        made = next((key for key in ("rescale", "encoding", "complex") if own.get(key)), None)
        if made:
            raise ConfigError(
                f"modality '{name}' is read with '{made}: {own[made]}', which a stacked graph "
                "cannot do: other tools give it values as they are stored. Export without "
                "--stacked, and map with terrafuse predict"
            )


def deepness_metadata(
    info: RunInfo, *, size: int, overlap: int, pixel_size_m: float | None
) -> dict[str, str]:
    """Return what the QGIS plug-in Deepness reads, key by key, JSON each.

    It divides values by 255, subtracts `standardization_mean` and divides by `standardization_std`:
    with 0 and 1/255, stored values arrive. Its threshold and its filter of small segments are off.

    Args:
        info: The run.
        size: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share.
        pixel_size_m: Ground size of a pixel; None: unknown.
    """
    bands = sum(len(modality.bands) for modality in info.modalities)
    values: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": {str(i): name for i, name in enumerate(info.scheme.names)},
        "tile_size": size,
        "tiles_size": size,  # as its manual has the key
        "tiles_overlap": round(100 * overlap / size),  # percent
        "standardization_mean": [0.0] * bands,
        "standardization_std": [1 / _DIVISOR] * bands,
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    if pixel_size_m is not None:
        values["resolution"] = round(100 * pixel_size_m, 4)  # centimetres
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
