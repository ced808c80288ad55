"""Too large windows are refused before mapping and scoring, and what the message says works."""

from __future__ import annotations

import json
import re
import shutil
from itertools import chain

import numpy as np
import pytest
import torch
import yaml

from terrafuse.methods.early_fusion import EarlyFusion
from terrafuse.prediction.job import MapJob

# The scenes lie in one place, and the model has learned little.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("without_figures")]

RUN = {
    "data": {"manifest": "dataset.yaml", "crop_size": 32, "batch_size": 2, "workers": 0},
    "method": {
        "name": "early_fusion",
        "backbone": "resnet18",
        "backbone_options": {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]},
        "decoder": "segformer",
        "decoder_options": {"channels": 8},
    },
    "training": {"steps": 1, "accelerator": "cpu"},
}


@pytest.fixture
def trained(tmp_path, make_raster, command_line):
    """A run folder, beside dataset.yaml."""
    rng = np.random.default_rng(0)
    scenes = []
    for split in ("train", "val", "test"):
        truth = (rng.random((1, 64, 64)) > 0.5).astype(np.uint8)
        image = 100 + 50 * truth + rng.normal(0, 5, (3, 64, 64))
        make_raster(tmp_path / f"{split}.tif", image.astype(np.float32))
        make_raster(tmp_path / f"{split}_labels.tif", truth)
        scenes.append({
            "id": split, "split": split, "optical": f"{split}.tif", "labels": f"{split}_labels.tif",
        })  # fmt: skip
    (tmp_path / "dataset.yaml").write_text(
        yaml.safe_dump(
            {
                "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
                "modalities": {"optical": {"bands": ["r", "g", "b"], "kind": "optical"}},
                "scenes": scenes,
            }
        )
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    code, _, told = command_line("train", tmp_path / "run.yaml", "--out", tmp_path / "run")
    assert code == 0, told
    return tmp_path / "run"


def test_windows_that_do_not_fit(trained, command_line, monkeypatch):
    scene, out = f"{trained.parent / 'dataset.yaml'}#test", trained.parent / "map"
    monkeypatch.setattr("terrafuse.describe.memory.free_memory", lambda: 3 * 10**8)
    for verb in (("predict", trained, "--scene", scene, "--out", out), ("evaluate", trained)):
        code, _, told = command_line(*verb, "--batch-size", "100000")
        assert code == 2
        assert told.startswith("error: ")
        assert told.count("\n") == 1
        assert verb[0] == "evaluate" or not out.exists()
        found = re.search(r"and 300 MB are free\. Try (--batch-size \d+) \(about", told)
        assert found is not None, told
        code, _, told = command_line(*verb, *found[1].split())
        assert code == 0, told
    assert (out / "class_map.tif").exists()


def test_a_batch_that_nobody_chose_suits_the_free_memory(trained, command_line, monkeypatch):
    scene, out = f"{trained.parent / 'dataset.yaml'}#test", trained.parent / "map"

    def batch(*words):
        code, _, told = command_line("predict", trained, "--scene", scene, "--out", out, *words)
        assert code == 0, told
        record = json.loads((out / "prediction.json").read_text())
        return record["windows"]["batch_size"], record["batch_size_by"], told

    assert batch()[:2] == (2, "training")
    assert batch("--batch-size", "3")[:2] == (3, "setting")
    assert batch("-s", "prediction.batch_size=1")[:2] == (1, "setting")
    monkeypatch.setattr("terrafuse.api.runs.fit_batch", lambda **_: 1)
    with pytest.warns(UserWarning, match=r"batch size 2 does not fit .* pixels; 1 at a time"):
        assert batch()[:2] == (1, "free memory")
    # What others may go on with, or make parts of, does not depend on the memory of now.
    assert batch("--resume")[:2] == (2, "training")
    assert batch("--shard", "1/1")[:2] == (2, "training")
    monkeypatch.setattr(MapJob, "begun_with", lambda *_: {"batch_size": 3})
    assert batch("--resume")[:2] == (3, "free memory")
    assert batch("--batch-size", "2", "--resume")[:2] == (2, "setting")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
)
def test_memory_that_ends_while_mapping(error, trained, command_line, monkeypatch):
    segment = EarlyFusion.segment

    def fail(model, inputs):
        image = inputs.images["optical"]
        if len(image) * image.shape[-1] <= 64:
            return segment(model, inputs)
        raise error

    monkeypatch.setattr(EarlyFusion, "segment", fail)
    scene, out = f"{trained.parent / 'dataset.yaml'}#test", trained.parent / "map"
    # Two windows at once, each of which is padded to 64 pixels.
    windows = {"--batch-size": 2, "--crop-size": 48, "--overlap": 24}
    for verb in (("predict", trained, "--scene", scene, "--out", out), ("evaluate", trained)):
        code, _, told = command_line(*verb, *chain(*windows.items()))
        assert code == 2
        assert re.fullmatch(
            r"error: (mapping|scoring) needs more memory than there is: .*\. Choose a --batch-size "
            r"below 2 or a --crop-size below 48\n",
            told,
        ), told
        assert not out.exists() or not list(out.iterdir())
        for smaller in ({"--batch-size": 1}, {"--crop-size": 32, "--overlap": 0}):
            code, _, told = command_line(*verb, *chain(*(windows | smaller).items()))
            assert code == 0, told
            shutil.rmtree(out, ignore_errors=True)


@pytest.mark.filterwarnings("ignore")
def test_a_batch_that_no_norm_learns_from_is_not_valid(trained, command_line):
    run = trained.parent / "run.yaml"
    words = ("-s", "data.batch_size=1", "-s", "data.crop_size=8")
    for verb in (("validate", run), ("train", run, "--out", trained.parent / "other")):
        code, _, told = command_line(*verb, *words)
        assert code == 2
        assert "Set data.batch_size to 2 or more, or data.crop_size 48" in told
    assert not (trained.parent / "other").exists()
    for mended in (("data.batch_size=1", "data.crop_size=48"), ("data.batch_size=2", words[3])):
        code, _, told = command_line("validate", run, "-s", mended[0], "-s", mended[1])
        assert code == 0, told
