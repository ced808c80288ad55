"""Copies that are mixed up or half there: what is wrong is named, with ids, and what would help."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import published_sets as published
from terrafuse.data import load_manifest, write_manifest
from terrafuse.errors import DataError, LabelError, UnknownNameError
from terrafuse.layouts import describe, recognise_layout, summarise
from terrafuse.layouts.facts import read_facts

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pixels .width × height"),
    pytest.mark.filterwarnings("ignore:.*sizes differ by up to 2 pixels in scenes 3_13"),
    pytest.mark.filterwarnings("ignore:.*the rest has no data"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
VAIHINGEN = "ISPRS_semantic_labeling_Vaihingen"


def test_two_sets_in_one_folder(tmp_path: Path) -> None:
    published.make_whu(tmp_path)
    published.make_potsdam(tmp_path, ids=["2_10", "2_13"])
    with pytest.raises(DataError) as caught:
        recognise_layout(tmp_path)
    text = str(caught.value)
    assert f"'{tmp_path}' holds several data sets: WHU-OPT-SAR (layout 'whu-opt-sar': 100 " in text
    assert "'lbl/NH49E001013.tif') and ISPRS Potsdam (layout 'potsdam': 4 labels, for" in text
    assert text.endswith("ignored: --layout whu-opt-sar or --layout potsdam")
    values = describe(tmp_path, "whu-opt-sar")
    assert len(values["scenes"]) == 100
    left = summarise(values, tmp_path)[-1]
    assert left.startswith("ignored: 2 in '1_DSM', 2 in '1_DSM_normalisation', ")


def test_labels_of_two_sets_on_the_same_images(tmp_path: Path) -> None:
    ids = published.gid_ids()[:4]
    published.make_gid_on_billions(tmp_path, 5, labels="GID5/Annotation__index", ids=ids)
    published.make_gid_on_billions(tmp_path, 24, ids=ids)
    told = r"labels of several data sets on the same images: GID-5 .*_5label\.png'\) and Five-Bil"
    with pytest.raises(DataError, match=told + r".*: --layout gid-5 or --layout five-billion-pix"):
        recognise_layout(tmp_path)
    with pytest.warns(UserWarning, match="4 of 150 scenes"):
        values = describe(tmp_path, "gid-5", incomplete="allow")
    assert summarise(values, tmp_path)[-1] == "ignored: 4 in 'Annotation__index'"
    for folder in ("GID5", "Annotation__index"):
        shutil.rmtree(tmp_path / folder)
    told = "holds images that several data sets have, and labels of none: GID-5 .*layout gid-15 or"
    with pytest.raises(DataError, match=told):
        recognise_layout(tmp_path)


def test_chips_beside_sheets(tmp_path: Path) -> None:
    published.make_whu(tmp_path)
    published.make_whu_chips(tmp_path / "cut", published.whu_ids()[:2], divisor=1)
    with pytest.warns(UserWarning, match="are present too, and are ignored; .* -O form=chips"):
        values = describe(tmp_path, "whu-opt-sar")
    assert values["scenes"][0]["optical"] == "optical/NH49E001013.tif"
    with (
        pytest.warns(UserWarning, match="each piece is in the split of the scene it was cut out"),
        pytest.warns(UserWarning, match="6 of 29400 scenes are there"),
    ):
        values = describe(tmp_path, "whu-opt-sar", form="chips", incomplete="allow")
    assert len(values["scenes"]) == 6
    with pytest.raises(DataError, match="-O form=chip is not known; allowed are scenes, chips"):
        describe(tmp_path, "whu-opt-sar", form="chip")


def test_chips_without_folders_have_no_split_of_folders(tmp_path: Path) -> None:
    ids = published.whu_ids()[:3]
    root = published.make_whu_chips(tmp_path, ids, divisor=1, folders=False)
    (root / f"crop/sar/{ids[1]}_2.tif").unlink()
    with pytest.raises(UnknownNameError, match="unknown split of layout 'whu-opt-sar' 'folders'"):
        describe(root, "whu-opt-sar", split="folders")
    with pytest.raises(DataError, match=rf"sar: 8 of 9 scenes .*; without {ids[1]}_2\n"):
        describe(root, "whu-opt-sar")


def test_pieces_of_one_scene_in_several_splits_are_told(tmp_path: Path) -> None:
    root = published.make_whu_chips(tmp_path, published.whu_ids()[:3], divisor=1)
    with (
        pytest.warns(UserWarning, match="3 of 3 scenes have pieces in several splits"),
        pytest.warns(UserWarning, match="9 of 29400 scenes are there"),
    ):
        describe(root, "whu-opt-sar", split="folders", incomplete="allow")


def test_the_split_that_is_complete_is_named(tmp_path: Path) -> None:
    """With the participants' labels of Vaihingen, those of SSRS can be scored."""
    root = published.make_vaihingen(tmp_path)
    for end in ("COMPLETE", "eroded_COMPLETE"):
        shutil.rmtree(root / f"{VAIHINGEN}_ground_truth_{end}")
    with pytest.raises(DataError) as caught:
        describe(root, "vaihingen")
    text = str(caught.value)
    assert "labels: 16 of 33 scenes; without 2, 4, 6, 8, 10, 12, 14, 16 and 9 more" in text
    named = "-O split=ssrs or -O split=ssrs-val or -O split=pagnet"
    assert f"\nComplete in this copy: {named}. Download the rest, or continue" in text
    assert len(describe(root, "vaihingen", split="ssrs")["scenes"]) == 16
    assert len(describe(root, "vaihingen", split="pagnet")["scenes"]) == 15


