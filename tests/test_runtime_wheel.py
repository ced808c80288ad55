"""`terrafuse-runtime` in an environment of its own: maps of an exported model, without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from terrafuse import api
from terrafuse.config import RunConfig
from terrafuse.data import load_manifest
from terrafuse.landscape import make_landscape

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
#: Megabytes that the environment may take: those of GDAL, NumPy and ONNX Runtime, and a little.
MOST_MB = 350

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(UV).exists(), reason="uv builds and installs; make install has it"),
]


def _done(*words: object, cwd: Path, code: int = 0) -> str:
    # What the tests themselves run with must not lend its sources or packages.
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    run = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True)
    assert run.returncode == code, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's landscape, a small model of it, and its ONNX file."""
    made = tmp_path_factory.mktemp("elsewhere")
    manifest = make_landscape(made / "data", seed=0, size=256)
    config = {
        "data": {"manifest": str(manifest), "crop_size": 128, "batch_size": 2, "workers": 0},
        "method": {"name": "late_fusion", "backbone": "resnet10t", "decoder": "linear"},
        "training": {"steps": 20, "accelerator": "cpu", "lr": 3e-3},
    }
    run = api.train(RunConfig.model_validate(config), made / "run", progress=False)
    api.export(run, out=made / "model.onnx", licence="CC0-1.0")
    return made


@pytest.fixture(scope="module")
def terrafuse(folder: Path) -> Callable[..., str]:
    """Function that runs the command of an environment with nothing but the runtime."""
    _done(UV, "build", "--wheel", "--out-dir", folder / "dist", "packaging/runtime", cwd=ROOT)
    (wheel,) = (folder / "dist").glob("terrafuse_runtime-*.whl")
    _done(UV, "venv", "--python", sys.executable, folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    _done(UV, "pip", "install", "--python", python, "-c", constraints, wheel, cwd=folder)

    def call(*words: object, code: int = 0) -> str:
        return _done(folder / "env" / "bin" / "terrafuse", *words, cwd=folder, code=code)

    return call


def test_the_runtime_alone_maps_the_demos_scene(
    folder: Path, terrafuse: Callable[..., str]
) -> None:
    dataset = load_manifest(folder / "data" / "dataset.yaml")
    scene = f"data/dataset.yaml#{dataset.ids('test')[0]}"
    said = terrafuse("predict", "model.onnx", "--scene", scene, "--out", "there", "--areas")
    assert "wrote there/preview.png" in said
    api.load(folder / "run").predict(folder / "here", scene=f"{folder}/{scene}", device="cpu")
    maps = {}
    for place in ("here", "there"):
        for name in ("class_map", "confidence"):
            with rasterio.open(folder / place / f"{name}.tif") as raster:
                maps[place, name] = raster.read(1)
    ours, theirs = maps["here", "class_map"], maps["there", "class_map"]
    assert len(np.unique(ours)) > 2
    # Scores that are equal up to the rounding of sums in another order may fall the other way.
    assert (ours == theirs).mean() > 0.9999
    difference = maps["here", "confidence"].astype(int) - maps["there", "confidence"]
    assert np.abs(difference).max() <= 1


def test_the_runtime_alone_maps_and_says_what_it_lacks(
    folder: Path, terrafuse: Callable[..., str]
) -> None:
    assert "CC0-1.0" in terrafuse("describe", "model.onnx")
    (folder / "run.yaml").write_text("data: {manifest: d.yaml}\nmethod: {name: single}\n")
    for words in (["train", "run.yaml", "--out", "r"], ["predict", "run", "-r", "a=b", "-o", "m"]):
        said = terrafuse(*words, code=2)
        assert "this needs the package 'torch'" in said
        assert "pip install terrafuse" in said


def test_the_environment_is_small(folder: Path, terrafuse: Callable[..., str]) -> None:
    terrafuse("--version")
    files = [path for path in (folder / "env").rglob("*") if path.is_file()]
    names = {path.name for path in (folder / "env").rglob("site-packages/*")}
    assert not {"torch", "scipy", "matplotlib", "lightning", "timm"} & names
    assert sum(path.stat().st_size for path in files) < MOST_MB * 1e6
