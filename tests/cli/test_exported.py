"""Maps of an ONNX file by the command line: without torch, and as those of the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from small_onnx import MODALITIES, make_model, write_onnx
from terrafuse import api
from terrafuse.data import scene_from_rasters
from terrafuse.errors import ConfigError
from terrafuse.prediction import ScenePredictor, WindowSettings

MODEL = make_model()
Command = Callable[..., tuple[int, str, str]]
#: Packages that `terrafuse-runtime` does without; each process refuses them from its first line.
REFUSED = (
    "torch", "torchvision", "timm", "lightning", "scipy", "matplotlib", "transformers", "pyogrio",
    "huggingface_hub", "onnx",
)  # fmt: skip
REFUSE = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {REFUSED}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a scene of two units with gaps, and what makes Python refuse packages."""
    made = tmp_path_factory.mktemp("exported")
    write_onnx(made / "flood.onnx", MODEL)
    rng = np.random.default_rng(0)
    for name, bands, size in (("sar", 2, (2100, 90)), ("dsm", 1, (1050, 45))):
        values = rng.integers(-9, 9, (bands, *size)).astype(np.float32)
        values[:, : size[0] // 9, : size[1] // 3] = -99
        pixel = 10 * 2100 / size[0]
        with rasterio.open(
            made / f"{name}.tif", "w", driver="GTiff", count=bands, height=size[0], width=size[1],
            dtype="float32", nodata=-99, crs="EPSG:32633",
            transform=from_origin(500_000, 5_000_000, pixel, pixel),
        ) as raster:  # fmt: skip
            raster.write(values)
    (made / "refusing").mkdir()
    (made / "refusing" / "sitecustomize.py").write_text(REFUSE)
    return made


def without_torch(folder: Path, *words: object, code: int = 0) -> str:
    """Run a command where torch cannot be imported, nor can its workers."""
    path = os.pathsep.join([str(folder / "refusing"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "terrafuse", *map(str, words)], cwd=folder, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


RASTERS = ("-r", "sar=sar.tif", "-r", "dsm=dsm.tif")


def expected(folder: Path, *names: str) -> dict[str, np.ndarray]:
    """Class map by the model itself, on the modalities named."""
    scene = scene_from_rasters(
        MODALITIES, {name: folder / f"{name}.tif" for name in names}, grid="sar"
    )
    predictor = ScenePredictor(MODEL, WindowSettings(128, 32), device="cpu")
    return {"class_map": predictor.class_map(scene)}


def check_map(folder: Path, out: str, names: Sequence[str] = ("sar", "dsm")) -> None:
    with rasterio.open(folder / out / "class_map.tif") as raster:
        found = raster.read(1)
    (theirs,) = expected(folder, *names).values()
    codes = np.array([3, 7, 9, *[255] * 253], np.uint8)
    assert np.array_equal(found, codes[theirs])
    assert len(np.unique(found)) == 4


def test_a_scene_is_mapped_where_there_is_no_torch(folder: Path) -> None:
    said = without_torch(
        folder, "predict", "flood.onnx", *RASTERS, "--out", "map", "--areas", "--profile",
        "--crop-size", 128, "--products", "class_map,confidence,attribution",
    )  # fmt: skip
    assert "wrote map/preview.png" in said
    assert "hectares" in said
    check_map(folder, "map")
    item = json.loads((folder / "map" / "item.json").read_text())
    assert item["properties"]["mlm:architecture"] == "single"
    model = item["assets"]["model"]
    assert (model["href"], model["mlm:artifact_type"]) == ("../flood.onnx", "onnx.save_model")
    record = json.loads((folder / "map" / "prediction.json").read_text())
    assert record["windows"]["overlap"] == 32  # a quarter, since the size is another one


@pytest.mark.slow
def test_workers_open_the_file_for_themselves(folder: Path) -> None:
    said = without_torch(
        folder, "predict", "flood.onnx", "-r", "sar=sar.tif", "--out", "shared", "--workers", 2,
        "--crop-size", 128, "--tta", "turns",
    )  # fmt: skip
    assert "work for 1 of 2" not in said
    record = json.loads((folder / "shared" / "prediction.json").read_text())
    assert record["profile"]["workers"] == 2
    check_map(folder, "shared", ["sar"])


def test_what_needs_more_says_so(folder: Path) -> None:
    said = without_torch(folder, "evaluate", "flood.onnx", code=2)
    assert said.startswith("error: this needs the package 'torch', which is not installed")
    assert "pip install terrafuse" in said


def test_an_exported_model_maps_and_no_more(folder: Path, command_line: Command) -> None:
    for words in (["evaluate"], ["calibrate"], ["report"]):
        code, _, message = command_line(*words, str(folder / "flood.onnx"))
        assert code == 2
        assert "is an exported model, which makes maps" in message
    for words, told in (
        (["-s", "prediction.overlap=3"], "has no settings of a run. Give --crop-size"),
        (["--devices", "2"], "Leave out --devices; let runs with --device cuda:0"),
    ):
        raster = f"sar={folder / 'sar.tif'}"
        code, _, message = command_line(
            "predict", str(folder / "flood.onnx"), "-r", raster, "--out", str(folder / "no"), *words
        )
        assert code == 2
        assert told in message


def test_what_the_file_says_is_shown(folder: Path, command_line: Command) -> None:
    file = folder / "flood.onnx"
    _, shown, _ = command_line("describe", str(file))
    for text in ("water, field, town", "B0 in dn, pixels of 2 ×", "16 pixels, overlap 4"):
        assert text in shown
    found = json.loads(command_line("describe", str(file), "--json")[1])
    assert found["model"]["method"]["name"] == "single"
    assert found == api.describe_model(file)


def test_windows_are_the_files_or_told(folder: Path) -> None:
    model = api.open_model(folder / "flood.onnx")
    assert model.windows() == WindowSettings(16, 4, batch_size=2)
    assert model.windows(crop_size=64) == WindowSettings(64, 16, batch_size=2)
    assert model.windows(overlap=8, batch_size=3) == WindowSettings(16, 8, batch_size=3)
    assert model.windows(batch_size=3).is_batch_chosen
    with pytest.raises(ConfigError, match="overlap"):
        model.windows(overlap=9)
    for needs_the_run in (api.load, api.describe_parameters):
        with pytest.raises(ConfigError, match="is an exported model"):
            needs_the_run(folder / "flood.onnx")
