"""Objects, trimap and regions: by hand; and that they add up whoever counts."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyogrio.raw import write
from rasterio.crs import CRS
from shapely import Polygon, box, to_wkb

from array_scene import ArrayScene, Identity
from remedies import refused
from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig
from terrafuse.data import Grid
from terrafuse.data.polygons import RegionFile
from terrafuse.errors import ConfigError, DataError
from terrafuse.evaluation import evaluate
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.evaluation.further import FurtherScore
from terrafuse.evaluation.journal import Keeping
from terrafuse.evaluation.objects import ObjectScores, count_objects
from terrafuse.evaluation.regions import RegionScores
from terrafuse.evaluation.trimap import TrimapScores
from terrafuse.prediction import Shard, WindowSettings

SCHEME = ClassScheme(("land", "roof"))
SCENE: Any = None  # only regions look at it


def picture(*rows: str) -> np.ndarray:
    """'#' = roof, '.' = land, '?' = ignored or no data."""
    codes = {".": 0, "#": 1, "?": 255}
    return np.array([[codes[c] for c in row] for row in rows], np.uint8)


# Objects


def test_objects_by_hand() -> None:
    labels = picture(
        "###..##..",
        "###..##..",
        "........#",
        "##.......",
    )
    mapped = picture(
        "####.#..#",
        "####.#..#",
        ".........",
        ".........",
    )
    # Of 6 pixels 6 in 8: 0.75. Of 4 pixels 2 in 4: 0.5, which is no match. Two are missed.
    assert count_objects(labels, mapped, 1) == [1, 2, 3, 750_000_000]
    # From three pixels on: the mapped ones of two pixels do not count, nor do two of the reference.
    assert count_objects(labels, mapped, 1, least_px=3) == [1, 0, 1, 750_000_000]
    score = ObjectScores.of(["roof"], SCHEME)
    counts = score.count(SCENE, labels, mapped)
    row = score.report([counts, counts])["per_class"]["roof"]
    assert (row["objects"], row["mapped"], row["matched"]) == (8, 6, 2)
    assert (row["precision"], row["recall"]) == (1 / 3, 1 / 4)
    assert row["f1"] == pytest.approx(2 / 7)
    assert row["sq"] == pytest.approx(0.75)
    assert row["pq"] == pytest.approx(0.75 * 2 / 7)


def test_pixels_that_touch_at_a_corner_are_two_objects() -> None:
    assert count_objects(picture("#.", ".#"), picture("#.", ".#"), 1)[0] == 2


def test_ignored_pixels_belong_to_no_object() -> None:
    labels = picture("##??....", "##??..??")
    # What is mapped beyond the object, where the reference is ignored, costs nothing.
    assert count_objects(labels, picture("####....", "####...."), 1) == [1, 0, 0, 10**9]
    # A mapped object of which more than half is ignored does not count; of half, it does.
    assert count_objects(labels, picture(".....##.", "......##"), 1) == [0, 1, 1, 0]
    assert count_objects(labels, picture("......#.", "......##"), 1) == [0, 0, 1, 0]
    # Small objects of the reference are ignored: mapping one is no mistake.
    assert count_objects(labels, picture("##......", "##......"), 1, least_px=5) == [0, 0, 0, 0]


def test_nothing_there_is_not_a_score() -> None:
    score = ObjectScores.of(["roof"], SCHEME)
    empty = score.report([score.count(SCENE, picture("..."), picture("..."))])
    assert empty["pq"] is None
    assert empty["per_class"]["roof"]["precision"] is None
    missed = score.report([score.count(SCENE, picture("#.."), picture("..."))])
    assert missed["pq"] == 0
    with pytest.raises(ConfigError, match=r"in --objects 'rof'\. Did you mean 'roof'"):
        ObjectScores.of(["rof"], SCHEME)
    with refused("evaluation.objects:ObjectScores.of | give 1 or more", ConfigError):
        ObjectScores.of(["roof"], SCHEME, 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 14), st.integers(1, 14), st.integers(1, 4))
def test_objects_are_those_of_the_definition(seed: int, h: int, w: int, least: int) -> None:
    """Sets of pixels, one pair of objects after the other."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, 255], np.uint8), (h, w), p=[0.4, 0.5, 0.1])
    mapped = np.where(rng.random((h, w)) < 0.8, labels, rng.integers(0, 2, (h, w), np.uint8))
    mapped = np.where(mapped == 255, np.uint8(1), mapped)
    ignored = {tuple(p) for p in np.argwhere(labels == 255).tolist()}
    reference = _sets(labels == 1)
    for small in [own for own in reference if len(own) < least]:
        ignored |= small
    reference = [own for own in reference if len(own) >= least]
    matched, alone, total = 0, 0, 0.0
    for own in _sets(mapped == 1):
        kept = own - ignored
        ious = [len(kept & other) / len(kept | other) for other in reference]
        if max(ious, default=0) > 0.5:
            matched += 1
            total += max(ious)
        elif len(own) >= least and 2 * len(own & ignored) <= len(own):
            alone += 1
    found = count_objects(labels, mapped, 1, least)
    assert found[:3] == [matched, alone, len(reference) - matched]
    assert found[3] == pytest.approx(total * 1e9, abs=matched)


