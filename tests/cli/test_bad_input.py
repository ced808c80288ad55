"""What a user can do wrong: one message that names it, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from shared import shared_data

pytestmark = pytest.mark.usefixtures("without_figures")

SIZE = 64
RUN = {
    "data": {"manifest": "dataset.yaml", "crop_size": 32, "batch_size": 2, "workers": 0},
    "method": {
        "name": "late_fusion",
        "backbone": "resnet10t",
        "decoder": "segformer",
        "decoder_options": {"channels": 16},
    },
    "training": {"steps": 2, "accelerator": "cpu"},
}


class Place:
    """A folder with a small dataset, a run.yaml and what the command line said last."""

    def __init__(self, folder: Path, make_raster, command_line) -> None:
        self.folder, self.make_raster, self.command_line = folder, make_raster, command_line
        self.values = {
            "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
            "modalities": {
                "a": {"kind": "optical", "bands": ["x", "y"], "nodata": 0},
                "b": {"kind": "sar", "bands": ["VV"], "unit": "db"},
            },
            "scenes": [
                {"id": s, "split": s, "a": f"{s}_a.tif", "b": f"{s}_b.tif", "labels": f"{s}_l.tif"}
                for s in ("train", "val", "test")
            ],
        }
        rng = np.random.default_rng(0)
        for split in ("train", "val", "test"):
            self.raster(f"{split}_a.tif", rng.integers(1, 200, (2, SIZE, SIZE)).astype(np.uint8))
            self.raster(f"{split}_b.tif", rng.normal(-10, 3, (1, SIZE, SIZE)).astype(np.float32))
            self.raster(f"{split}_l.tif", rng.integers(0, 2, (1, SIZE, SIZE)).astype(np.uint8))
        self.write()

    def raster(self, name: str, array: np.ndarray, **options) -> Path:
        # Every split is another place.
        east = 500_000 + 10_000 * ["train", "val", "test", "empty"].index(name.split("_")[0])
        options = {"transform": from_origin(east, 5_000_000, 10, 10)} | options
        return self.make_raster(self.folder / name, array, **options)

    def write(self, run: dict | None = None) -> None:
        (self.folder / "dataset.yaml").write_text(yaml.safe_dump(self.values))
        (self.folder / "run.yaml").write_text(yaml.safe_dump(run or RUN))

    def call(self, *words: object) -> tuple[int, str]:
        """Exit code and what was printed to stderr."""
        code, _, message = self.command_line(*words)
        return code, message

    def train(self, *words: str, out: str = "run") -> tuple[int, str]:
        return self.call("train", self.folder / "run.yaml", "--out", self.folder / out, *words)

    def refused(self, *texts: str, out: str = "run") -> None:
        code, message = self.train(out=out)
        assert code == 2, message
        assert message.startswith("error: ")
        assert "Traceback" not in message
        for text in texts:
            assert text in message
        assert not (self.folder / out / "model.safetensors").exists()


@pytest.fixture
def place(tmp_path, make_raster, command_line) -> Place:
    return Place(tmp_path, make_raster, command_line)


@pytest.fixture(scope="module")
def first_run() -> dict[str, Path]:
    """Folder "run" of the first place that was trained in; `trained` copies it."""
    return {}


@pytest.fixture
def trained(place, first_run, tmp_path_factory) -> Place:
    """The place with a run, which is trained once."""
    run = place.folder / "run"
    if not first_run:
        code, message = place.train()
        assert code == 0, message
        first_run["kept"] = Path(shutil.copytree(run, tmp_path_factory.mktemp("kept") / "run"))
        first_run["made in"] = place.folder
    else:
        shutil.copytree(first_run["kept"], run)
        config = run / "config.yaml"
        text = config.read_text()
        assert str(first_run["made in"]) in text
        config.write_text(text.replace(str(first_run["made in"]), str(place.folder)))
    return place


def test_missing_file(place):
    (place.folder / "train_b.tif").unlink()
    place.refused("train_b.tif", "'train'", "'b'")


def test_unreadable_file(place):
    (place.folder / "train_b.tif").write_text("no raster")
    place.refused("train_b.tif")


def test_truncated_file(place):
    path = place.folder / "train_a.tif"
    place.raster(
        "train_a.tif", np.random.default_rng(0).integers(1, 200, (2, SIZE, SIZE)).astype(np.uint8)
    )
    path.write_bytes(path.read_bytes()[:6000])
    place.refused("train_a.tif")


def test_real_truncated_file(place):
    broken = shared_data("geotiff_zoo") / "corrupt_truncated.tif"
    shutil.copy(broken, place.folder / "train_a.tif")
    place.values["modalities"]["a"]["bands"] = ["x"]
    place.write()
    place.refused("train_a.tif")


def test_rasters_that_do_not_overlap(place):
    far = from_origin(900_000, 5_000_000, 10, 10)
    place.raster("train_b.tif", np.ones((1, SIZE, SIZE), np.float32), transform=far)
    place.refused("train_b.tif", "overlap")


def test_wrong_band_count(place):
    place.raster("train_a.tif", np.ones((3, SIZE, SIZE), np.uint8))
    place.refused("train_a.tif", "3", "x, y")


def test_unknown_label_value(place):
    labels = np.zeros((1, SIZE, SIZE), np.uint8)
    labels[0, :2, :5] = 7
    place.raster("train_l.tif", labels)
    place.refused("7 (10 px", "train_l.tif")


def test_labels_that_are_no_whole_numbers(place):
    place.raster("train_l.tif", np.full((1, SIZE, SIZE), 0.5, np.float32))
    place.refused("train_l.tif", "0.5 (")


def test_labels_of_nan_only(place):
    place.raster("train_l.tif", np.full((1, SIZE, SIZE), np.nan, np.float32))
    place.refused("'train'", "all ignored")


def test_all_nodata_scene(place):
    place.raster("train_a.tif", np.zeros((2, SIZE, SIZE), np.uint8))
    place.raster("train_b.tif", np.full((1, SIZE, SIZE), np.nan, np.float32))
    place.refused("'train'", "no data")


def test_labels_all_ignored(place):
    place.values["void"] = [9]
    place.raster("train_l.tif", np.full((1, SIZE, SIZE), 9, np.uint8))
    place.write()
    place.refused("ignore")


def test_band_of_nan_only(place):
    data = np.random.default_rng(0).normal(size=(1, SIZE, SIZE)).astype(np.float32)
    data[:] = np.nan
    for split in ("train", "val", "test"):
        place.raster(f"{split}_b.tif", data)
    place.refused("'b'")


def test_crs_on_one_raster_only(place):
    place.raster("train_b.tif", np.ones((1, SIZE, SIZE), np.float32), crs=None)
    place.refused("CRS", "train_b.tif")


def test_typo_in_run_yaml(place):
    place.write(RUN | {"training": {"stepps": 3}})
    place.refused("'stepps'", "Did you mean 'steps'")


def test_typo_in_method_option(place):
    place.write(RUN | {"method": {"name": "late_fusion", "fusionn": "sum"}})
    place.refused("'fusionn'", "Did you mean 'fusion'")


def test_unknown_method(place):
    place.write(RUN | {"method": {"name": "latefusion"}})
    place.refused("Did you mean 'late_fusion'")


def test_unknown_modality(place):
    place.write(RUN | {"data": RUN["data"] | {"modalities": ["a", "c"]}})
    place.refused("'c'", "a, b")


def test_folder_in_use(trained):
    code, message = trained.train()
    assert code == 2
    assert "run" in message


def test_output_is_a_file(place):
    (place.folder / "run").write_text("mine")
    place.refused("run")
    assert (place.folder / "run").read_text() == "mine"


def test_class_scheme_of_another_run(trained):
    trained.values["classes"] = [{"name": "dry", "code": 0}, {"name": "flooded", "code": 1}]
    trained.write()
    code, message = trained.call("evaluate", trained.folder / "run")
    assert code == 2
    assert "wet" in message
    assert "flooded" in message


def test_model_of_another_version(trained):
    path = trained.folder / "run" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    code, message = trained.call("evaluate", trained.folder / "run")
    assert code == 2
    assert "99" in message


def test_damaged_weights(trained):
    path = trained.folder / "run" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    code, message = trained.call("evaluate", trained.folder / "run")
    assert code == 2
    assert "model.safetensors" in message


def test_no_run_folder(place):
    code, message = place.call("evaluate", place.folder)
    assert code == 2
    assert "error: " in message


def test_prediction_of_a_scene_without_data(trained):
    trained.raster("empty_a.tif", np.zeros((2, SIZE, SIZE), np.uint8))
    out = trained.folder / "map"
    code, message = trained.call(
        "predict", trained.folder / "run", "-r", f"a={trained.folder / 'empty_a.tif'}", "--out", out
    )
    assert code == 2
    assert "data" in message
    assert not out.exists()


def test_prediction_onto_a_file(trained):
    target = trained.folder / "map"
    target.write_text("mine")
    code, message = trained.call(
        "predict", trained.folder / "run", "--scene", f"{trained.folder / 'dataset.yaml'}#test",
        "--out", target,
    )  # fmt: skip
    assert code == 2
    assert str(target) in message
    assert target.read_text() == "mine"


def test_prediction_onto_a_full_disk(trained):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    code, message = trained.call(
        "predict", trained.folder / "run", "--scene", f"{trained.folder / 'dataset.yaml'}#test",
        "--out", "/dev/full/map",
    )  # fmt: skip
    assert code == 2
    assert "/dev/full" in message


def test_prediction_with_unknown_scene(trained):
    code, message = trained.call(
        "predict", trained.folder / "run", "--scene", f"{trained.folder / 'dataset.yaml'}#tset",
        "--out", trained.folder / "map",
    )  # fmt: skip
    assert code == 2
    assert "Did you mean 'test'" in message


def test_nothing_to_map(trained):
    code, message = trained.call("predict", trained.folder / "run", "--out", trained.folder / "m")
    assert code == 2
    assert "dataset.yaml#id" in message


def test_option_without_value(place):
    code, message = place.train("-s", "training.steps")
    assert code == 2
    assert "KEY=VALUE" in message
