"""Trees of folders that nobody has described: splits above and below, names that differ, lists."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import published_sets as published
from terrafuse.errors import DataError, LabelError
from terrafuse.layouts import describe, recognise_layout, summarise

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
CODES = np.resize(np.array([0, 1, 2], np.uint8), (1, published.HEIGHT, published.WIDTH))


def make(root: Path, *paths: str) -> Path:
    """Labels where the path says so, else images of three bands; heights of one."""
    for path in paths:
        low = path.lower()
        truth = any(word in low for word in ("label", "ann", "sem", "mask"))
        one = "ndsm" in low or "dem" in low
        published.save(root / path, CODES if truth else published.numbers(1 if one else 3))
    return root


def scenes(values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Everything but the id by id."""
    return {s["id"]: {k: v for k, v in s.items() if k != "id"} for s in values["scenes"]}


#: Files → scenes as the manifest must have them.
TREES: dict[str, tuple[list[str], dict[str, dict[str, str]]]] = {
    "modality above split": (
        ["img_dir/train/a.png", "img_dir/val/b.png", "ann_dir/train/a.png", "ann_dir/val/b.png",
         "dem_dir/train/a.tif", "dem_dir/val/b.tif"],
        {"a": {"split": "train", "dem_dir": "dem_dir/train/a.tif",
               "img_dir": "img_dir/train/a.png", "labels": "ann_dir/train/a.png"},
         "b": {"split": "val", "dem_dir": "dem_dir/val/b.tif", "img_dir": "img_dir/val/b.png",
               "labels": "ann_dir/val/b.png"}},
    ),
    "capital letters": (
        [f"{s}/{m}/{n}.tif" for s, n in (("Train", "p"), ("Test", "q"))
         for m in ("RGB", "NDSM", "SEM")],
        {"p": {"split": "train", "ndsm": "Train/NDSM/p.tif", "rgb": "Train/RGB/p.tif",
               "labels": "Train/SEM/p.tif"},
         "q": {"split": "test", "ndsm": "Test/NDSM/q.tif", "rgb": "Test/RGB/q.tif",
               "labels": "Test/SEM/q.tif"}},
    ),
    "deeper splits in a folder of the archive": (
        [f"set/set/{s}/{p}/{m}/7.png" for s in ("Train", "Val") for p in ("Urban", "Rural")
         for m in ("images_png", "masks_png")],
        {f"{split}_{place}_7": {"split": split,
                                "images_png": f"set/set/{s}/{place}/images_png/7.png",
                                "labels": f"set/set/{s}/{place}/masks_png/7.png"}
         for s, split in (("Train", "train"), ("Val", "val")) for place in ("Rural", "Urban")},
    ),
    "prefixes in folders": (
        ["images/Image_0.tif", "images/Image_12.tif", "gt/Label_0.tif", "gt/Label_12.tif"],
        {"0": {"images": "images/Image_0.tif", "labels": "gt/Label_0.tif"},
         "12": {"images": "images/Image_12.tif", "labels": "gt/Label_12.tif"}},
    ),
    "suffixes in folders": (
        ["top/area_1_RGB.tif", "top/area_2_RGB.tif", "gt/area_1_label.png", "gt/area_2_label.png"],
        {"1": {"top": "top/area_1_RGB.tif", "labels": "gt/area_1_label.png"},
         "2": {"top": "top/area_2_RGB.tif", "labels": "gt/area_2_label.png"}},
    ),
    "prefixes without folders": (
        ["train/Image_0.tif", "train/Label_0.tif", "test/Image_0.tif", "test/Label_0.tif"],
        {"train_0": {"split": "train", "image": "train/Image_0.tif",
                     "labels": "train/Label_0.tif"},
         "test_0": {"split": "test", "image": "test/Image_0.tif", "labels": "test/Label_0.tif"}},
    ),
    "suffixes without folders": (
        ["x_1.tif", "x_1_label.png", "y.tif", "y_label.png"],
        {"x_1": {"image": "x_1.tif", "labels": "x_1_label.png"},
         "y": {"image": "y.tif", "labels": "y_label.png"}},
    ),
    "suffixes of several modalities": (
        [f"{n}_{m}.tif" for n in ("a_1", "b_2") for m in ("rgb", "dem", "mask")],
        {n: {"dem": f"{n}_dem.tif", "rgb": f"{n}_rgb.tif", "labels": f"{n}_mask.tif"}
         for n in ("a_1", "b_2")},
    ),
    "splits in names of folders": (
        ["train_images/a.tif", "train_masks/a.tif", "test_images/b.tif", "test_masks/b.tif",
         "test_masks_eroded/b.tif"],
        {"a": {"split": "train", "images": "train_images/a.tif", "labels": "train_masks/a.tif"},
         "b": {"split": "test", "images": "test_images/b.tif", "labels": "test_masks/b.tif",
               "labels_eroded": "test_masks_eroded/b.tif"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_trees(name: str, tmp_path: Path) -> None:
    files, wanted = TREES[name]
    root = make(tmp_path, *files)
    assert recognise_layout(root).layout == "folder"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        values = describe(root, "folder")
    assert scenes(values) == wanted
    assert [item["code"] for item in values["classes"]] == [0, 1, 2]
    told = summarise(values, root)
    assert not [line for line in told if line.startswith("ignored")]
    assert any(line.startswith(f"for instance scene '{next(iter(wanted))}': ") for line in told)


def test_kinds_by_names(tmp_path: Path) -> None:
    root = make(tmp_path, *TREES["capital letters"][0])
    kinds = {n: m["kind"] for n, m in describe(root, "folder")["modalities"].items()}
    assert kinds == {"rgb": "optical", "ndsm": "elevation"}


def test_lists_beside_folders(tmp_path: Path) -> None:
    root = make(tmp_path, *(f"{m}/{n}.tif" for m in ("rgb", "labels") for n in "abcd"))
    (root / "Train.txt").write_text("rgb/a.tif labels/a.tif\nb\n\n")
    (root / "val.txt").write_text("c.tif\nz.tif\n")
    (root / "readme.txt").write_text("d\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        values = describe(root, "folder")
    assert {id: s.get("split") for id, s in scenes(values).items()} == {
        "a": "train", "b": "train", "c": "val", "d": None,
    }  # fmt: skip
    told = [str(item.message) for item in caught if "geotransform" not in str(item.message)]
    assert told == [
        f"1 of 2 names in '{root / 'val.txt'}' match no scene with labels: z.tif",
        "1 scenes are in no list and have no split: d",
    ]
    (root / "val.txt").write_text("a\n")
    with pytest.raises(DataError, match="scene 'a' is listed in 'train' and 'val'"):
        describe(root, "folder")


def test_lists_count_more_than_folders(tmp_path: Path) -> None:
    root = make(tmp_path, *(f"train/{m}/{n}.tif" for m in ("rgb", "labels") for n in "ab"))
    (root / "val.txt").write_text("b\n")
    told = r"1 scenes lie in folders of another split .*'train/labels/b\.tif', listed in 'val'"
    with pytest.warns(UserWarning, match=told):
        values = describe(root, "folder")
    assert {id: s["split"] for id, s in scenes(values).items()} == {"a": "train", "b": "val"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["rgb/c.tif"], r"1 images without labels are ignored: rgb/c\.tif"),
        (["labels/c.tif"], r"1 labels without an image are ignored: labels/c\.tif"),
        (["labels_rgb/a.tif"], r"'labels'; 'labels_rgb' look like labels too, .* -O labels="),
        (["masks/a.tif", "masks/b.tif"], r"taken from 'labels'; 'masks' look like labels too"),
        (["notes/q.tif"], r"no file of 'notes' has the name of a label, for instance 'notes/q"),
        (["train_val/rgb/a.tif"], r"1 rasters in folders such as 'train_val/rgb' repeat others"),
    ],
)
def test_what_is_left_aside_is_told(tmp_path: Path, more: list[str], told: str) -> None:
    files = [f"{m}/{n}.tif" for m in ("rgb", "labels") for n in "ab"]
    root = make(tmp_path, *files, *more)
    with pytest.warns(UserWarning, match=told):
        values = describe(root, "folder")
    assert list(scenes(values)) == ["a", "b"]
    assert list(values["modalities"]) == ["rgb"]
    folder = more[0].rpartition("/")[0]
    assert summarise(values, root)[-1] == f"ignored: {len(more)} in '{folder}'"


def test_only_eroded_labels(tmp_path: Path) -> None:
    root = make(tmp_path, "rgb/a.tif", "labels_eroded/a.tif")
    with pytest.warns(UserWarning, match="there are only labels without boundaries"):
        values = describe(root, "folder")
    assert scenes(values)["a"]["labels"] == "labels_eroded/a.tif"


def test_sizes_that_differ(tmp_path: Path) -> None:
    root = make(tmp_path, *(f"{m}/{n}.tif" for m in ("rgb", "labels") for n in "abc"))
    published.save(root / "rgb/b.tif", published.numbers(3, shape=(5, 12)))
    with pytest.raises(DataError) as caught:
        describe(root, "folder")
    text = str(caught.value)
    assert "in 1 scenes of" in text
    assert "  b: rgb 12 × 5, labels 12 × 10 ('rgb/b.tif')" in text
    # Images of half the pixels all over are of another scale, and no fault.
    for name in "abc":
        published.save(root / f"rgb/{name}.tif", published.numbers(3, shape=(5, 6)))
    assert describe(root, "folder")["modalities"]["rgb"]["scale"] == 2.0


def test_options_find_folders_at_any_place(tmp_path: Path) -> None:
    root = make(tmp_path, *TREES["modality above split"][0])
    values = describe(root, "folder", optical="img_dir", labels="ann_dir")
    assert list(values["modalities"]) == ["optical"]
    assert scenes(values)["b"]["optical"] == "img_dir/val/b.png"
    published.save(root / "other/q.tif", published.numbers(1))
    refused = r"no file of 'sar' has the name of a label, for instance 'other/q\.tif'"
    with pytest.raises(DataError, match=refused):
        describe(root, "folder", optical="img_dir", sar="other")
    with pytest.raises(LabelError, match="no folder of labels"):
        describe(make(tmp_path / "x", "rgb/a.tif", "sar/a.tif"), "folder")


def test_the_command_tells_what_it_took(
    tmp_path: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    root = make(tmp_path / "copy", *TREES["prefixes in folders"][0], "extra.tif")
    out = tmp_path / "dataset.yaml"
    code, said, message = command_line("data", "describe", root, "-o", out)
    assert code == 0, message
    assert said.splitlines() == [
        "recognised: no published data set; folders of rasters (layout 'folder')",
        "images: 2 scenes: 2 in 'images'",
        "labels: 2 scenes: 2 in 'gt'",
        "for instance scene '0': images 'images/Image_0.tif', labels 'gt/Label_0.tif'",
        "ignored: 1 in '.'",
        f"wrote {out}: images; scenes: 2, in no split yet ('terrafuse data split' draws one)",
    ]
    assert re.search(r"root: copy", out.read_text())
    out.unlink()
    code, said, message = command_line("data", "describe", root, "-o", out, "-O", "labels=gt")
    assert code == 0, message
    assert said.startswith("read as folders (layout 'folder'), as the option 'labels' implies")