def _sets(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    left = {tuple(p) for p in np.argwhere(mask).tolist()}
    found = []
    while left:
        waiting, own = [left.pop()], set()
        while waiting:
            row, col = waiting.pop()
            own.add((row, col))
            for near in ((row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)):
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        found.append(own)
    return found


# Trimap


def test_a_trimap_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = picture("....####??")
    mapped = picture("#...#.##..")
    score = TrimapScores((0, 1, 3), 2)
    counts = score.count(SCENE, labels, mapped)
    # The boundary is columns 3 and 4; not columns 7 and 8.
    assert counts[0] == [[1, 0, 0], [0, 1, 0]]
    assert counts[1] == [[2, 0, 0], [1, 1, 0]]
    assert counts[2] == [[3, 1, 0], [1, 3, 0]]
    report = score.report([counts, counts])["within_px"]
    assert list(report) == ["0", "1", "3"]
    assert report["1"] == {
        "oa": 3 / 4, "miou": pytest.approx((2 / 3 + 1 / 2) / 2), "pixels": 8, "unmapped": 0,
    }  # fmt: skip


def test_bands_of_rows_do_not_change_a_trimap(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 2, (6, 5)), np.ones((9, 7))).astype(np.uint8)
    mapped = rng.integers(0, 2, labels.shape).astype(np.uint8)
    score = TrimapScores((1, 2.5, 6), 2)
    whole = score.count(SCENE, labels, mapped)
    monkeypatch.setattr("terrafuse.evaluation.trimap._BAND", 4 * labels.shape[1])
    assert score.count(SCENE, labels, mapped) == whole
    sizes = [np.sum(matrix) for matrix in whole]
    assert all(a < b for a, b in pairwise(sizes))
    assert sizes[-1] < labels.size


def test_distances_of_a_trimap() -> None:
    for widths in ((), (3, 1), (1, 1), (-1,), (600,)):
        with refused("evaluation.trimap:TrimapScores.__post_init__ | give pixels from 0 to"):
            TrimapScores(widths, 2)
    TrimapScores((1, 3, 5), 2)


# Regions


def grid(height: int, width: int) -> Grid:
    return Grid(CRS.from_epsg(32633), Affine(10, 0, 500_000, 0, -10, 5_000_000), height, width)


def write_regions(path: Path, shapes: dict[str, Polygon], crs: str = "EPSG:32633") -> str:
    """A vector file with a column "name"; coordinates in pixels of `grid`, or degrees."""
    moved = [shape if crs == "EPSG:4326" else _to_ground(shape) for shape in shapes.values()]
    write(
        path, np.array([to_wkb(shape) for shape in moved], object),
        [np.array([name.split("/")[0] for name in shapes], object)], ["name"],
        geometry_type="Polygon", crs=crs,
    )  # fmt: skip
    return str(path)


def _to_ground(shape: Polygon) -> Polygon:
    return Polygon([(500_000 + 10 * x, 5_000_000 - 10 * y) for x, y in shape.exterior.coords])


def test_regions_by_hand(tmp_path: Path) -> None:
    labels = picture("..####", "..####", "??####")
    mapped = picture("....##", "....##", "....##")
    path = write_regions(
        tmp_path / "r.gpkg",
        {
            # Centres of columns 0 to 2: the edge of a polygon cuts pixels.
            "west": box(-5, -5, 2.6, 9),
            "east/1": box(4, 0, 6, 1),
            "east/2": box(5, 2, 9, 9),
            "whole": box(-5, -5, 20, 20),
            "void": box(0, 2, 2, 3),
            "elsewhere": box(100, 100, 120, 120),
        },
    )
    score = RegionScores(RegionFile.parse(f"{path}:name"), SCHEME.names)
    scene: Any = ArrayScene({"a": np.zeros((1, 3, 6), np.float32)})
    counts = json.loads(json.dumps(score.count(scene, labels, mapped)))
    assert set(counts) == {"west", "east", "whole"}
    assert counts["west"] == [[4, 0, 0], [3, 0, 0]]
    assert counts["east"] == [[0, 0, 0], [0, 3, 0]]
    matrix = ConfusionMatrix(2)
    matrix.update(labels, mapped)
    assert counts["whole"] == matrix.counts.tolist()
    rows = score.report([counts, counts])["per_region"]
    assert rows["west"]["pixels"] == 14
    assert rows["west"]["oa"] == pytest.approx(4 / 7)
    assert rows["west"]["iou"] == {"land": pytest.approx(4 / 7), "roof": 0}
    by_feature = RegionScores(RegionFile.parse(path), SCHEME.names).count(scene, labels, mapped)
    assert [np.sum(own) for own in by_feature.values()] == [7, 2, 1, 16]


