"""Units of a map: planned, kept, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from array_scene import ArrayScene, Identity
from terrafuse.classes import ClassScheme
from terrafuse.errors import DataError, OutputError
from terrafuse.prediction import (
    Lattice,
    Part,
    ScenePredictor,
    UnitPlan,
    WindowSettings,
    cog,
    job,
    plan_units,
    products,
    units,
)
from terrafuse.samples import Window

SCHEME = ClassScheme(("a", "b", "c"))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30_000), st.integers(1, 60_000), st.integers(64, 512), st.floats(0, 1)
)  # fmt: skip
def test_a_plan_covers_the_scene_once_and_repeats_few_windows(
    height: int, width: int, crop: int, share: float
) -> None:
    lattice = Lattice(height, width, crop, int(crop * share / 2))
    plan = plan_units(lattice, 8)
    covered = sum(unit.height * unit.width for unit in plan)
    assert covered == height * width
    assert len(set(plan)) == len(plan)
    assert 0 <= plan.twice <= units.MOST_TWICE
    assert plan.twice == pytest.approx(plan.windows() / len(lattice) - 1)
    for unit in plan:
        assert plan.unit_at(unit.row, unit.col) == unit
        assert unit.row % cog.UNIT == unit.col % cog.UNIT == 0
    assert [plan.number(unit) for unit in plan] == list(range(len(plan)))


def test_columns_are_as_wide_as_their_sums_may_be() -> None:
    lattice = Lattice(100, 100_000, 512, 128)
    assert plan_units(lattice, 8).width == 4096  # 2048 runs too many windows twice
    assert plan_units(lattice, 2).width == 6144  # of 9 bytes, 512 rows and 32 MiB
    assert plan_units(Lattice(100, 5000, 256, 64), 8).width == 2048


def test_what_is_missing_is_joined_downwards_and_never_sidewards() -> None:
    plan = UnitPlan(Lattice(400, 250, 64, 16), 100, 200)
    assert plan.runs() == [Window(0, 0, 400, 200), Window(0, 200, 400, 50)]
    assert plan.runs({0, 2, 3, 4, 7}) == [
        Window(0, 0, 100, 200), Window(200, 0, 200, 200), Window(0, 200, 100, 50),
        Window(300, 200, 100, 50),
    ]  # fmt: skip
    windows = [len(Part(plan.lattice, run)) for run in plan.runs({3, 4})]
    assert plan.windows(plan.runs({3, 4})) == sum(windows)
    assert plan.runs(set()) == []


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 64 pixels with tiles of 16, so that a small scene has many."""
    for module in (cog,):
        monkeypatch.setattr(module, "TILE", 16)
        monkeypatch.setattr(module, "UNIT", 64)
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(units, "MOST_TWICE", 10)
    monkeypatch.setattr(units, "_SUMS_BYTES", 0)


class Counting(Identity):
    """Knows how many samples it has seen, and may fail."""

    left: float = np.inf

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(*args, **kwargs)


