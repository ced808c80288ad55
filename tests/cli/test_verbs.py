"""The verbs, as a user calls them one after the other."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin

SIZE = 96
RUN = {
    "data": {"manifest": "dataset.yaml", "crop_size": 32, "batch_size": 2, "workers": 0},
    "method": {
        "name": "early_fusion",
        "backbone": "resnet10t",
        "decoder": "segformer",
        "decoder_options": {"channels": 16},
    },
    "training": {"steps": 3, "accelerator": "cpu"},
}


@pytest.fixture
def folder(tmp_path, make_raster):
    """A folder per modality; the second has pixels of double size."""
    rng = np.random.default_rng(0)
    for number in range(6):
        east = 500_000 + 10_000 * number
        fine = from_origin(east, 5_000_000, 10, 10)
        coarse = from_origin(east, 5_000_000, 20, 20)
        truth = (rng.random((1, SIZE, SIZE)) > 0.5).astype(np.uint8)
        image = 100 + 50 * truth + rng.normal(0, 5, (3, SIZE, SIZE))
        radar = rng.normal(-12, 3, (2, SIZE // 2, SIZE // 2))
        name = f"place_{number}.tif"
        data = tmp_path / "data"
        make_raster(data / "optical" / name, image.astype(np.uint16), transform=fine)
        make_raster(data / "sar" / name, radar.astype(np.float32), transform=coarse)
        make_raster(data / "labels" / name, truth, transform=fine)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    return tmp_path


def test_from_a_folder_to_a_map(folder, command_line):
    def ok(*words):
        code, out, message = command_line(*words)
        assert code == 0, message
        return out

    described = folder / "described.yaml"
    dataset = folder / "dataset.yaml"
    ok("data", "describe", folder / "data", "--layout", "folder", "-o", described)
    values = yaml.safe_load(described.read_text())
    assert values["modalities"]["sar"]["scale"] == 2
    assert [c["code"] for c in values["classes"]] == [0, 1]
    ok("data", "split", described, "-o", dataset, "--shares", "train=0.5,val=0.2,test=0.3")
    assert "0 errors" in ok("data", "check", dataset)
    statistics = json.loads(ok("data", "stats", dataset, "--json"))
    assert statistics["sar"]["mean"][0] == pytest.approx(-12, abs=0.5)
    assert "valid" in ok("validate", folder / "run.yaml")
    run = folder / "run"
    ok("train", folder / "run.yaml", "--out", run)
    metrics = json.loads(ok("evaluate", run, "--subsets", "--json"))
    assert set(metrics["subsets"]) == {"optical+sar", "optical", "sar"}
    assert metrics == json.loads((run / "metrics.json").read_text())
    scene = yaml.safe_load(dataset.read_text())["scenes"][0]
    ok("predict", run, "--scene", f"{dataset}#{scene['id']}", "--out", folder / "map")
    with (
        rasterio.open(folder / "data" / scene["optical"]) as optical,
        rasterio.open(folder / "map" / "class_map.tif") as class_map,
    ):
        assert class_map.transform == optical.transform
        assert class_map.crs == optical.crs
        assert class_map.shape == (SIZE, SIZE)
    assert "mIoU" in ok("evaluate", run)
    _check_products_and_windows(ok, folder, f"{dataset}#{scene['id']}")
    _check_what_changes_the_map(command_line, folder, f"{dataset}#{scene['id']}")


def _check_products_and_windows(ok, folder, scene):
    """Options replace the run's windows, and choose what is written; both are recorded."""
    run, out = folder / "run", folder / "other"
    before = json.loads((folder / "map" / "prediction.json").read_text())
    assert list(before["products"]) == ["class_map", "confidence"]
    crop = RUN["data"]["crop_size"]
    assert before["windows"]["crop_size"] == crop
    assert before["windows"]["overlap"] == crop // 4
    given = {
        "crop_size": 2 * crop,
        "blending": "uniform",
        "batch_size": 3,
        "precision": "bf16-mixed",
    }
    options = [f"--{key.replace('_', '-')}={value}" for key, value in given.items()]
    said = ok(
        "predict", run, "--scene", scene, "--out", out, *options,
        "--products", "class_map,confidence,entropy,margin", "--profile",
    )  # fmt: skip
    names = ("class_map", "confidence", "entropy", "margin")
    class_map, *others = said.splitlines()
    assert class_map == f"wrote {out}/class_map.tif (codes of the classes; 255 = no data)"
    assert others[:3] == [f"wrote {out / name}.tif" for name in names[1:]]
    assert any("of model-only speed after overlap" in line for line in others[3:])
    after = json.loads((out / "prediction.json").read_text())
    assert after["products"]["entropy"] == {
        "file": "entropy.tif",
        "content": "entropy of the softmax probabilities, as a share of the greatest (ln K)",
        "dtype": "uint8",
        "nodata": 255,
        "scale": 1 / 254,
    }
    # Without an overlap of its own, the new window has a quarter of it.
    assert after["windows"] == after["windows"] | given | {"overlap": crop // 2}
    for name in names:
        with rasterio.open(out / f"{name}.tif") as dataset:
            assert dataset.shape == (SIZE, SIZE)
            assert dataset.nodata == 255
    settings = json.loads(ok("evaluate", run, "--overlap=3", "--json"))["settings"]
    own = {"crop_size": crop, "overlap": 3, "blending": "taper", "precision": "32-true"}
    assert settings == settings | own
    for words, text in (
        (["--products", "class_map,entropie"], "product 'entropie'. Did you mean 'entropy'"),
        (["--products", "entropy,entropy"], "name one or more of class_map, confidence"),
        (["--overlap", str(crop)], f"overlap is {crop} with crop_size {crop}"),
        (["--precision", "16"], "precision is '16'; allowed are 32-true"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--blending", "tapir"], "'tapir'. Did you mean 'taper'"),
    ):
        with pytest.raises(AssertionError, match=re.escape(text)):
            ok("predict", run, "--scene", scene, "--out", folder / "no", *words)
    assert not (folder / "no").exists()


def _check_what_changes_the_map(command_line, folder, scene):
    """Views, abstaining and sieve, from the command line; each is said."""
    out = folder / "changed"
    words = ["predict", folder / "run", "--scene", scene, "--out", out]
    code, said, told = command_line(
        *words, "--tta", "flips, turns", "--abstain=0.8", "--sieve=4", "--areas",
        "--products", "class_map,probabilities,sources,disagreement",
    )  # fmt: skip
    assert code == 0, told
    assert "--tta flips, turns: the model is run 8 times per window" in told
    record = json.loads((out / "prediction.json").read_text())
    assert (record["tta"], record["passes_per_window"]) == (["flips", "turns"], 8)
    assert (record["abstain"], record["sieve"]) == (0.8, 4)
    first, *_ = said.splitlines()
    assert first.endswith("class_map.tif (codes of the classes; 254 = abstained; 255 = no data)")
    count = record["abstained_pixels"]
    assert f"{count:,} pixels of less confidence than 0.8 abstained" in said
    with rasterio.open(out / "class_map.tif") as dataset:
        assert (dataset.read(1) == 254).sum() == count
    with rasterio.open(out / "probabilities.tif") as dataset:
        assert dataset.descriptions == tuple(record["classes"])
    for options, text in (
        (["--tta", "flops"], "'flops'. Did you mean 'flips'"),
        (["--abstain", "60"], "abstain is 60; give the least confidence of a class, above 0"),
        (["--sieve", "0"], "sieve is 0; give the smallest patch"),
    ):
        code, _, told = command_line(*words, *options)
        assert code == 2
        assert text in " ".join(told.split())


def test_check_exits_with_1_on_errors(folder, command_line):
    described = folder / "dataset.yaml"
    command_line("data", "describe", folder / "data", "-o", described)
    (folder / "data" / "sar" / "place_3.tif").write_text("broken")
    code, out, _ = command_line("data", "check", described)
    assert code == 1
    assert "place_3.tif" in out
    code, out, _ = command_line("data", "check", described, "--json")
    assert code == 1
    assert any("place_3" in finding["message"] for finding in json.loads(out))


@pytest.mark.parametrize("verb", ["methods", "backbones", "layouts"])
def test_lists(verb, command_line):
    code, out, _ = command_line(verb, "--json")
    assert code == 0
    assert json.loads(out)
    assert command_line(verb)[0] == 0


def test_names_are_whole_on_a_narrow_screen(command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = command_line("methods")[1]
    assert "early_fusion" in out
    assert "…" not in out


def test_schema_and_version(command_line):
    assert "training" in json.loads(command_line("schema")[1])["properties"]
    assert command_line("--version")[1].startswith("terrafuse ")