def test_regions_in_another_crs(tmp_path: Path) -> None:
    from rasterio.warp import transform

    corners = [
        (500_000, 5_000_000),
        (500_030, 5_000_000),
        (500_030, 4_999_940),
        (500_000, 4_999_940),
    ]
    degrees = transform("EPSG:32633", "EPSG:4326", *zip(*corners, strict=True))
    shape = Polygon(list(zip(*degrees, strict=True)))
    path = write_regions(tmp_path / "r.geojson", {"west": shape}, "EPSG:4326")
    ((name, window, inside),) = RegionFile(path, "name").masks(grid(6, 6))
    held = np.zeros((6, 6), bool)
    held[window.slices()] = inside
    assert name == "west"
    assert held[:, :3].all()
    assert not held[:, 3:].any()


def test_no_region_and_no_file(tmp_path: Path) -> None:
    path = write_regions(tmp_path / "r.gpkg", {"far": box(100, 100, 120, 120)})
    score = RegionScores(RegionFile.parse(path), SCHEME.names)
    scene: Any = ArrayScene({"a": np.zeros((1, 3, 6), np.float32)})
    with refused(
        "evaluation.regions:RegionScores.report | Check that its polygons cover", DataError
    ):
        score.report([score.count(scene, picture("......"), picture("......"))])
    with refused("data.polygons:RegionFile.parse | give a vector file", ConfigError) as error:
        RegionFile.parse("districts.tif:name")
    assert RegionFile.parse(error.find(r"names them: (\S+)$")) == RegionFile(
        "districts.gpkg", "name"
    )
    assert RegionFile.parse("https://a.b/c.gpkg") == RegionFile("https://a.b/c.gpkg")
    assert RegionFile.parse("C:/c.gpkg").column is None
    with pytest.raises(ConfigError, match="unknown attribute of the regions"):
        list(RegionFile(path, "nome").masks(grid(3, 6)))


# In an evaluation


def test_further_scores_are_the_same_whoever_counts(tmp_path: Path) -> None:
    scenes: list[Any] = []
    for number in range(3):
        rng = np.random.default_rng(number)
        labels = np.kron(rng.integers(0, 2, (5, 6)), np.ones((8, 8))).astype(np.uint8)
        image = rng.normal(size=(2, 40, 48)) + 2 * np.stack([labels == k for k in range(2)])
        scenes.append(
            ArrayScene({"a": image.astype(np.float32)}, labels, scheme=SCHEME, id=str(number))
        )
    path = write_regions(tmp_path / "r.gpkg", {"north": box(0, 0, 48, 20)})
    further: list[FurtherScore] = [
        ObjectScores.of(["roof"], SCHEME, 2),
        TrimapScores((1, 4), 2),
        RegionScores(RegionFile(path, "name"), SCHEME.names),
    ]

    def score(**options: Any) -> dict[str, Any]:
        model = Identity(scenes[0].modalities, 2)
        windows = WindowSettings(32, 8)
        return evaluate(
            model, scenes, SCHEME, EvaluationConfig(), windows, device="cpu", further=further,
            **options,
        )  # fmt: skip

    whole = score()
    assert whole["trimap"]["within_px"]["4"]["pixels"] > 1000
    assert whole["regions"]["per_region"]["north"]["pixels"] == 3 * 20 * 48
    assert whole["objects"]["per_class"]["roof"]["objects"] > 3
    assert "class_sets" not in whole
    keeping = Keeping(tmp_path / "scored")
    assert score(keeping=keeping, shard=Shard(1, 2)) == {"waits_for": 1}
    assert score(keeping=keeping, shard=Shard(2, 2)) == whole
    # Other distances are other scores: nothing that is kept is of use.
    further[1] = TrimapScores((1, 3), 2)
    with pytest.warns(UserWarning, match="is of scores with other further scores"):
        score(keeping=keeping, resume=True)
