"""Files tagged CMYK, and fourth bands tagged alpha, from `data check` to the map."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import torch
import yaml
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("without_figures")

SIZE = 64
BANDS = ["blue", "green", "red", "nir"]
CLASSES = [{"name": "bare", "code": 1}, {"name": "wood", "code": 2}]
RUN = {
    "data": {"manifest": "dataset.yaml", "crop_size": 32, "batch_size": 2, "workers": 0},
    "method": {
        "name": "early_fusion",
        "backbone": "resnet10t",
        "decoder": "segformer",
        "decoder_options": {"channels": 16},
    },
    "training": {"steps": 2, "accelerator": "cpu"},
}


def place(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (4, H, W) with a border of fill, and labels: wood is bright in the near infrared."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 3, (1, 4, 4)).astype(np.uint8).repeat(16, 1).repeat(16, 2)
    wood = labels[0] == 2
    image = rng.integers(60, 90, (4, SIZE, SIZE)).astype(np.uint8)
    image[3] = np.where(wood, 150, 100) + rng.integers(-40, 100, wood.shape)
    image[:, :6] = 0
    return image, labels


@pytest.fixture
def make_set(tmp_path, make_raster):
    """Function that writes a data set of two scenes and a run."""

    def write(name, prefix="", bands=BANDS, options=None, **profile):
        folder = tmp_path / name
        scenes = []
        for seed, split in enumerate(("train", "val")):
            image, labels = place(seed)
            place_of = {"transform": rasterio.transform.from_origin(seed * 9_000, 50_000, 10, 10)}
            make_raster(folder / f"in/{split}.tif", image, **place_of | profile)
            make_raster(folder / f"lab/{split}.tif", labels, **place_of)
            paths = {"m": f"{prefix}in/{split}.tif", "labels": f"{prefix}lab/{split}.tif"}
            scenes.append({"id": split, "split": split} | paths)
        modality = {"kind": "optical", "bands": bands} | (options or {"nodata": 0})
        values = {"classes": CLASSES, "modalities": {"m": modality}, "scenes": scenes}
        (folder / "dataset.yaml").write_text(yaml.safe_dump(values))
        (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
        return folder

    return write


@pytest.fixture
def ok(command_line):
    def call(*words):
        code, out, message = command_line(*words)
        assert code == 0, message
        return out

    return call


def check(ok, folder):
    return json.loads(ok("data", "check", folder / "dataset.yaml", "--json"))


def test_cmyk_trains_and_maps_as_plain_bands(make_set, ok, tmp_path):
    plain = make_set("plain", photometric="minisblack")
    odd = make_set("odd", "GTIFF_RAW:", photometric="cmyk")
    with rasterio.open(odd / "in/val.tif") as dataset:
        assert not np.array_equal(dataset.read(), place(1)[0])
    ours, theirs = (
        json.loads(ok("data", "stats", folder / "dataset.yaml", "--json"))
        for folder in (odd, plain)
    )
    assert ours == theirs
    for folder in (plain, odd):
        ok("train", folder / "run.yaml", "--out", folder / "run")
    ours, theirs = (load_file(folder / "run/model.safetensors") for folder in (odd, plain))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    ok("predict", plain / "run", "-r", f"m={plain / 'in/val.tif'}", "--out", tmp_path / "plain")
    for number, prefix in enumerate(("", "GTIFF_RAW:")):
        out = tmp_path / f"odd{number}"
        ok("predict", odd / "run", "-r", f"m={prefix}{odd / 'in/val.tif'}", "--out", out)
        for product in ("class_map.tif", "confidence.tif"):
            with (
                rasterio.open(tmp_path / "plain" / product) as one,
                rasterio.open(out / product) as other,
            ):
                np.testing.assert_array_equal(one.read(), other.read())


def test_check_says_that_cmyk_is_read_as_plain_bands(make_set, ok):
    plain = make_set("plain", photometric="minisblack")
    odd = make_set("odd", photometric="cmyk")
    found = check(ok, odd)
    said = [finding for finding in found if finding["code"] == "color-model"]
    assert [(f["severity"], f["scene"], f["modality"]) for f in said] == [
        ("note", "train", "m"),
        ("note", "val", "m"),
    ]
    assert said[0]["message"] == (
        f"modality 'm' of scene 'train': '{odd / 'in/train.tif'}' is stored as CMYK; read as 4 "
        "plain bands of the stored samples, without its overviews"
    )
    # And beyond that, what it says of the plain files: of fill, of the order of bands …
    others = [f["code"] for f in found if f["code"] != "color-model"]
    assert others == [f["code"] for f in check(ok, plain)]
    assert not {"undeclared-nodata", "band-order", "constant-band"} & set(others)


def test_fill_of_cmyk_that_is_not_declared_is_found_as_it_is_stored(make_set, ok):
    odd = make_set("odd", options={"unit": "dn"}, photometric="cmyk")
    (fill, _) = (f for f in check(ok, odd) if f["code"] == "undeclared-nodata")
    assert fill["remedy"] == "Set 'nodata: 0' on the modality"


def test_check_says_that_an_alpha_band_is_data_and_its_remedy_holds(make_set, ok):
    tagged = make_set("tagged", bands=BANDS[:3], photometric="rgb", alpha="yes")
    found = [f for f in check(ok, tagged) if f["code"] == "alpha"]
    assert [f["severity"] for f in found] == ["note", "note"]
    assert "band 4 of" in found[0]["message"]
    assert "tagged alpha, but taken for data: it hides no" in found[0]["message"]
    assert "add its name to 'bands'" in found[0]["remedy"]
    four = make_set("four", photometric="rgb", alpha="yes")
    found = [f for f in check(ok, four) if f["code"] == "alpha"]
    assert [f["remedy"] for f in found] == ["", ""]
    statistics = json.loads(ok("data", "stats", four / "dataset.yaml", "--json"))
    image = place(0)[0][3].astype(float)
    assert statistics["m"]["mean"][3] == pytest.approx(image[image > 0].mean())
