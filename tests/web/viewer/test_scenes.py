"""Scenes as the page shows them: pixels as the scene reads them, places and areas by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from numpy.typing import NDArray

from made_maps import NAMES
from terrafuse.data import load_manifest
from terrafuse.errors import DataError
from terrafuse.prediction.class_values import NAMES_TAG, VALUES_TAG
from terrafuse.web.viewer.document import Layer, View
from terrafuse.web.viewer.places import MOST_PLACES, Blocks
from terrafuse.web.viewer.scenes import Plan
from terrafuse.web.viewer.shown import Shown
from terrafuse.web.viewer.subjects import Collection, find_subjects
from viewed import GRIDS, SIDE, make_scene, write, write_map


def shown(collection: Collection) -> Shown:
    (subject,) = collection.subjects.values()
    return Plan(subject).show()


def layer_of(view: View, id: str) -> Layer:
    return next(layer for layer in view.layers if layer.id == id)


def values_of(found: Shown, id: str) -> NDArray[Any]:
    """Physical values (C, h, w) of a layer, as the page finds them."""
    layer = layer_of(found.view, id)
    with rasterio.open(found.rasters[id]) as dataset:
        stored = dataset.read().astype(np.float64)
    if layer.nodata is not None:
        stored[stored == float(layer.nodata)] = np.nan
    factors = np.array([[band.factor, band.summand] for band in layer.bands])
    return np.asarray(stored * factors[:, :1, None] + factors[:, 1:, None])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("grid", GRIDS)
def test_layers_are_what_the_scene_reads(tmp_path: Path, grid: str) -> None:
    manifest = make_scene(tmp_path, grid)
    found = shown(find_subjects(manifest))
    scene = load_manifest(manifest).scene("a")
    sample = scene.read(scene.grid.window, arrays=True)
    for name, pixels in (("photo", (1, 1)), ("radar", (2, 2)), ("heights", (1, 1))):
        np.testing.assert_allclose(
            values_of(found, name), sample.images[name], rtol=1e-6, equal_nan=True
        )
        assert layer_of(found.view, name).pixels == pixels
    assert np.array_equal(values_of(found, "truth")[0], np.asarray(sample.labels))
    # Those that suit are served as they lie; what lies in a PNG is copied.
    assert found.rasters["photo"] == tmp_path / "photo.tif"
    assert found.rasters["radar"] == tmp_path / "radar.tif"
    assert found.rasters["heights"].parent == tmp_path / ".terrafuse" / "view"
    assert found.view.ground.transform == tuple(GRIDS[grid][1][:6])
    assert (found.view.ground.lonlat is None) == (grid == "none")
    assert found.view.notes == ()


def test_a_click_gives_physical_values(tmp_path: Path) -> None:
    found = shown(find_subjects(make_scene(tmp_path)))
    with rasterio.open(tmp_path / "photo.tif") as photo, rasterio.open(tmp_path / "radar.tif") as r:
        stored, radar = photo.read()[:, 101, 55], r.read(1)[50, 27]
    told = found.values(101, 55)
    assert told["values"]["photo"] == pytest.approx((stored * 0.01).tolist())
    assert told["values"]["radar"] == [radar]
    assert (told["x"], told["y"]) == (500_555, 4_998_985)
    assert found.values(2, 3)["values"]["photo"] == [None] * 4
    assert found.values(7, 10)["values"]["radar"] == [None]


def test_copies_are_found_again_until_a_file_changes(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path)
    first = shown(find_subjects(manifest)).rasters["heights"]
    made = first.stat().st_mtime_ns, first.read_bytes()
    (subject,) = find_subjects(manifest).subjects.values()
    assert Plan(subject).to_make == 0
    heights = np.full((1, SIDE, SIDE), 7, np.uint8)
    write(tmp_path / "heights.png", heights, "utm", driver="PNG", nodata=0)
    (subject,) = find_subjects(manifest).subjects.values()
    assert Plan(subject).to_make == SIDE * SIDE
    again = Plan(subject).show()
    assert again.rasters["heights"] != first
    assert (values_of(again, "heights") == 7).all()
    assert first.read_bytes() == made[1]


def test_bands_are_described(tmp_path: Path) -> None:
    view = shown(find_subjects(make_scene(tmp_path))).view
    photo = layer_of(view, "photo")
    assert photo.rgb == (2, 1, 0)
    assert [index.id for index in photo.indices] == ["ndvi", "ndwi"]
    assert (photo.indices[0].a, photo.indices[0].b) == (3, 2)
    assert photo.components is not None
    with rasterio.open(tmp_path / "photo.tif") as dataset:
        values = dataset.read() * 0.01
    known = values[:, values[0] != 0]
    assert photo.components.mean == pytest.approx(known.mean(axis=1))
    axes = np.array(photo.components.axes)
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-9)
    # The first component has the largest variance that any direction has.
    variance = np.linalg.eigvalsh(np.cov(known))[-1]
    assert np.var(axes[0] @ known, ddof=1) == pytest.approx(variance)
    blue = photo.bands[0]
    assert (blue.least, blue.most) == pytest.approx((known[0].min(), known[0].max()))
    assert (blue.low, blue.high) == pytest.approx(tuple(np.percentile(known[0], (2, 98))))
    radar = layer_of(view, "radar").bands[0]
    assert (radar.name, radar.unit, radar.factor) == ("vv", "db", 1)
    assert [(c.name, c.value) for c in view.classes] == [(n, k) for k, n in enumerate(NAMES)]


def map_with_a_wrong_square() -> NDArray[Any]:
    """The truth, but for the square from (128, 64) on and two pixels elsewhere."""
    rng = np.random.default_rng(3)
    truth = np.kron(rng.integers(0, 3, (6, 6)), np.ones((32, 32))).astype(np.uint8)
    mapped = truth.copy()
    mapped[128:160, 64:96] = (mapped[128:160, 64:96] + 1) % 3
    mapped[0, 100:102] = (mapped[0, 100:102] + 1) % 3
    return mapped


def test_places_by_hand(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path / "data")
    mapped = map_with_a_wrong_square()
    confidence = np.full((SIDE, SIDE), 127)
    confidence[96:128, 160:192] = 254 // 10
    attribution = np.zeros((SIDE, SIDE))
    attribution[32:64, 0:24] = 2
    folder = write_map(tmp_path / "map", mapped, confidence=confidence, attribution=attribution)
    found = shown(find_subjects(folder, scenes=[f"{manifest}#a"]))
    lists = {one.id: one.places for one in found.view.places}
    # Squares of 32 pixels, as the scene is small.
    first = lists["uncertain"][0]
    assert (first.row, first.col, first.height, first.width) == (96, 160, 32, 32)
    assert first.value == pytest.approx(1 - 25 / 254)
    name = NAMES[np.bincount(mapped[96:128, 160:192].ravel()).argmax()]
    assert first.text == f"mean confidence 0.10; mapped as {name}"
    assert len(lists["uncertain"]) == 24
    wrong = lists["wrong"]
    assert [(p.row, p.col) for p in wrong] == [(128, 64), (0, 96)]
    assert [p.value for p in wrong] == [1.0, 2 / 1024]
    assert wrong[0].text.startswith("100% of the labelled pixels differ; mapped as ")
    (only,) = lists["modality"]
    assert (only.row, only.col, only.value) == (32, 0, 0.75)
    assert only.text == "75% of the pixels have another class without radar"
    difference = layer_of(found.view, "difference")
    assert {n.name: n.pixels for n in difference.names} == {
        "as the truth": SIDE * SIDE - 1026, "otherwise": 1026,
    }  # fmt: skip
    picture = found.thumbnail("places/wrong-0.png")
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert found.thumbnail("places/wrong-9.png") is None


def test_places_are_known_by_half() -> None:
    blocks = Blocks.of(64, 48)  # squares of 32, of which those on the right are cut
    known = np.zeros((2, 2, 32 * 32), bool)
    known[0, 0, :511] = known[1, 0, :512] = known[0, 1, :255] = known[1, 1, :256] = True
    mean = blocks.mean(np.full(known.shape, 0.5), known)
    assert np.array_equal(mean, [[np.nan, np.nan], [0.5, 0.5]], equal_nan=True)


def test_places_are_spread_before_they_are_neighbours() -> None:
    blocks = Blocks(512, 512, 64, 1)
    score = np.full((8, 8), np.nan)
    score[2, 2:5] = 0.9, 0.8, 0.7
    score[7, 7] = 0.1
    score[0, 0] = 0.0
    assert blocks.best(score) == [(2, 2), (2, 3), (2, 4), (7, 7)]
    score = np.linspace(1, 2, 64).reshape(8, 8)
    best = blocks.best(score)
    assert len(best) == MOST_PLACES
    # Sixteen blocks of which none touches another are among them, the best of all first.
    assert best[0] == (7, 7)
    assert {(7 - 2 * i, 7 - 2 * j) for i in range(4) for j in range(4)} <= set(best)


def test_areas_are_counted_or_read(tmp_path: Path) -> None:
    classes = np.zeros((SIDE, SIDE), np.uint8)
    classes[:10] = 2
    classes[10] = 255
    folder = write_map(tmp_path / "map", classes)
    found = {c.name: (c.pixels, c.area_ha) for c in shown(find_subjects(folder)).view.classes}
    # A pixel has 100 m².
    assert found == {
        "sea": (SIDE * (SIDE - 11), pytest.approx(SIDE * (SIDE - 11) / 100)),
        "wet land": (0, 0),
        "ice": (10 * SIDE, pytest.approx(10 * SIDE / 100)),
    }
    table = "class,pixels,hectares,percent\nsea,5,1.5,100\nwet land,6,,\nice,7,2,\n"
    (folder / "areas.csv").write_text(table)
    found = {c.name: (c.pixels, c.area_ha) for c in shown(find_subjects(folder)).view.classes}
    assert found == {"sea": (5, 1.5), "wet land": (6, None), "ice": (7, 2)}


def test_large_maps_are_measured_on_overviews(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terrafuse.web.viewer import scenes

    classes = np.repeat([[0, 2]], SIDE, axis=0).repeat(SIDE // 2, axis=1)
    folder = write_map(tmp_path / "map", classes)
    monkeypatch.setattr(scenes, "_COUNTED", 100)
    monkeypatch.setattr(scenes, "_OVERVIEW", 64)
    view = shown(find_subjects(folder)).view
    assert [c.pixels for c in view.classes] == [SIDE * SIDE // 2, 0, SIDE * SIDE // 2]
    assert view.classes[0].area_ha == pytest.approx(SIDE * SIDE / 2 / 100)
    assert "areas are estimated from an overview of the map" in view.notes


def test_a_map_alone_shows_its_own_layers(tmp_path: Path) -> None:
    flat = np.full((SIDE, SIDE), 100)
    folder = write_map(tmp_path / "map", flat * 0, confidence=flat, entropy=flat)
    subset = folder / "subsets" / "photo" / "class_map.tif"
    write_map(subset.parent, flat * 0 + 1)
    view = shown(find_subjects(folder)).view
    assert [(one.id, one.role, one.kind) for one in view.layers] == [
        ("class_map", "class_map", "classes"),
        ("confidence", "confidence", "number"),
        ("entropy", "entropy", "number"),
        ("subset_photo", "subset", "classes"),
    ]
    assert layer_of(view, "entropy").bands[0].factor == pytest.approx(1 / 254)
    assert view.why is None
    (note,) = view.notes
    assert "Name its scene with --scene dataset.yaml#id" in note


def test_a_scene_that_is_gone_is_said(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path / "data")
    folder = write_map(tmp_path / "map", np.zeros((SIDE, SIDE)))
    record = {"scene": "a", "inputs": {"model": "../run", "scene": "../data/dataset.yaml#a"}}
    (folder / "prediction.json").write_text(json.dumps(record))
    assert {one.id for one in shown(find_subjects(folder)).view.layers} >= {"photo", "truth"}
    (tmp_path / "data" / "photo.tif").unlink()
    view = shown(find_subjects(folder)).view
    assert [one.id for one in view.layers] == ["class_map"]
    assert "the rasters of the scene cannot be opened" in view.notes[0]
    manifest.unlink()
    view = shown(find_subjects(folder)).view
    assert "the scene of the map cannot be opened any more" in view.notes[0]


def test_a_map_of_another_grid_leaves_the_scene_out(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path / "data")
    folder = write_map(tmp_path / "map", np.zeros((SIDE, SIDE - 1)))
    view = shown(find_subjects(folder, scenes=[f"{manifest}#a"])).view
    assert [one.id for one in view.layers] == ["class_map"]
    assert "on another grid than the map now (192 × 192 pixels, the map 192 × 191)" in view.notes[0]


def test_labels_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path)
    write(tmp_path / "labels.tif", np.full((1, SIDE, SIDE), 99, np.uint8), "utm")
    view = shown(find_subjects(manifest)).view
    assert [one.id for one in view.layers] == ["photo", "radar", "heights"]
    (note,) = view.notes
    assert note.startswith("Truth (labels) cannot be shown: ")
    assert "99" in note


def test_a_missing_modality_is_no_fault(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path)
    manifest.write_text(manifest.read_text().replace("  radar: radar.tif\n", ""))
    view = shown(find_subjects(manifest)).view
    assert [one.id for one in view.layers] == ["photo", "heights", "truth"]


def test_a_map_in_tiles_is_copied(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 3, (SIDE, SIDE))
    folder = write_map(tmp_path / "map", classes, confidence=classes * 50)
    for name in ("class_map", "confidence"):
        whole = folder / name / "0.tif"
        whole.parent.mkdir()
        (folder / f"{name}.tif").rename(whole)
        rasterio.shutil.copy(whole, folder / f"{name}.vrt", driver="VRT")
    found = shown(find_subjects(folder))
    assert np.array_equal(values_of(found, "class_map")[0], classes)
    np.testing.assert_allclose(values_of(found, "confidence")[0], classes * 50 / 254)
    assert {path.suffix for path in found.rasters.values()} == {".tif"}


def test_points_of_a_sample_are_places(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra web is not installed")
    from terrafuse import api
    from terrafuse.web.viewer.serving import open_viewer

    classes = np.random.default_rng(1).integers(0, 3, (SIDE, SIDE))
    folder = write_map(tmp_path / "map", classes, confidence=classes * 50)
    api.sample(folder, tmp_path / "points.gpkg", points=12)
    for map_ in (None, folder):
        preparer, _ = open_viewer(tmp_path / "points.gpkg", map_=map_)
        (id,) = preparer.collection.subjects
        view = preparer.ready(id).view
        assert view.sampling is not None
        first = view.places[0]
        assert (first.id, len(first.places)) == ("sample", len(view.sampling.ids))
        place = first.places[0]
        assert place.text.endswith(f"mapped as {NAMES[classes[place.row, place.col]]}")
        assert view.labelling is None
    (folder / "class_map.tif").unlink()
    with pytest.raises(DataError, match=r"is not there: no .* Name it with --map"):
        find_subjects(tmp_path / "points.gpkg")


def test_layers_of_modalities_have_ids_of_their_own(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path / "data")
    text = manifest.read_text().replace("photo", "class_map").replace("radar", "truth")
    manifest.write_text(
        text.replace("class_map.tif", "photo.tif").replace("truth.tif", "radar.tif")
    )
    folder = write_map(tmp_path / "map", np.ones((SIDE, SIDE)))
    found = shown(find_subjects(folder, scenes=[f"{manifest}#a"]))
    roles = {one.id: (one.role, one.title) for one in found.view.layers}
    assert roles["modality_class_map"] == ("modality", "class_map")
    assert roles["class_map"] == ("class_map", "Class map")
    assert roles["modality_truth"] == ("modality", "truth")
    assert roles["truth"][0] == "truth"
    assert len({one.href.lower() for one in found.view.layers}) == len(found.view.layers) == 6
    assert (values_of(found, "class_map") == 1).all()
    assert len(found.values(20, 20)["values"]["modality_class_map"]) == 4
    alone = shown(find_subjects(manifest))
    # Areas are those of the labels, not of the modality of that name.
    assert sum(entry.pixels or 0 for entry in alone.view.classes) == SIDE * SIDE


def test_modalities_that_differ_in_case_only(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path)
    text = manifest.read_text().replace("heights:", "PHOTO:")
    manifest.write_text(text)
    hrefs = [one.href for one in shown(find_subjects(manifest)).view.layers]
    assert hrefs == [f"rasters/{id}.tif" for id in ("photo", "radar", "modality_PHOTO", "truth")]


def cut(path: Path, share: float) -> None:
    """Leave the beginning of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def as_cog(path: Path, **options: str) -> None:
    """Have the pixels of a raster lie at its end."""
    source = path.rename(path.with_suffix(".source"))
    rasterio.shutil.copy(source, path, driver="COG", compress="deflate", blocksize=128, **options)


