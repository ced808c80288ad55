"""Incomplete, damaged and differently unpacked copies of published data sets."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import published_sets as published
from terrafuse.data import load_manifest, write_manifest
from terrafuse.errors import BandError, DataError, LabelError, UnknownNameError
from terrafuse.layouts import describe

pytestmark = pytest.mark.filterwarnings("ignore:.*pixels .width × height")


@pytest.fixture
def sheets(tmp_path: Path) -> Path:
    return published.make_whu(tmp_path / "copy")


def test_what_is_missing_is_counted_by_series_and_named(tmp_path: Path) -> None:
    ids = [id for id in published.whu_ids() if id.startswith("NH49E")][:52]
    root = published.make_whu(tmp_path, ids)
    (root / "sar" / f"{ids[3]}.tif").unlink()
    with pytest.raises(DataError) as caught:
        describe(root, "whu-opt-sar")
    text = str(caught.value)
    assert re.search(
        r"optical: 52 of 100 scenes \(NH49E 52 of 59, NH50E 0 of 27, NI49E 0 of 14\); "
        r"without NH49E01",
        text,
    )
    assert "sar: 51 of 100 scenes" in text
    assert ids[3] in text.split("sar:")[1].split("\n")[0]
    assert "and 41 more" in text
    assert f"Looked below '{root}', at any depth, for optical in 'optical', 'image'" in text
    assert "Copies with about fifty sheets NH49E" in text
    assert text.endswith("continue with what is there: -O incomplete=allow")


def test_carrying_on_leaves_out_what_is_not_there(sheets: Path) -> None:
    first, second, third = published.whu_ids()[:3]
    for path in (f"sar/{first}.tif", f"lbl/{second}.tif", f"optical/{third}.tif"):
        (sheets / path).unlink()
    with pytest.warns(UserWarning, match="is not complete; 100 scenes go into the manifest"):
        values = describe(sheets, "whu-opt-sar", incomplete="allow")
    assert {n: m.get("required", True) for n, m in values["modalities"].items()} == {
        "optical": False,
        "sar": False,
    }
    scenes = {scene["id"]: scene for scene in values["scenes"]}
    assert "sar" not in scenes[first]
    assert "labels" not in scenes[second]
    manifest = load_manifest(write_manifest(values, sheets / "dataset.yaml"))
    assert manifest.scene(first).missing == {"sar"}
    assert manifest.scene(third).missing == {"optical"}


def test_a_modality_that_is_altogether_absent_is_left_out(sheets: Path) -> None:
    for path in (sheets / "optical").iterdir():
        path.unlink()
    with pytest.warns(UserWarning, match="optical: 0 of 100 scenes"):
        values = describe(sheets, "whu-opt-sar", incomplete="allow")
    assert list(values["modalities"]) == ["sar"]
    assert values["grid"] == "sar"
    assert load_manifest(write_manifest(values, sheets / "dataset.yaml")).scenes("val")


def test_files_that_cannot_be_opened_count_as_missing(sheets: Path) -> None:
    first, second = published.whu_ids()[:2]
    (sheets / f"optical/{first}.tif").write_text("<html>Sign in to download</html>")
    (sheets / f"sar/{second}.tif").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        describe(sheets, "whu-opt-sar")
    text = str(caught.value)
    assert re.search(rf"  optical: '.*{first}\.tif' cannot be opened as a raster", text)
    assert f"  sar: 'sar/{second}.tif' is empty" in text
    with pytest.warns(UserWarning, match="is not complete"):
        values = describe(sheets, "whu-opt-sar", incomplete="allow")
    assert "optical" not in values["scenes"][0]


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_sizes_that_differ(sheets: Path, columns: int) -> None:
    id = published.whu_ids()[4]
    narrow = np.full((1, published.HEIGHT, published.WIDTH - columns), 10, np.uint8)
    published.save(sheets / f"lbl/{id}.tif", narrow)
    if columns > 2:
        shown = rf"scene {id}: sizes differ \(width × height\): optical 12 × 10, sar 12 × 10, "
        with pytest.raises(DataError, match=shown + "labels 9 × 10"):
            describe(sheets, "whu-opt-sar")
        with pytest.warns(UserWarning, match="99 scenes go into the manifest"):
            describe(sheets, "whu-opt-sar", incomplete="allow")
        return
    with pytest.warns(UserWarning, match=f"differ by up to 2 pixels in scenes {id}"):
        values = describe(sheets, "whu-opt-sar")
    scene = load_manifest(write_manifest(values, sheets / "dataset.yaml"))
    with pytest.warns(UserWarning, match="the rest has no data"):
        opened = scene.scene(id)
    labels = opened.read_labels(opened.grid.window)
    assert labels.shape == (published.HEIGHT, published.WIDTH)
    assert (labels[:, :-columns] == 0).all()
    assert (labels[:, -columns:] == 255).all()


def test_sizes_other_than_published_are_told(tmp_path: Path) -> None:
    root = published.make_whu(tmp_path)
    id = published.whu_ids()[0]
    published.save(root / f"sar/{id}.tif", published.numbers(1, "uint16"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        describe(root, "whu-opt-sar")
    told = [str(item.message) for item in caught if "published" in str(item.message)]
    assert told[0] == (
        "WHU-OPT-SAR: optical: pixels (width × height) 12 × 10 in 100 of 100 files; "
        "published: 5556 × 3704"
    )
    assert "WHU-OPT-SAR: sar: values uint16 in 1 of 100 files; published: uint8" in told


def test_other_ways_to_unpack(tmp_path: Path) -> None:
    """An archive in folders of its own name, other upload, other case, and junk beside files."""
    root = published.make_whu(tmp_path / "a/whu-opt-sar/whu-opt-sar", optical="image")
    top = tmp_path / "a/whu-opt-sar/whu-opt-sar"
    first, second = published.whu_ids()[:2]
    (top / f"image/{first}.tif").rename(top / f"image/{first.lower()}.TIF")
    for name in (f"._{second}.tif", f"{second}.tif.aux.xml", f"{second}.tfw", "Thumbs.db"):
        (top / "image" / name).write_text("junk")
    (tmp_path / "a/__MACOSX/image").mkdir(parents=True)
    (tmp_path / f"a/__MACOSX/image/{second}.tif").write_text("junk")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*pixels .width × height|Dataset has no geotransform")
        values = describe(tmp_path / "a", "whu-opt-sar")
    assert len(values["scenes"]) == 100
    assert values["scenes"][0]["id"] == first
    assert values["scenes"][0]["optical"] == f"whu-opt-sar/whu-opt-sar/image/{first.lower()}.TIF"
    assert root == top


def test_folders_and_files_that_must_not_be_used(sheets: Path) -> None:
    id = published.whu_ids()[0]
    for folder in ("prediction", "intro/lbl"):
        published.save(sheets / folder / f"{id}.tif", published.numbers(1))
    published.save(sheets / "optical/overview.png", published.numbers(3))
    published.save(sheets / f"sar/{id}.tiff", published.numbers(1))
    published.save(sheets / f"sar/{id.lower()}.tif", published.numbers(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        values = describe(sheets, "whu-opt-sar")
    told = "\n".join(str(item.message) for item in caught)
    assert "folder 'prediction' is ignored: it holds a network's predictions, not labels" in told
    assert "folder 'intro/lbl' is ignored: it holds labels of an older upload" in told
    assert "rasters whose names match no published file are ignored: 1, " in told
    assert "'optical/overview.png'" in told
    assert f"two files of 'sar' each for scenes {id} (1 in all); the first by name is" in told
    assert values["scenes"][0]["labels"] == f"lbl/{id}.tif"


def test_label_codes_divided_by_ten(tmp_path: Path) -> None:
    root = published.make_whu(tmp_path, divisor=10)
    with pytest.warns(UserWarning, match=r"hold the codes 1, 2, .*: those published, divided by"):
        values = describe(root, "whu-opt-sar")
    assert [item["code"] for item in values["classes"]] == list(range(1, 8))
    assert describe(root, "whu-opt-sar", codes="ones")["classes"] == values["classes"]
    with pytest.raises(LabelError, match=r"hold the codes 1, 2, .* -O codes=tens is given\. Omit"):
        describe(root, "whu-opt-sar", codes="tens")
    published.make_whu(tmp_path, published.whu_ids()[50:])
    with pytest.raises(
        LabelError, match=r"hold the codes 10, 20, .* hold the codes 1, 2, .* two sets of labels"
    ):
        describe(root, "whu-opt-sar")
    published.make_whu(tmp_path)
    with pytest.raises(LabelError, match=r"hold the codes 10, 20, .* -O codes=ones is given"):
        describe(root, "whu-opt-sar", codes="ones")


def test_labels_unpacked_over_images(tmp_path: Path) -> None:
    root = published.make_vaihingen(tmp_path)
    name = "top_mosaic_09cm_area3.tif"
    truth = root / "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE" / name
    (root / "ISPRS_semantic_labeling_Vaihingen/top" / name).write_bytes(truth.read_bytes())
    with pytest.raises(DataError, match="1 images have no more than 7 colours, as labels do"):
        describe(root, "vaihingen")


def test_flat_archives_of_vaihingen(tmp_path: Path) -> None:
    """Other readers want full labels beside the folder of images."""
    root = published.make_vaihingen(tmp_path)
    name = "ISPRS_semantic_labeling_Vaihingen"
    for folder in (f"{name}_ground_truth_COMPLETE", f"{name}_ground_truth_eroded_COMPLETE"):
        for path in (root / folder).iterdir():
            path.rename(root / name / path.name)
        (root / folder).rmdir()
    for path in (root / name / "gts_for_participants").iterdir():
        path.unlink()
    values = describe(root, "vaihingen")
    assert values["scenes"][0]["labels"] == f"{name}/top_mosaic_09cm_area1.tif"
    assert values["scenes"][0]["labels_eroded"] == f"{name}/top_mosaic_09cm_area1_noBoundary.tif"
    # With the participants' labels alone the official test scenes have none.
    for path in (root / name).glob("top_mosaic*"):
        path.unlink()
    published.make_vaihingen(root, ids=["1", "3"])
    for folder in (f"{name}_ground_truth_COMPLETE", f"{name}_ground_truth_eroded_COMPLETE"):
        for path in (root / folder).iterdir():
            path.unlink()
    with pytest.raises(DataError, match="labels: 2 of 33 scenes; without 2, 4, 5"):
        describe(root, "vaihingen")


def test_normalised_heights_are_taken_where_there_are(tmp_path: Path) -> None:
    root = published.make_vaihingen(tmp_path, ids=["1", "3"])
    for id, rows in (("1", 11), ("3", 10)):
        heights = published.numbers(3, shape=(rows, published.WIDTH))  # grey pictures of 3 bands
        name = f"ndsm/dsm_09cm_matching_area{id}_normalized.jpg"
        published.save(root / name, np.repeat(heights[:1], 3, axis=0))
    with pytest.warns(UserWarning, match="2 scenes go into the manifest"):
        values = describe(root, "vaihingen", incomplete="allow")
    assert values["modalities"]["ndsm"] == {
        "kind": "elevation", "bands": ["height"], "unit": "dm", "read_bands": [1],
    }  # fmt: skip


def test_colours_near_the_legend_are_void_on_request(tmp_path: Path) -> None:
    root = published.make_potsdam(tmp_path)
    path = root / "5_Labels_for_participants/top_potsdam_2_10_label.tif"
    colors = published.colored(np.full((10, 12), 4, np.uint8), published.ISPRS)
    colors[0, :, :3] = 252
    published.save(path, colors)
    with pytest.warns(UserWarning, match="3_13"):
        values = describe(root, "potsdam")
    scene = load_manifest(write_manifest(values, root / "dataset.yaml")).scene("2_10")
    with pytest.raises(LabelError, match=r"#fcff00 \(30 px, 25\.0%, nearly #ffff00\)"):
        scene.read_labels(scene.grid.window)
    with pytest.warns(UserWarning, match="3_13"):
        values = describe(root, "potsdam", void="#FCFF00")
    assert values["void"] == ["#000000", "#fcff00"]
    scene = load_manifest(write_manifest(values, root / "dataset.yaml")).scene("2_10")
    assert (scene.read_labels(scene.grid.window) == 255).sum() == 30
    with pytest.raises(DataError, match="'yellow' is not a colour such as #fcff00"):
        describe(root, "potsdam", void="yellow")


def test_images_with_fewer_bands(tmp_path: Path) -> None:
    images = {id: published.numbers(3) for id in published.whu_ids()}
    root = published.make_whu(tmp_path, images=images)
    with pytest.raises(
        BandError, match=r"has 3 bands, but 4 are published \(blue, green, red, nir\)"
    ):
        describe(root, "whu-opt-sar")
    with pytest.warns(UserWarning, match="The first 4 are read as blue, green, red, nir"):
        describe(root, "whu-opt-sar", modalities="rgb")


def test_colour_pictures_alone_serve_rgb(tmp_path: Path) -> None:
    root = published.make_gid5(tmp_path)
    for path in (tmp_path / "Large-scale Classification_5classes/image_NirRGB").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"nir: 0 of 150 scenes; .*(\n.*)*nir in 'image_NirRGB'"):
        describe(root, "gid-5")
    values = describe(root, "gid-5", modalities="rgb")
    assert values["modalities"]["rgb"]["bands"] == ["red", "green", "blue"]
    assert "read_bands" not in values["modalities"]["rgb"]


def test_scenes_of_a_contest_are_not_gid(tmp_path: Path) -> None:
    root = published.make_gid5(tmp_path)
    name = "GF2_PMS1__20150212_L1A0000647768-MSS1_label.tif"
    top = tmp_path / "Large-scale Classification_5classes"
    published.save(top / "label_5classes" / name, published.numbers(3))
    published.save(top / "label_gray/x.png", published.numbers(1))
    with (
        pytest.warns(UserWarning, match=re.escape(name)),
        pytest.warns(UserWarning, match="of unknown order"),
    ):
        values = describe(root, "gid-5")
    assert len(values["scenes"]) == 150


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"splits": "official"}, UnknownNameError, "Did you mean 'split'"),
        ({"split": "ssr"}, UnknownNameError, "unknown split of layout 'whu-opt-sar' 'ssr'"),
        ({"modalities": "optical,srr"}, UnknownNameError, "Did you mean 'sar'"),
        ({"modalities": "sar,sar"}, DataError, "names no modality, or one twice"),
        ({"modalities": ","}, DataError, "names no modality, or one twice"),
        ({"incomplete": "yes"}, DataError, "allowed are refuse, allow"),
        ({"codes": "one"}, DataError, "allowed are tens, ones"),
    ],
)
def test_options_are_checked(
    tmp_path: Path, options: dict[str, str], error: type[Exception], message: str
) -> None:
    root = published.make_whu(tmp_path, published.whu_ids()[:1])
    with pytest.raises(error, match=message):
        describe(root, "whu-opt-sar", **options)


@pytest.mark.parametrize(
    "layout",
    ["whu-opt-sar", "gid-5", "gid-15", "five-billion-pixels", "vaihingen", "potsdam", "mmhunan",
     "sen1floods11", "ombria", "dfc2020"],
)  # fmt: skip
def test_a_folder_of_something_else(layout: str, tmp_path: Path) -> None:
    published.save(tmp_path / "holidays/beach.png", published.numbers(3))
    with pytest.raises(DataError) as caught:
        describe(tmp_path, layout)
    text = str(caught.value)
    assert "it has none of its files. Looked at any depth for" in text
    assert text.endswith("Folders with rasters: 'holidays'")
    assert not re.search(r"[\\\[\]^?+|]", text.split("Looked at")[1])