def scene_of(height: int = 210, width: int = 150) -> ArrayScene:
    rng = np.random.default_rng(0)
    image = np.kron(rng.normal(size=(3, height // 8 + 1, width // 8 + 1)), np.ones((1, 8, 8)))
    image = image[:, :height, :width] + rng.normal(size=(3, height, width)) / 3
    image[:, 70:100, 20:90] = np.nan
    return ArrayScene({"a": image.astype(np.float32)})


def predictor_of(scene: ArrayScene, **options: Any) -> ScenePredictor:
    windows = WindowSettings(**({"crop_size": 32, "overlap": 8, "batch_size": 2} | options))
    return ScenePredictor(Counting(scene.modalities), windows, device="cpu")


def files_of(folder: Path) -> dict[str, bytes]:
    """Content by name; what the map took is left out."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if "prediction.json" in found:
        record = json.loads(found["prediction.json"])
        del record["profile"]
        found["prediction.json"] = json.dumps(record).encode()
    return found


def interrupted(folder: Path, after: int, **options: Any) -> None:
    predictor = predictor_of(scene := scene_of(), **options)
    predictor.segmenter.left = after
    with pytest.raises(KeyboardInterrupt):
        predictor.predict(scene, folder, scheme=SCHEME, areas=True)


def predict(folder: Path, **options: Any) -> int:
    """Map; return the number of batches that the model saw."""
    predictor = predictor_of(scene := scene_of())
    predictor.segmenter.left = 10_000
    predictor.predict(scene, folder, scheme=SCHEME, areas=True, **options)
    return 10_000 - predictor.segmenter.left


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("after", [1, 9, 14, 25, 35])
def test_an_interrupted_map_goes_on_to_the_same_bytes(after: int, tmp_path: Path) -> None:
    whole = predict(tmp_path / "whole")
    interrupted(tmp_path / "map", after)
    done = len(list((tmp_path / "map").rglob("units/0*.json")))
    assert set(files_of(tmp_path / "map")) >= ({"units/job.json"} if done else set())
    assert predict(tmp_path / "map", resume=True) <= whole - 3 * done
    assert files_of(tmp_path / "map") == files_of(tmp_path / "whole")


@pytest.mark.usefixtures("small_units")
def test_the_map_is_the_one_of_a_single_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(tmp_path / "many")
    with rasterio.open(tmp_path / "many" / "class_map.tif") as dataset:
        many, overviews = dataset.read(1), dataset.overviews(1)
        coarse = dataset.read(1, out_shape=(14, 10))
    assert len(overviews) == 4
    monkeypatch.setattr(units, "UNIT", 1024)
    predict(tmp_path / "one")
    with rasterio.open(tmp_path / "one" / "class_map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), many)
        np.testing.assert_array_equal(dataset.read(1, out_shape=(14, 10)), coarse)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "many")


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "record"])
def test_a_damaged_unit_is_found_and_done_again(damage: str, tmp_path: Path) -> None:
    predict(tmp_path / "whole")
    interrupted(tmp_path / "map", 30)
    first = tmp_path / "map" / "units" / "000000.confidence"
    content = bytearray(first.read_bytes())
    if damage == "cut":
        first.write_bytes(content[:-1])
    elif damage == "flipped":
        content[-5] ^= 1
        first.write_bytes(content)
    elif damage == "gone":
        first.unlink()
    else:
        first.with_suffix(".json").write_text("{}")
    with pytest.warns(UserWarning, match="unit 0 in .* is not as it was written and is done again"):
        predict(tmp_path / "map", resume=True)
    assert files_of(tmp_path / "map") == files_of(tmp_path / "whole")


@pytest.mark.usefixtures("small_units")
def test_units_of_another_map_are_refused_with_what_differs(tmp_path: Path) -> None:
    interrupted(tmp_path / "map", 30, overlap=4)
    before = files_of(tmp_path / "map")
    with pytest.raises(OutputError, match=r"differs in: windows\. Give .* leave out --resume"):
        predict(tmp_path / "map", resume=True)
    scene = scene_of()
    other = predictor_of(scene, overlap=4)
    other.segmenter.get_buffer("mean_a").add_(1)
    with pytest.raises(OutputError, match="differs in: model"):
        other.predict(scene, tmp_path / "map", scheme=SCHEME, resume=True)
    assert files_of(tmp_path / "map") == before
    with pytest.warns(UserWarning, match="begun anew; --resume would go on"):  # as the message says
        predict(tmp_path / "map")
    predict(tmp_path / "whole")
    assert files_of(tmp_path / "map") == files_of(tmp_path / "whole")


@pytest.mark.usefixtures("small_units")
def test_changed_rasters_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raster = tmp_path / "a.tif"
    raster.write_bytes(b"1")
    monkeypatch.setattr(ArrayScene, "states", lambda self: [(str(raster), raster.stat().st_size)])
    interrupted(tmp_path / "map", 30)
    raster.write_bytes(b"22")
    with pytest.raises(OutputError, match="differs in: rasters"):
        predict(tmp_path / "map", resume=True)


@pytest.mark.usefixtures("small_units")
def test_after_a_failure_nothing_is_left(tmp_path: Path) -> None:
    scene = ArrayScene({"a": np.full((3, 150, 150), np.nan, np.float32)})
    with pytest.raises(DataError, match="all-nodata"):
        predictor_of(scene).predict(scene, tmp_path / "new" / "map", scheme=SCHEME)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_not_ours_is_neither_used_nor_removed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    place = tmp_path / "map" / "units"
    place.parent.mkdir()
    if kind == "folder":
        place.mkdir()
        (place / "000001.class_map").write_text("mine")
    elif kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path / "mine")
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match=r"is no such folder\. Choose another --out, or move it"):
        predict(tmp_path / "map")
    assert files_of(tmp_path) == before
    predict(tmp_path / "other")  # as the message says
    place.rename(tmp_path / "moved")
    predict(tmp_path / "map")
    assert files_of(tmp_path / "map") == files_of(tmp_path / "other")


@pytest.mark.usefixtures("small_units")
def test_a_file_beside_the_units_stays(tmp_path: Path) -> None:
    interrupted(tmp_path / "map", 30)
    (tmp_path / "map" / "units" / "notes.txt").write_text("mine")
    predict(tmp_path / "map", resume=True)
    left = [path.name for path in (tmp_path / "map" / "units").iterdir()]
    assert left == ["notes.txt"]


@pytest.mark.usefixtures("small_units")
def test_units_that_a_full_disk_left_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(tmp_path / "whole")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(products, "assemble", full)
    with pytest.raises(
        OutputError, match=r"No space left .* Free space, .*kept; then add --resume"
    ):
        predict(tmp_path / "map")
    monkeypatch.undo()
    monkeypatch.setattr(cog, "TILE", 16)
    monkeypatch.setattr(cog, "UNIT", 64)
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(units, "MOST_TWICE", 10)
    monkeypatch.setattr(units, "_SUMS_BYTES", 0)
    assert predict(tmp_path / "map", resume=True) == 0
    assert files_of(tmp_path / "map") == files_of(tmp_path / "whole")


def test_a_job_begins_with_what_it_is(tmp_path: Path) -> None:
    plan = plan_units(Lattice(100, 100, 64, 16), 3)
    job.MapJob(tmp_path, plan, ["class_map"], {"model": "x", "grid": (1, 2.5)}).begin()
    content = json.loads((tmp_path / "units" / "job.json").read_text())
    assert content == {"format": 1, "units": 1, "key": {"model": "x", "grid": [1, 2.5]}}
    assert job.MapJob.begun_with(tmp_path, "grid") == [1, 2.5]
    assert job.MapJob.begun_with(tmp_path, "windows") is None
    assert job.MapJob.begun_with(tmp_path / "units", "grid") is None
