"""The pass over the data before training finds what its parts find one by one."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from terrafuse.api.datasets import data_stats
from terrafuse.config import RunConfig
from terrafuse.data import Scene, handles, kept, stored
from terrafuse.data.statistics import StatisticsPass
from terrafuse.errors import TerrafuseError
from terrafuse.progress import Display
from terrafuse.segmenter import Segmenter
from terrafuse.training import survey
from terrafuse.training.run_state import Position
from terrafuse.training.train import train

training: Any = sys.modules["terrafuse.training.train"]  # a function has the same name
Make = Callable[..., Any]


class Found:
    """What preparing a run finds out of the data."""

    def __init__(self, config: RunConfig, out: Path, fresh: bool = False) -> None:
        data = config.data.model_copy(update={"manifest": config.data.manifest.resolve()})
        config = config.model_copy(update={"data": data})
        sizes: list[float] = []
        with (
            warnings.catch_warnings(record=True) as caught,
            Display(False) as display,
            pytest.MonkeyPatch.context() as patch,
        ):
            warnings.simplefilter("always")
            patch.setattr(Segmenter, "set_pixel_size", lambda _, size: sizes.append(size))
            run = training._prepare(config, out, Position(), 1, fresh, display)
            loader = training._loader_factory(run, lambda: None)(0, 1)
        ours = [w for w in caught if issubclass(w.category, UserWarning)]
        self.warned = [(w.category, str(w.message)) for w in ours]
        self.facts = run.facts
        self.pixel_size = sizes
        self.indexes = loader.dataset.sampler.crop_indexes
        self.windows = [loader.dataset.sampler.draw(n) for n in range(40)]

    def check_equal(self, other: Found) -> None:
        assert self.facts == other.facts
        assert self.pixel_size == other.pixel_size
        assert self.warned == other.warned
        assert self.windows == other.windows
        for own, its in zip(self.indexes, other.indexes, strict=True):
            for key in ("height", "width", "alignment", "cell", "labelled", "class_counts"):
                assert getattr(own, key) == getattr(its, key)
            np.testing.assert_array_equal(own.usable, its.usable, strict=True)
            assert own.class_pixels.keys() == its.class_pixels.keys()
            for value, pixels in own.class_pixels.items():
                np.testing.assert_array_equal(pixels, its.class_pixels[value], strict=True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each raster was opened."""
    found: Counter[str] = Counter()
    real = stored.open_stored

    def note(spec: str) -> Any:
        found[Path(spec).name] += 1
        return real(spec)

    monkeypatch.setattr(handles, "open_stored", note)
    return found


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once."""
    monkeypatch.setattr(kept, "_SETTLED_NS", 0)


def one_by_one(config: RunConfig, out: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    with monkeypatch.context() as patch:
        patch.setattr(survey, "_may_survey", lambda _: False)
        patch.setenv("TERRAFUSE_KEEP", "off")
        return Found(config, out)


def describe(path: Path, *names: str) -> None:
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = names


def erase(path: Path, rows: slice, value: float = np.nan) -> None:
    with rasterio.open(path, "r+") as dataset:
        image = dataset.read()
        image[:, rows] = value
        dataset.write(image)


def without(path: Path, line: str) -> None:
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, ""))


def bands_by_name(path: Path) -> None:
    for number in range(3):
        describe(path.with_name(f"a{number}.tif"), "nir", "red")


def some_absent(path: Path) -> None:
    without(path, "  b: b1.tif\n")
    path.write_text(path.read_text().replace("kind: sar", "kind: sar\n    required: false"))


def holes(path: Path) -> None:
    erase(path.with_name("a0.tif"), slice(0, 30))
    erase(path.with_name("b1.tif"), slice(20, 48))


def equal_bands(path: Path) -> None:
    """The second scene lies where the first does, in another split."""
    for name in ("a", "b", "labels"):
        path.with_name(f"{name}2.tif").write_bytes(path.with_name(f"{name}0.tif").read_bytes())


CASES: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "plain": (lambda _: None, {}),
    "balanced": (holes, {"data": {"sampling": "balanced"}}),
    "zoomed": (holes, {"data": {"augment": {"scale": [0.5, 2.0]}, "crop_size": 12}}),
    "bands by name": (bands_by_name, {}),
    "absent": (some_absent, {}),
    "two splits of three": (equal_bands, {"data": {"train_splits": ["val", "train"]}}),
    "overlap": (equal_bands, {}),
    "own statistics": (lambda _: None, {"data": {"normalization": {"a": "scene_range"}}}),
    "share": (lambda _: None, {"data": {"label_share": 0.5}}),
}


@pytest.mark.parametrize(("change", "settings"), CASES.values(), ids=CASES)
def test_all_is_as_found_one_by_one(
    make_dataset: Make, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None], settings: dict[str, Any],
) -> None:  # fmt: skip
    path = make_dataset()
    change(path)
    config = make_config(path, **settings)
    expected = one_by_one(config, tmp_path / "one", monkeypatch)
    assert expected.pixel_size == [10.0]
    assert bool(expected.warned) == (change in (bands_by_name, equal_bands))
    Found(config, tmp_path / "pass").check_equal(expected)
    Found(config, tmp_path / "again").check_equal(expected)  # what is kept
    Found(config, tmp_path / "fresh", fresh=True).check_equal(expected)


OTHERS: dict[str, dict[str, Any]] = {
    "first": {},
    "splits exchanged": {
        "data": {"train_splits": ["val"]}, "training": {"validation_split": "train"},
    },
    "both splits": {"data": {"train_splits": ["val", "train"]}},
    "half": {"data": {"label_share": 0.5}},
    "another half": {"data": {"label_share": 0.5, "label_seed": 1}},
    "balanced": {"data": {"sampling": "balanced"}},
}  # fmt: skip


def test_runs_with_other_settings_take_nothing_from_each_other(
    make_dataset: Make, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_dataset()
    erase(path.with_name("labels2.tif"), slice(None), 0)  # only "val" lacks a class
    for name, settings in OTHERS.items():
        config = make_config(path, **settings)
        expected = one_by_one(config, tmp_path / f"one {name}", monkeypatch)
        Found(config, tmp_path / name).check_equal(expected)


def test_scenes_of_several_windows(
    make_dataset: Make, make_config: Make, make_raster: Make, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = make_dataset()
    rng = np.random.default_rng(0)
    shape = (700, 1100)
    labels = rng.integers(0, 2, (1, *shape), np.uint8)
    make_raster(path.with_name("a0.tif"), rng.normal(0, 1, (2, *shape)).astype(np.float32))
    make_raster(path.with_name("b0.tif"), rng.normal(0, 1, (1, *shape)).astype(np.float32))
    make_raster(path.with_name("labels0.tif"), labels)
    for sampling in ("random", "balanced"):
        config = make_config(path, data={"sampling": sampling, "crop_size": 20})
        expected = one_by_one(config, tmp_path / f"one{sampling}", monkeypatch)
        Found(config, tmp_path / sampling, fresh=True).check_equal(expected)


def test_a_file_is_opened_once_and_then_not_at_all(
    make_dataset: Make, make_config: Make, tmp_path: Path, opened: Counter[str]
) -> None:
    config = make_config(make_dataset())
    Found(config, tmp_path / "first")
    assert opened == {f"{name}{n}.tif": 1 for name in ("a", "b", "labels") for n in range(3)}
    opened.clear()
    Found(config, tmp_path / "second")
    assert not opened
    Found(make_config(config.data.manifest, training={"lr": 0.5}), tmp_path / "sweep")
    assert not opened
    Found(make_config(config.data.manifest, data={"crop_size": 24}), tmp_path / "other")
    assert set(opened) == {f"{name}{n}.tif" for name in ("a", "b", "labels") for n in range(2)}
    opened.clear()
    Found(config, tmp_path / "fresh", fresh=True)
    assert len(opened) == 9


def test_changed_data_are_read_again(
    make_dataset: Make, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_dataset()
    config = make_config(path)
    first = Found(config, tmp_path / "first")
    erase(path.with_name("labels1.tif"), slice(0, 9), 1)
    second = Found(config, tmp_path / "second")
    assert second.facts.class_counts != first.facts.class_counts
    second.check_equal(one_by_one(config, tmp_path / "one", monkeypatch))
    erase(path.with_name("a1.tif"), slice(0, 9), 100)
    third = Found(config, tmp_path / "third")
    assert third.facts.statistics["a"] != second.facts.statistics["a"]
    third.check_equal(one_by_one(config, tmp_path / "two", monkeypatch))


@pytest.mark.parametrize("name", ["a1.tif", "labels0.tif", "b2.tif"])
def test_faults_are_told_as_before_each_time(
    make_dataset: Make, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:  # fmt: skip
    path = make_dataset()
    Found(make_config(path), tmp_path / "sound")
    broken = path.with_name(name)
    broken.write_bytes(broken.read_bytes()[:600])
    with pytest.raises(TerrafuseError) as expected:
        one_by_one(make_config(path), tmp_path / "one", monkeypatch)
    for number in range(2):
        with pytest.raises(TerrafuseError) as told:
            Found(make_config(path), tmp_path / str(number))
        assert (type(told.value), str(told.value)) == (type(expected.value), str(expected.value))


def test_runs_on_what_is_kept_are_equal(
    make_dataset: Make, make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(make_dataset())
    for name in ("first", "second"):
        train(config, tmp_path / name)
        told = "--fresh reads them again" in capsys.readouterr().err
        assert told == (name == "second")
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_statistics_are_kept_unless_something_is_to_be_said(
    make_dataset: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_dataset()
    first = data_stats(path)
    with monkeypatch.context() as patch:
        patch.setattr(Scene, "read", None)
        assert data_stats(path) == first
        with pytest.raises(TypeError):
            data_stats(path, fresh=True)
        with pytest.raises(TypeError):
            data_stats(path, split=None)
    bands_by_name(path)
    for _ in range(2):  # said each time
        with pytest.warns(UserWarning, match="another order"):
            assert data_stats(path)["a"].mean == first["a"].mean[::-1]
    with monkeypatch.context() as patch:
        patch.setattr(StatisticsPass, "result", None)
        with pytest.warns(UserWarning, match="another order"), pytest.raises(TypeError):
            data_stats(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_opening_warns_of_is_said_each_time(
    make_dataset: Make, make_config: Make, make_raster: Make, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = make_dataset()
    for name, bands, rows in (("a", 2, 48), ("b", 1, 49)):  # without CRS, a row too many
        image = np.random.default_rng(1).normal(0, 1, (bands, rows, 48)).astype(np.float32)
        make_raster(path.with_name(f"{name}0.tif"), image, crs=None, transform=Affine.identity())
    labels = np.zeros((1, 48, 48), np.uint8)
    make_raster(path.with_name("labels0.tif"), labels, crs=None, transform=Affine.identity())
    config = make_config(path)
    expected = one_by_one(config, tmp_path / "one", monkeypatch)
    assert any("has 49 × 48 pixels" in text for _, text in expected.warned)
    for name in ("pass", "again"):
        Found(config, tmp_path / name).check_equal(expected)