@pytest.mark.parametrize("where", ["header", "pixels"])
def test_a_damaged_product_is_left_out_and_said(tmp_path: Path, where: str) -> None:
    noise = np.random.default_rng(0).integers(0, 200, (SIDE, SIDE))
    folder = write_map(tmp_path / "map", noise % 3, confidence=noise, entropy=noise)
    if where == "pixels":
        as_cog(folder / "confidence.tif")
    whole = (folder / "confidence.tif").read_bytes()
    cut(folder / "confidence.tif", 0.6)
    view = shown(find_subjects(folder)).view
    assert [one.id for one in view.layers] == ["class_map", "entropy"]
    assert view.places[0].id == "uncertain"
    assert "confidence.tif' cannot be" in view.notes[-1]
    assert "cannot be written" not in view.notes[-1]
    (folder / "confidence.tif").write_bytes(whole)
    assert [one.id for one in shown(find_subjects(folder)).view.layers][1] == "confidence"


def test_a_map_that_is_damaged_as_it_lies_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path / "data")
    noise = np.random.default_rng(0).integers(0, 3, (SIDE, SIDE))
    folder = write_map(tmp_path / "map", noise, confidence=noise * 80)
    as_cog(folder / "class_map.tif")
    cut(folder / "class_map.tif", 0.7)
    view = shown(find_subjects(folder, scenes=[f"{manifest}#a"])).view
    assert [one.id for one in view.layers[:4]] == ["photo", "radar", "heights", "class_map"]
    assert [entry.pixels for entry in view.classes] == [None] * 3
    (places,) = view.places
    assert "mapped as" not in places.places[0].text
    told = [note.partition(" ")[0] for note in view.notes if "class_map.tif' cannot be" in note]
    assert told == ["Difference", "areas", "values", "classes"]
    assert not any("cannot be written" in note for note in view.notes)


