"""From a map to its areas: sample, label, estimate, as functions and on the command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from made_maps import NAMES, write_map
from terrafuse.api import areas, sample
from terrafuse.errors import ConfigError, DataError, OutputError
from terrafuse.evaluation import AreaEstimates, share_interval
from terrafuse.maps import read_labels, read_sample, write_labels

CommandLine = Callable[..., tuple[int, str, str]]
SHAPE = (120, 150)


def made_truth() -> np.ndarray:
    """Sea in the west, wet land in the east, ice in a corner."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[:, 90:] = 1
    truth[:20, 130:] = 2
    return truth


def made_map(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every 25th pixel wrong; no data in the first rows, abstained from in the last ones."""
    rng = np.random.default_rng(seed)
    found = truth.copy()
    wrong = rng.random(SHAPE) < 0.04
    found[wrong] = rng.integers(0, 3, int(wrong.sum()))
    found[:5] = 255
    found[-3:, :40] = 9
    return found


def label(path: Path, truth: np.ndarray, *, leave: int = 0) -> None:
    """What a person would do: the true class of every point but the first ones."""
    drawn = read_sample(path)
    at = zip(drawn.pixels.row, drawn.pixels.col, strict=True)
    labels = {id_: drawn.classes[truth[place]] for id_, place in enumerate(at, 1)}
    write_labels(path, {id_: name for id_, name in labels.items() if id_ > leave})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map, `old`, its labelled sample, and a later map of the same place, `new`."""
    folder = tmp_path_factory.mktemp("place")
    truth = made_truth()
    write_map(folder / "old" / "class_map.tif", made_map(truth), abstained=9)
    write_map(folder / "new" / "class_map.tif", made_map(truth, 1), abstained=9)
    sample(folder / "old", folder / "s.gpkg", points=240, seed=2)
    label(folder / "s.gpkg", truth)
    return folder


@pytest.fixture(scope="module")
def estimated(place: Path) -> AreaEstimates:
    return areas(place / "old", place / "s.gpkg", out=place / "areas")


def test_what_is_drawn(place: Path) -> None:
    drawn = read_sample(place / "s.gpkg")
    classes = made_map(made_truth())
    names = np.array([*NAMES, "abstained"])
    at = classes[drawn.pixels.row, drawn.pixels.col]
    assert (names[drawn.pixels.stratum] == names[np.where(at == 9, 3, at)]).all()
    pixels = [int((classes == value).sum()) for value in (0, 1, 2, 9)]
    assert [s.pixels for s in drawn.strata] == pixels
    # 240 points for 4 strata: 30 each at least, and what is left by area.
    points = np.bincount(drawn.pixels.stratum)
    assert points[2] == points[3] == 30
    assert points[0] / points[1] == pytest.approx(pixels[0] / pixels[1], rel=0.03)
    assert drawn.about["seed"] == 2


def test_areas_are_those_of_the_truth(place: Path, estimated: AreaEstimates) -> None:
    truth, classes = made_truth(), made_map(made_truth())
    known = classes != 255
    assert estimated.total == pytest.approx(known.sum() / 100)
    for k, one in enumerate(estimated.classes):
        true = (truth[known] == k).sum() / 100
        assert one.area.low <= true <= one.area.high
        assert one.mapped_area == pytest.approx((classes == k).sum() / 100)
        drawn = read_sample(place / "s.gpkg").pixels
        is_mapped = classes[drawn.row, drawn.col] == k
        right = int((truth[drawn.row, drawn.col][is_mapped] == k).sum())
        assert one.users is not None
        assert one.users.value == pytest.approx(right / is_mapped.sum())
        exact = share_interval(right, int(is_mapped.sum()), int((classes == k).sum()))
        assert (one.users.low, one.users.high) == pytest.approx(exact)
    assert estimated.rows == (*NAMES, "abstained")
    assert estimated.overall_of_classed is not None
    assert estimated.overall.value < estimated.overall_of_classed.value
    assert estimated.notes == ()


def test_files_beside(place: Path, estimated: AreaEstimates) -> None:
    folder = place / "areas"
    assert {p.name for p in folder.iterdir()} == {
        "area_estimates.csv", "error_matrix.csv", "area_estimates.json", "area_estimates.png",
    }  # fmt: skip
    with (folder / "area_estimates.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = (r for r in rows if (r["class"], r["quantity"]) == ("ice", "area"))
    assert float(row["low"]) == estimated.classes[2].area.low
    assert row["unit"] == "ha"
    assert rows[-2]["quantity"] == "overall accuracy"
    with (folder / "error_matrix.csv").open() as file:
        matrix = list(csv.reader(file))
    assert matrix[0] == ["mapped as", *NAMES, "points"]
    assert float(matrix[1][1]) == estimated.matrix[0, 0]
    assert json.loads((folder / "area_estimates.json").read_text()) == estimated.to_dict()


def test_a_sample_of_another_map(place: Path) -> None:
    """Weights are those of the old map's classes; the rows of the matrix are the new one's."""
    found = areas(place / "new", place / "s.gpkg")
    truth, new = made_truth(), made_map(made_truth(), 1)
    drawn = read_sample(place / "s.gpkg")
    sizes = np.array([s.pixels for s in drawn.strata])
    points = np.bincount(drawn.pixels.stratum)
    weight = (sizes / points / sizes.sum())[drawn.pixels.stratum]
    here, true = (x[drawn.pixels.row, drawn.pixels.col] for x in (new, truth))
    assert found.overall.value == pytest.approx(weight[here == true].sum())
    both = weight[(here == 1) & (true == 1)].sum()
    assert found.classes[1].users is not None
    assert found.classes[1].users.value == pytest.approx(both / weight[here == 1].sum())
    assert "was drawn from another map" in found.notes[0]
    differ = int((here != made_map(truth)[drawn.pixels.row, drawn.pixels.col]).sum())
    assert f"{differ} of 240 points have another class" in found.notes[0]
    now = int((new != 255).sum())
    assert now == sizes.sum()
    assert len(found.notes) == 1


def test_a_map_that_covers_a_part(place: Path, tmp_path: Path) -> None:
    part = write_map(tmp_path / "part.tif", made_map(made_truth())[:, :100])
    labels = shutil.copy(place / "s.gpkg", tmp_path / "s.gpkg")
    found = areas(part, labels, classes={"sea": 0, "wet land": 1, "ice": 2})
    assert found.rows == (*NAMES, "no data")
    assert found.total == pytest.approx((made_map(made_truth()) != 255).sum() / 100)
    assert "areas are those of the 17,250 pixels that were sampled" in found.notes[1]


def test_points_without_label(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.gpkg"
    sample(place / "old", path, points=100)
    with pytest.raises(DataError, match=r"no point of .* has a label. Fill the column"):
        areas(place / "old", path)
    truth = made_truth()
    label(path, truth, leave=12)
    with pytest.raises(DataError, match=r"12 of 100 points .* more than 10 %.*unlabelled 0.12"):
        areas(place / "old", path)
    found = areas(place / "old", path, most_unlabelled=0.12)
    assert found.points == 88
    (note,) = found.notes
    assert "12 of 100 points (12.0 %) have no label and are left out" in note
    drawn = read_sample(path)
    at = made_map(truth)[drawn.pixels.row, drawn.pixels.col]
    right = at == truth[drawn.pixels.row, drawn.pixels.col]
    lacking = np.arange(100) < 12
    sizes = np.array([s.pixels for s in drawn.strata])
    points = np.bincount(drawn.pixels.stratum)
    weight = (sizes / points / sizes.sum())[drawn.pixels.stratum]
    least = weight[right & ~lacking].sum()
    largest = least + weight[lacking & (at != 9)].sum()  # what is abstained from is never right
    assert f"the overall accuracy would be {least:.3f} or {largest:.3f}" in note


def test_classes_beyond_those_of_the_map(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.gpkg"
    sample(place / "old", path, points=60, also=["cloud"])
    truth = made_truth()
    truth[50:60, :20] = 3
    label(path, truth)
    found = areas(place / "old", path)
    assert [one.name for one in found.classes] == [*NAMES, "cloud"]
    assert found.classes[3].mapped_area is None
    assert found.classes[3].users is None
    with pytest.raises(ConfigError, match="--also is 'ice'"):
        sample(place / "old", tmp_path / "t.gpkg", points=60, also=["ice"])


def test_maps_in_degrees_and_without_crs(tmp_path: Path) -> None:
    """Halfway to the pole pixels of a degree's hundredth are half as wide as at the equator."""
    array = np.repeat([[0], [1]], 50, axis=0) * np.ones((1, 60), int)
    tall = Affine(0.01, 0, 10, 0, -0.6, 60)  # from 60° to 0°
    path = write_map(tmp_path / "d.tif", array, crs="EPSG:4326", transform=tall)
    sample(path, tmp_path / "d.gpkg", points=60)
    label(tmp_path / "d.gpkg", array)
    found = areas(path, tmp_path / "d.gpkg")
    north, south = (one.area.value for one in found.classes[:2])
    # sin 60° - sin 30° to sin 30°, but for the ellipsoid.
    assert north / south == pytest.approx((np.sin(np.pi / 3) - 0.5) / 0.5, rel=0.01)
    assert found.unit == "ha"
    plain = write_map(tmp_path / "p.tif", array, crs=None, transform=Affine.identity())
    sample(plain, tmp_path / "p.gpkg", points=60)
    label(tmp_path / "p.gpkg", array)
    found = areas(plain, tmp_path / "p.gpkg")
    assert (found.unit, found.total) == ("px", 6_000)
    assert [one.area.value for one in found.classes] == [3_000, 3_000, 0]


def test_the_same_seed_draws_the_same(place: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        sample(place / "old", tmp_path / f"{name}.gpkg", points=50, seed=seed)
    a, b, c = (read_sample(tmp_path / f"{name}.gpkg").pixels for name in "abc")
    assert (a.row == b.row).all()
    assert (a.col == b.col).all()
    assert (a.row != c.row).any()


def test_what_cannot_be_sampled(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the number of points"):
        sample(place / "old", tmp_path / "s.gpkg")
    with pytest.raises(ConfigError, match=r"unknown ending of a file of points '.shp'"):
        sample(place / "old", tmp_path / "s.shp", points=50)
    empty = write_map(tmp_path / "empty.tif", [[255, 255]])
    with pytest.raises(DataError, match="there is nothing to sample"):
        sample(empty, tmp_path / "s.gpkg", points=50)
    with pytest.raises(OutputError, match="holds 240 labels"):
        sample(place / "old", place / "s.gpkg", points=50)
    with pytest.raises(ConfigError, match="--confidence is 95; give a share"):
        areas(place / "old", place / "s.gpkg", confidence=95)
    other = write_map(tmp_path / "other.tif", [[0, 1]], names=("a", "b"))
    with pytest.raises(DataError, match=r"none in common. Give the map that was sampled"):
        areas(other, place / "s.gpkg")


def test_on_the_command_line(place: Path, tmp_path: Path, command_line: CommandLine) -> None:
    path = tmp_path / "s.gpkg"
    code, out, message = command_line(
        "sample", place / "old", "--margin", "0.05", "--expect", "0.9,", "-o", path
    )
    assert (code, "'0.9,', not a number" in message) == (2, True)
    code, out, _ = command_line(
        "sample", place / "old", "--margin", "0.04", "--expect", "ice=0.5", "-o", path, "--blind",
        "--json",
    )  # fmt: skip
    assert code == 0
    drawn = json.loads(out)
    # Σ W S with 0.4 for most of it: about (0.4 / 0.04)² = 100.
    assert sum(drawn["points"].values()) == pytest.approx(102, abs=3)
    assert drawn["expected_standard_error"] == pytest.approx(0.04, abs=0.005)
    assert drawn["notes"] == ["120 pixels that the map abstains from are a stratum of their own"]
    assert (read_labels(path, read_sample(path)) == -1).all()
    label(path, made_truth(), leave=2)
    code, out, _ = command_line("areas", place / "old", path, "--json", "-o", tmp_path / "out")
    assert code == 0
    values = json.loads(out)
    assert set(values["classes"]) == set(NAMES)
    assert values == json.loads((tmp_path / "out" / "area_estimates.json").read_text())
    code, out, _ = command_line("areas", place / "old", path, "--confidence", "0.9")
    assert code == 0
    assert "90 % intervals" in out
    assert "overall accuracy" in out
    assert "note: 2 of" in out
    code, out, _ = command_line("sample", place / "old", "-n", "60", "-o", tmp_path / "t.gpkg")
    assert "60 points (sea" in out
    assert "next: terrafuse areas" in out
