"""Every run.yaml that ships is trained for one step through the command line.

Its data need not be here: rasters of the modalities and classes of its manifest are made up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from terrafuse.config import load_run_config
from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.modalities import window_alignment

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.name != "dataset.yaml")


def made_up(manifest: Manifest, folder: Path, size: int, make_raster) -> Path:
    """A dataset of the same modalities and classes, with noise for pixels."""
    rng = np.random.default_rng(0)
    values = manifest.to_dict() | {"grid": None, "labels": {}}
    values.pop("root", None)
    values["scenes"] = []
    for number, split in enumerate(("train", "val", "test")):  # three places
        east = 500_000 + 100_000 * number
        scene = {"id": split, "split": split, "labels": f"{split}.tif"}
        for name, modality in manifest.modalities.items():
            pixels = modality.size_at(size)
            noise = rng.uniform(1, 200, (len(modality.bands), pixels, pixels))
            scene[name] = f"{split}_{name}.tif"
            transform = from_origin(east, 5_000_000, 10 * modality.scale, 10 * modality.scale)
            make_raster(folder / scene[name], noise.astype(np.float32), transform=transform)
        codes = [codes[0] for codes in manifest.scheme.codes]
        labels = rng.choice(np.array(codes, np.int16), (1, size, size))
        transform = from_origin(east, 5_000_000, 10, 10)
        make_raster(folder / scene["labels"], labels, transform=transform)
        values["scenes"].append(scene)
    return write_manifest({k: v for k, v in values.items() if v}, folder / "dataset.yaml")


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_one_step(path, tmp_path, make_raster, command_line):
    config = load_run_config(path)
    manifest = load_manifest(config.data.manifest).select(config.data.modalities)
    step = window_alignment(list(manifest.modalities.values()))
    crop = -(-64 // step) * step
    dataset = made_up(manifest, tmp_path, crop, make_raster)
    settings = {
        "data.manifest": dataset,
        "data.crop_size": crop,
        "data.batch_size": 2,
        "data.workers": 0,
        "training.steps": 1,
        "training.warmup_steps": 0,
        "training.validate_every": 1,
        "training.accelerator": "cpu",
        "prediction.crop_size": crop,
        "prediction.overlap": 0,
    }
    words = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    code, _, message = command_line("train", path, "--out", tmp_path / "run", *words)
    assert code == 0, message
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_there_are_runs_and_their_datasets_are_read():
    assert RUNS
    for path in CONFIGS.rglob("dataset.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert len(load_manifest(path).entries) == len(values["scenes"])