def test_without_its_damaged_map_the_scene_is_shown(tmp_path: Path) -> None:
    side = 1200  # no overviews: it is copied
    noise = np.random.default_rng(0).integers(0, 3, (side, side))
    folder = write_map(tmp_path / "map", noise, confidence=noise)
    as_cog(folder / "class_map.tif", overviews="none")
    cut(folder / "class_map.tif", 0.7)
    view = shown(find_subjects(folder)).view
    assert [one.id for one in view.layers] == ["confidence"]
    assert (view.why, view.places) == (None, ())
    assert any(note.startswith("Class map cannot be shown: ") for note in view.notes)
    (folder / "confidence.tif").unlink()
    with pytest.raises(DataError, match=r"nothing of 'map' can be shown: .*class_map\.tif"):
        shown(find_subjects(folder))


def test_numbers_that_are_not_drawn_are_said(tmp_path: Path) -> None:
    folder = write_map(tmp_path / "map", np.zeros((SIDE, SIDE)))
    write(folder / "entropy.tif", np.zeros((1, SIDE, SIDE), np.complex64), "utm")
    view = shown(find_subjects(folder)).view
    assert [one.id for one in view.layers] == ["class_map"]
    assert view.notes[-1] == (
        "entropy.tif cannot be shown: it holds complex64, and only real numbers are drawn"
    )


