"""`terrafuse data describe`: what the message says to do, done."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import published_sets as published
from remedies import refused, said, warned
from terrafuse.errors import LabelError
from terrafuse.layouts import describe, recognise_layout

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pixels .width × height"),
    pytest.mark.filterwarnings("ignore:.*the rest has no data"),
    pytest.mark.filterwarnings("ignore:.*scenes are in no list"),
    pytest.mark.filterwarnings("ignore:.*sizes differ by up to 2 pixels"),
    pytest.mark.filterwarnings("ignore:.*scenes go into the manifest"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
CODES = np.resize(np.array([0, 1, 2], np.uint8), (1, published.HEIGHT, published.WIDTH))
VAIHINGEN = "ISPRS_semantic_labeling_Vaihingen"


def option(text: str) -> dict[str, str]:
    """The last -O NAME=VALUE of a text."""
    key, value = re.findall(r"-O (\w+)=([\w,.]+)", text)[-1]
    return {key: value}


# Folders that nobody has described


def test_folders_without_labels(tmp_path: Path) -> None:
    for name in ("s2", "truths"):
        published.save(
            tmp_path / name / "a.tif", CODES if name == "truths" else published.numbers(3)
        )
    with refused("layouts.folder:_label_roles | Name it: -O labels=FOLDER"):
        describe(tmp_path, "folder")
    assert list(describe(tmp_path, "folder", labels="truths")["modalities"]) == ["s2"]


def test_folders_without_images(tmp_path: Path) -> None:
    for name in ("labels", "masks"):
        published.save(tmp_path / name / "a.tif", CODES)
    with (
        pytest.warns(UserWarning, match="'masks' look like labels too"),
        refused("layouts.folder:_sort_roles | Name one per modality: -O NAME=FOLDER"),
    ):
        describe(tmp_path, "folder", labels="labels")
    values = describe(tmp_path, "folder", labels="labels", parts="masks")
    assert list(values["modalities"]) == ["parts"]


def test_labels_that_are_images(tmp_path: Path) -> None:
    many = np.arange(400, dtype=np.uint16).reshape(1, 20, 20)
    published.save(tmp_path / "labels" / "a.tif", many)
    published.save(tmp_path / "classes" / "a.tif", many % 3)
    published.save(tmp_path / "s2" / "a.tif", np.ones((3, 20, 20), np.uint8))
    with refused("layouts.codes:find_codes | Choose the folder of labels with -O labels=FOLDER"):
        describe(tmp_path, "folder", s2="s2")
    assert len(describe(tmp_path, "folder", s2="s2", labels="classes")["classes"]) == 3


@pytest.mark.parametrize("way", ["fix", "remove"])
def test_sizes_that_do_not_match(tmp_path: Path, way: str) -> None:
    for name in ("a", "b"):
        published.save(tmp_path / "labels" / f"{name}.png", CODES)
        published.save(tmp_path / "s2" / f"{name}.png", published.numbers(3))
    path = tmp_path / "s2" / "b.png"
    published.save(path, published.numbers(3, shape=(5, 9)))
    name = "layouts.folder:_check_sizes | fix these files, or remove them"
    with refused(name) as error:
        describe(tmp_path, "folder")
    assert error.find(r"\('(s2/.*?)'\)") == "s2/b.png"
    if way == "fix":
        published.save(path, published.numbers(3))
        assert len(describe(tmp_path, "folder")["scenes"]) == 2
    else:
        path.unlink()
        (tmp_path / "labels" / "b.png").unlink()
        assert len(describe(tmp_path, "folder")["scenes"]) == 1


def test_folders_beside_those_of_forests(tmp_path: Path) -> None:
    root = published.make_forests(tmp_path, "SAM")
    published.save(root / "depth/x.png", np.ones((1, 2, 2), np.uint8))
    with refused(
        "layouts.forests:_only_other | Name that of the second modality: -O second=FOLDER"
    ):
        describe(root, "forests")
    assert "sam" in describe(root, "forests", second="SAM")["modalities"]


HEAD = "scene,modality,path,split,kind,bands,unit\n"


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    published.save(tmp_path / "a.tif", published.numbers(3), crs="EPSG:32633")
    published.save(tmp_path / "l.tif", CODES, crs="EPSG:32633")
    (tmp_path / "rasters.csv").write_text(f"{HEAD}a,s2,a.tif,train,,,\n")
    return tmp_path


def test_lists_of_rasters(listed: Path) -> None:
    (listed / "more.json").write_text('{"features": []}')
    with refused("layouts.items:_only_list | Name it: -O file=LIST"):
        describe(listed, "items")
    name = "layouts.items:_classes | Add rows whose modality is 'labels'; with polygons, write the"
    with refused(name, LabelError):
        describe(listed, "items", file="rasters.csv")
    with (listed / "rasters.csv").open("a") as file:
        file.write("a,labels,l.tif,,,,\n")
    assert len(describe(listed, "items", file="rasters.csv")["classes"]) == 3


# Published sets


def test_copies_that_are_not_complete(tmp_path: Path) -> None:
    root = published.make_geoseg_vaihingen(tmp_path)
    with refused("layouts.complete:_ways | Complete in this copy:") as error:
        describe(root, "vaihingen")
    ways = error.find(r"Complete in this copy: (.*?)\. Download")
    assert len(describe(root, "vaihingen", **option(ways))["scenes"]) == 33
    said(
        "layouts.complete:_ways | Download the rest, or continue with what is there: -O", error.text
    )
    values = describe(root, "vaihingen", **option(error.text))
    assert len(values["scenes"]) == 33


@pytest.mark.parametrize("way", ["download", "allow"])
def test_a_copy_that_lacks_a_file(tmp_path: Path, way: str) -> None:
    root = published.make_forests(tmp_path / "f") and published.make_whu(tmp_path / "w")
    lost = root / "sar" / f"{published.whu_ids()[0]}.tif"
    content = lost.read_bytes()
    lost.unlink()
    with refused(
        "layouts.complete:_ways | Download the rest, or continue with what is there: -O"
    ) as e:
        describe(root, "whu-opt-sar")
    if way == "download":
        lost.write_bytes(content)
        describe(root, "whu-opt-sar")
    else:
        describe(root, "whu-opt-sar", **option(e.text))
    with refused("layouts.options:read_options | separated by commas") as error:
        describe(root, "whu-opt-sar", modalities="sar,sar", incomplete="allow")
    names = error.find("choose some of (.*?), separated").split(", ")
    describe(root, "whu-opt-sar", modalities=",".join(names), incomplete="allow")


def test_codes_of_whu(tmp_path: Path) -> None:
    ids = published.whu_ids()
    root = published.make_whu(tmp_path)
    with refused("layouts.whu_opt_sar:_find_codes | is given. Omit the option"):
        describe(root, "whu-opt-sar", codes="ones")
    describe(root, "whu-opt-sar")
    published.make_whu(tmp_path, ids[50:], divisor=10)
    with refused(
        "layouts.whu_opt_sar:_find_codes | two sets of labels are mixed. Keep one of them"
    ):
        describe(root, "whu-opt-sar")
    for id in ids[50:]:
        (root / "lbl" / f"{id}.tif").unlink()
    describe(root, "whu-opt-sar", incomplete="allow")


def test_several_sets_in_one_folder(tmp_path: Path) -> None:
    root = published.make_whu(tmp_path / "both")
    published.make_gid_on_billions(tmp_path / "both" / "gid", 5, ids=published.gid_ids()[:2])
    with refused("layouts.recognising:_several | Name the folder of one, or say which to") as error:
        recognise_layout(root)
    assert recognise_layout(root / "gid").layout == "gid-5"
    for layout in re.findall(r"--layout ([\w-]+)", error.text):
        describe(root, layout, incomplete="allow")


def test_several_labels_of_the_same_images(tmp_path: Path) -> None:
    ids = published.gid_ids()[:2]
    published.make_gid_on_billions(tmp_path, 5, labels="GID5/Annotation__index", ids=ids)
    published.make_gid_on_billions(tmp_path, 24, ids=ids)
    with refused(
        "layouts.recognising:_several | Say which to use; the others are ignored:"
    ) as error:
        recognise_layout(tmp_path)
    for layout in re.findall(r"--layout ([\w-]+)", error.text):
        describe(tmp_path, layout, incomplete="allow")
    shutil.move(tmp_path / "GID5", tmp_path.parent / "kept")
    shutil.rmtree(tmp_path / "Annotation__index")
    with refused("layouts.recognising:_several | Download the labels, or say which it is:"):
        recognise_layout(tmp_path)
    shutil.move(tmp_path.parent / "kept", tmp_path / "GID5")
    assert recognise_layout(tmp_path).layout == "gid-5"


def test_labels_that_were_unpacked_over_images(tmp_path: Path) -> None:
    root = published.make_vaihingen(tmp_path)
    name = "top_mosaic_09cm_area3.tif"
    image = root / VAIHINGEN / "top" / name
    content = image.read_bytes()
    shutil.copy(root / f"{VAIHINGEN}_ground_truth_COMPLETE" / name, image)
    with refused(
        "layouts.isprs:refuse_labels_as_images | unpack 'top' again into a folder of its own"
    ):
        describe(root, "vaihingen")
    image.write_bytes(content)
    describe(root, "vaihingen")


@pytest.mark.parametrize("way", ["copy", "without"])
def test_a_picture_among_the_labels(tmp_path: Path, way: str) -> None:
    root = published.make_potsdam(tmp_path / "set")
    copy = root / "5_Labels_for_participants/top_potsdam_4_12_label.tif"
    copy.rename(tmp_path / "kept.tif")
    with refused(
        "layouts.isprs:find_pictures | use the copy in '5_Labels_for_participants', or leave"
    ) as e:
        describe(root, "potsdam")
    if way == "copy":
        (tmp_path / "kept.tif").rename(copy)
        assert len(describe(root, "potsdam")["scenes"]) == 37
    else:
        ((key, value),) = re.findall(r"-O (without)=(\w+)", e.text)
        assert len(describe(root, "potsdam", **{key: value})["scenes"]) == 36


def test_a_script_that_stopped_halfway(tmp_path: Path) -> None:
    root = published.make_hunan_renamed(tmp_path, per_split=2)
    path = next((root / "Hunan_Dataset/val/lc").iterdir())
    content = path.read_bytes()
    published.save(path, np.full((1, published.HEIGHT, published.WIDTH), -1, np.int8))
    with refused("layouts.mmhunan:_classes | it was interrupted. Unpack 'lc' again"):
        describe(root, "mmhunan", incomplete="allow")
    path.write_bytes(content)
    describe(root, "mmhunan", incomplete="allow")


def test_files_that_a_list_names_and_that_are_not_there(listed: Path) -> None:
    rows = "a,s2,a.tif,train,,,\na,labels,l.tif,,,,\nb,s2,gone.tif,train,,,\nb,labels,l.tif,,,,\n"
    (listed / "rasters.csv").write_text(f"{HEAD}{rows}")
    with refused(
        "layouts.items:_with_files | To continue without them: -O incomplete=allow"
    ) as error:
        describe(listed, "items")
    with pytest.warns(UserWarning, match="They are left out"):
        describe(listed, "items", **option(error.text))
    (listed / "lists").mkdir()
    (listed / "rasters.csv").rename(listed / "lists" / "rasters.csv")
    with refused("layouts.items:_with_files | paths count from the folder of the list"):
        describe(listed / "lists", "items", incomplete="allow")
    (listed / "lists" / "rasters.csv").rename(listed / "rasters.csv")
    with pytest.warns(UserWarning, match="They are left out"):
        describe(listed, "items", incomplete="allow")


def test_pictures_of_forests_that_are_not_there(tmp_path: Path) -> None:
    root = published.make_forests(tmp_path / "set")
    pictures = sorted((root / "RGB").iterdir())
    kept = tmp_path / "kept"
    kept.mkdir()
    pictures[0].rename(kept / pictures[0].name)
    with refused(
        "layouts.forests:_scenes | To continue without them: -O incomplete=allow"
    ) as error:
        describe(root, "forests")
    with pytest.warns(UserWarning, match="They are left out"):
        describe(root, "forests", **option(error.text))
    (kept / pictures[0].name).rename(pictures[0])
    others = sorted((root / "structure").iterdir())
    for path in others:
        path.rename(path.with_name(f"x_{path.name}"))
    with refused("layouts.forests:_scenes | nothing is left: name the folder that holds all"):
        describe(root, "forests", incomplete="allow")
    for path in others:
        path.with_name(f"x_{path.name}").rename(path)
    describe(root, "forests")


def test_labels_of_two_folders(tmp_path: Path) -> None:
    for name in ("labels", "masks", "s2"):
        published.save(tmp_path / name / "a.tif", published.numbers(3) if name == "s2" else CODES)
    with warned("layouts.folder:_sort_roles | To use others: -O labels=FOLDER") as text:
        describe(tmp_path, "folder")
    other = text.find("; '(.*?)' look like")
    with pytest.warns(UserWarning, match=f"labels are taken from '{other}'"):
        values = describe(tmp_path, "folder", labels=other)
    assert values["scenes"][0]["labels"].startswith(f"{other}/")


def test_lists_beside_a_published_set(tmp_path: Path) -> None:
    root = published.make_whu(tmp_path)
    (root / "train.txt").write_text("NH49E001013\n")
    name = "layouts.published:look_through | -O split=NAME. To read them: --layout folder"
    with warned(name) as text:
        describe(root, "whu-opt-sar", split="official")
    values = describe(root, text.find(r"--layout (\w+)$"), labels="lbl")
    assert [s["id"] for s in values["scenes"] if s.get("split") == "train"] == ["NH49E001013"]


@pytest.mark.filterwarnings("ignore:.*are published. The first")
def test_files_of_fewer_bands(tmp_path: Path) -> None:
    root = published.make_potsdam(tmp_path)
    for path in (root / "4_Ortho_RGBIR").glob("*.tif"):
        path.unlink()
        published.save(path, published.numbers(3))
    with refused(
        "layouts.published:_modality | Choose other modalities: -O modalities=… of"
    ) as error:
        describe(root, "potsdam", modalities="rgbir")
    names = error.find("-O modalities=… of (.*)$").split(", ")
    assert {"rgb", "dsm"} <= set(names)
    for name in names:
        assert describe(root, "potsdam", modalities=name)["modalities"]