def test_the_modalities_that_are_complete_are_named(tmp_path: Path) -> None:
    root = published.make_geoseg_vaihingen(tmp_path)
    with pytest.raises(DataError, match=r"Complete in this copy: -O modalities=irrg\. Download"):
        describe(root, "vaihingen")
    assert len(describe(root, "vaihingen", modalities="irrg")["scenes"]) == 33


def test_the_fifteen_scenes_are_named(tmp_path: Path) -> None:
    fifteen = read_facts("gid-5").more["fifteen"]
    root = published.make_gid_on_billions(tmp_path, 5, ids=fifteen)
    with pytest.raises(DataError, match="Complete in this copy: -O split=fifteen"):
        describe(root, "gid-5")


@pytest.mark.parametrize(
    ("layout", "make", "folders"),
    [
        ("whu-opt-sar", published.make_whu, ["lbl"]),
        ("vaihingen", published.make_vaihingen,
         [f"{VAIHINGEN}_ground_truth_COMPLETE", f"{VAIHINGEN}_ground_truth_eroded_COMPLETE",
          f"{VAIHINGEN}/gts_for_participants"]),
        ("potsdam", published.make_potsdam,
         ["5_Labels_all", "5_Labels_for_participants", "5_Labels_all_noBoundary"]),
        ("gid-5", published.make_gid5, ["Large-scale Classification_5classes/label_5classes"]),
        ("mmhunan", published.make_hunan,
         [f"Hunan_Dataset/{split}/lc" for split in ("train", "val", "test")]),
        ("sen1floods11", published.make_floods, ["v1.1/data/flood_events/HandLabeled/LabelHand"]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*scenes go into the manifest")
def test_no_manifest_without_any_label(
    layout: str, make: Callable[[Path], Path], folders: list[str], tmp_path: Path
) -> None:
    root = make(tmp_path)
    for folder in folders:
        shutil.rmtree(root / folder)
    with pytest.raises(DataError, match=r"no label of .* a manifest without any is of no use"):
        describe(root, layout, incomplete="allow")


def test_scenes_to_leave_out(tmp_path: Path) -> None:
    root = published.make_potsdam(tmp_path)
    scenes = describe(root, "potsdam", without="4_12, 7_7")["scenes"]
    assert len(scenes) == 35
    assert not {"4_12", "7_7"} & {scene["id"] for scene in scenes}
    with pytest.raises(UnknownNameError, match=r"-O without: .*'4_21'\. Did you mean '4_1"):
        describe(root, "potsdam", without="4_21")


def test_scripts_that_stopped_halfway(tmp_path: Path) -> None:
    root = published.make_hunan_renamed(tmp_path, per_split=2)
    path = next((root / "Hunan_Dataset/val/lc").iterdir())
    published.save(path, np.full((1, published.HEIGHT, published.WIDTH), -1, np.int8))
    told = rf"label \d+ holds raw codes, label {path.stem} those of MFNet's script \(int8"
    with pytest.raises(LabelError, match=told):
        describe(root, "mmhunan", incomplete="allow")


def test_conventions_of_remapped_labels(tmp_path: Path) -> None:
    """5 and 6 are impervious and bare to MFNet, the other way round in the data's readme."""
    root = published.make_hunan_mfnet(tmp_path)
    names = {}
    for convention in ("mfnet", "original"):
        with (
            pytest.warns(UserWarning, match="12 scenes go into the manifest"),
            pytest.warns(UserWarning, match="'sound' is its own list"),
        ):
            values = describe(root, "mmhunan", classes=convention, incomplete="allow")
        names[convention] = [item["name"] for item in values["classes"]][5:]
        manifest = load_manifest(write_manifest(values, tmp_path / f"{convention}.yaml"))
        scene = manifest.scenes("test")[0]
        labels = scene.read_labels(scene.full_window)
        assert labels.ravel()[:8].tolist() == [255, 0, 1, 2, 3, 4, 5, 6]
    assert names["mfnet"] == ["built-up area", "unused land"]
    assert names["original"] == ["unused land", "built-up area"]
    with pytest.raises(UnknownNameError, match="unknown split of layout 'mmhunan' 'official'"):
        describe(root, "mmhunan", split="official", incomplete="allow")


def test_unknown_colours_become_what_is_said_and_are_counted(
    tmp_path: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    root = published.make_potsdam(tmp_path / "copy")
    path = root / "5_Labels_for_participants/top_potsdam_2_10_label.tif"
    colors = published.colored(np.full((10, 12), 4, np.uint8), published.ISPRS)
    colors[0, :, :3] = 252
    published.save(path, colors)
    out = tmp_path / "dataset.yaml"
    words = ("data", "describe", root, "--layout", "potsdam", "-o", out)
    code, said, message = command_line(*words, "-O", "unknown=impervious surface")
    assert code == 0, message
    assert (
        "labels of scene '2_10': 30 px of 1 value outside the class scheme became class "
        "'impervious surface': #fcff00 (30 px)"
    ) in said
    scene = load_manifest(out).scene("2_10")
    assert (scene.read_labels(scene.full_window)[:, :3] == 0).all()
    with pytest.raises(UnknownNameError, match=r"'impervious'\. Did you mean 'impervious surface'"):
        describe(root, "potsdam", unknown="impervious")


def test_lists_beside_a_published_set_are_told(tmp_path: Path) -> None:
    root = published.make_whu(tmp_path)
    (root / "train.txt").write_text("NH49E001013\n")
    with pytest.warns(UserWarning, match=r"lists train\.txt in .* are ignored; .* -O split=NAME"):
        describe(root, "whu-opt-sar")


def test_names_of_both_recognised_general_layouts(tmp_path: Path) -> None:
    forests = recognise_layout(published.make_forests(tmp_path / "forests"))
    assert forests.layout == "forests"
    assert "--layout folder reads it too" in forests.reason
    published.save(tmp_path / "lists/a.tif", published.numbers(1))
    (tmp_path / "lists/rasters.csv").write_text("scene,modality,path\na,sar,a.tif\n")
    (tmp_path / "lists/notes.csv").write_text("scene,remark\na,none\n")
    items = recognise_layout(tmp_path / "lists")
    assert (items.layout, items.reason) == (
        "items",
        "the list 'rasters.csv' of rasters (layout 'items')",
    )