def test_values_beyond_the_classes_are_said(tmp_path: Path) -> None:
    classes = np.zeros((SIDE, SIDE))
    classes[:, :48] = 77
    classes[:, 48:96] = 255
    folder = write_map(tmp_path / "map", classes)
    (note,) = (n for n in shown(find_subjects(folder)).view.notes if "none of its classes" in n)
    assert note == (
        "the map has values that are none of its classes: 77 (33.3% of its pixels); they are not "
        "drawn"
    )


def test_pixels_that_were_abstained_from_are_in_the_legend(tmp_path: Path) -> None:
    classes = np.zeros((SIDE, SIDE))
    classes[:3] = 254
    folder = write_map(tmp_path / "map", classes)
    with rasterio.open(folder / "class_map.tif", "r+") as dataset:
        dataset.update_tags(abstained="254")
    view = shown(find_subjects(folder)).view
    assert [(c.name, c.value, c.pixels) for c in view.classes[3:]] == [("abstained", 254, 3 * SIDE)]
    assert not any("none of its classes" in note for note in view.notes)


def test_numbers_too_large_to_be_squared(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path)
    values = np.random.default_rng(0).normal(size=(4, SIDE, SIDE)) * 1e200
    write(tmp_path / "photo.tif", values, "utm")
    photo = layer_of(shown(find_subjects(manifest)).view, "photo")
    assert photo.components is None
    assert photo.bands[0].most == pytest.approx(values[0].max())


