"""Stacked graphs, read and run as QGIS' plug-in Deepness does (version 0.6.5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from made_runs import make_run
from remedies import refused
from terrafuse import api
from terrafuse.data import ReadingRules
from terrafuse.errors import ConfigError
from terrafuse.exporting import StackedGraph, check_stackable, deepness_metadata
from terrafuse.modalities import Modality
from terrafuse.weights import PortableInfo

PLAIN = ReadingRules().to_dict()
RULES = {"s2": {**PLAIN, "nodata": 3.0, "value_scale": 0.5, "value_offset": 10.0}, "s1": PLAIN}


class Deepness:
    """What the plug-in takes out of a file, and how it prepares and reads values.

    After `processing/models/model_base.py`, `deepness_dockwidget.py` and
    `map_processor_segmentation.py` of its sources: facts, not code.
    """

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (self.input,) = self.session.get_inputs()  # it refuses more
        found = self.session.get_modelmeta().custom_metadata_map
        batch, self.channels, height, width = self.input.shape
        assert isinstance(batch, str), "an open batch"
        assert height == width
        assert type(width) is int, "a spin box is set to it"
        self.side = width
        self.kind = str(json.loads(found["model_type"])).capitalize()
        names = json.loads(found["class_names"])
        self.names = [names[key] for key in sorted(names, key=int)]
        assert sorted(map(int, names)) == list(range(len(names)))
        self.resolution_cm = float(json.loads(found["resolution"]))
        self.tile = int(json.loads(found["tile_size"]))
        self.overlap_percent = int(json.loads(found["tiles_overlap"]))
        self.threshold = float(json.loads(found["seg_thresh"]))
        self.small = int(json.loads(found["seg_small_segment"]))
        self.mean, self.std = (
            np.array([float(v) for v in json.loads(found[f"standardization_{key}"])], np.float32)
            for key in ("mean", "std")
        )
        (output,) = self.session.get_outputs()
        self.num_outputs = output.shape[-3]  # layers to create

    def classes(self, tiles: np.ndarray) -> np.ndarray:
        """Class numbers of tiles (N, H, W, C) of stored values."""
        values = np.float32(tiles * 1.0 / 255.0)
        values = (values - self.mean) / self.std
        (result,) = self.session.run(
            None, {self.input.name: np.transpose(values, (0, 3, 1, 2)).astype(np.float32)}
        )
        result[result < self.threshold] = 0.0
        labels: np.ndarray = np.argmax(result, axis=1)
        return labels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    folder = tmp_path_factory.mktemp("stacked")
    return api.load(make_run(folder, "tiny_segmenter:Tiny", {}, rules=RULES))


@pytest.fixture(scope="module")
def made(run: api.Run) -> api.Exported:
    return api.export(run, stacked=True)


def test_the_plugin_finds_what_it_reads(run: api.Run, made: api.Exported) -> None:
    found = Deepness(made.path)
    assert made.path.name == "model_stacked.onnx"
    assert found.kind == "Segmentor"
    assert found.names == ["bare", "wet"]
    assert (found.channels, found.num_outputs) == (5, 2)
    assert (found.side, found.tile, found.overlap_percent) == (64, 64, 12)
    assert found.resolution_cm == 1000
    assert (found.threshold, found.small) == (0, 0)
    info = PortableInfo.from_json(
        found.session.get_modelmeta().custom_metadata_map["terrafuse"], str(made.path)
    )
    assert info.stacked
    assert info.inputs == {"image": 5}
    assert (info.stride, info.least_size) == (64, 64)
    assert info.checked["equal_labels"] == 1


def test_the_plugin_maps_as_the_model(run: api.Run, made: api.Exported) -> None:
    rng = np.random.default_rng(5)
    tiles = np.concatenate(
        [rng.integers(100, 260, (2, 64, 64, 4)), rng.integers(-25, -2, (2, 64, 64, 1))], axis=-1
    ).astype(np.int16)
    tiles[0, :8, :, :4] = 3  # no data
    tiles[1, 5:20, :, 2] = 3  # a value of one band
    physical = tiles[..., :4].astype(np.float32) * 0.5 + 10
    physical[0, :8] = np.nan
    images = {"s2": physical, "s1": tiles[..., 4:].astype(np.float32)}
    with torch.no_grad():
        tensors = {k: torch.from_numpy(v.transpose(0, 3, 1, 2).copy()) for k, v in images.items()}
        logits = run.segmenter(tensors).logits
    sure = (logits[:, 0] - logits[:, 1]).abs().numpy() > 1e-4
    labels = Deepness(made.path).classes(tiles)
    assert sure.mean() > 0.99
    assert np.array_equal(labels[sure], logits.argmax(dim=1).numpy()[sure])
    assert {*np.unique(labels)} == {0, 1}
    # Without the gap, or with it where one band has the value, the map is another one.
    for change in (np.nan, 11.5):
        other = dict(tensors, s2=tensors["s2"].clone())
        place = other["s2"][1, :, 5:20] if change is np.nan else other["s2"][0, :, :8]
        place[:] = change
        with torch.no_grad():
            differs = run.segmenter(other).logits.argmax(dim=1).numpy()
        assert not np.array_equal(labels[sure], differs[sure])


def test_stored_values_are_the_inverse(run: api.Run) -> None:
    graph = StackedGraph(run.segmenter, RULES, {"s2": 3.0, "s1": None})
    s2 = torch.tensor([20.0, 30.0, 40.0, 50.0]).view(1, 4, 1, 1).repeat(1, 1, 4, 4)
    s2[..., 0, 0] = torch.nan
    s2[:, 1, 2, 2] = torch.nan
    images = {"s2": s2, "s1": torch.full((1, 1, 4, 4), -12.5)}
    stored = graph.stored_values(images)
    assert stored[0, :, 0, 0].tolist() == [3, 3, 3, 3, -12.5]
    assert stored[0, :, 1, 1].tolist() == [20, 40, 60, 80, -12.5]
    assert stored[0, [0, 2, 3], 2, 2].tolist() == [20, 60, 80]
    assert bool(stored[0, 1, 2, 2].isnan())  # no value says that one band alone has none


def modality(**changes: Any) -> Modality:
    return replace(Modality("dsm", ("height",), "elevation", unit="m"), **changes)


def test_what_cannot_be_stacked(tmp_path: Path) -> None:
    place = "exporting.stacked:check_stackable | 'scale: 1' for every modality"
    with refused(place, ConfigError) as told:
        check_stackable([modality(scale=0.5)], {})
    assert "modality 'dsm' has pixels of 0.5 × the scene's" in told
    check_stackable([modality(scale=1)], {})
    for rules in ({"rescale": "scene_range"}, {"encoding": "x"}, {"complex": "amplitude"}):
        place = "exporting.stacked:check_stackable | --stacked, and map with terrafuse predict"
        with refused(place, ConfigError):
            check_stackable([modality()], {"dsm": {**PLAIN, **rules}})
    check_stackable([modality()], {"dsm": PLAIN})


def test_metadata_without_a_pixel_size(run: api.Run) -> None:
    found = deepness_metadata(run.info, size=96, overlap=32, pixel_size_m=None)
    assert "resolution" not in found
    assert found["tiles_overlap"] == "33"
    found = deepness_metadata(run.info, size=96, overlap=32, pixel_size_m=0.2)
    assert found["resolution"] == "20.0"


def test_the_command_says_the_one_input(
    run: api.Run,
    made: api.Exported,
    command_line: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("terrafuse.api.exporting.export", lambda *_, **__: made)
    monkeypatch.setattr("terrafuse.api.export", lambda *_, **__: made, raising=False)
    code, printed, _ = command_line("export", run.folder, "--stacked")
    assert code == 0
    assert printed.startswith("inputs: image (N, 5, 64, 64)\n")
    assert "log-probabilities differ by" in printed
    onnx.checker.check_model(str(made.path))