def test_truth_has_the_values_of_the_map(tmp_path: Path) -> None:
    """Which are no indices where a map has other values, in another order."""
    manifest = make_scene(tmp_path / "data")
    with rasterio.open(tmp_path / "data" / "labels.tif", "r+") as labels:
        codes = labels.read(1)
        truth = codes // 10
        codes[5, 5:9] = 255  # nobody knows whether the map is wrong there
        labels.write(codes, 1)
    values = np.array([7, 3, 5], np.uint8)  # of sea, wet land, ice
    mapped = values[truth]
    mapped[0, :2] = 3 if truth[0, 0] != 1 else 5
    tags = {
        NAMES_TAG: json.dumps(["wet land", "ice", "sea"]),
        VALUES_TAG: json.dumps([3, 5, 7]),
    }
    write(tmp_path / "map" / "class_map.tif", mapped[None], "utm", nodata=255, tags=tags)
    found = shown(find_subjects(tmp_path / "map", scenes=[f"{manifest}#a"]))
    shown_truth = values_of(found, "truth")[0]
    assert np.isnan(shown_truth[5, 5:9]).all()
    assert np.array_equal(shown_truth[codes != 255], values[truth][codes != 255])
    difference = values_of(found, "difference")[0]
    assert [int((difference == value).sum()) for value in (1, 2)] == [SIDE * SIDE - 6, 2]
