"""Every published layout becomes a manifest that opens, with bands and labels where they belong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import published_sets as published
from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.errors import DataError, UnknownNameError
from terrafuse.layouts import LAYOUTS, describe

# Rasters here are tiny on purpose; that this is told has a test of its own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pixels .width × height"),
    pytest.mark.filterwarnings("ignore:.*the rest has no data"),
]
KNOWN = {
    "gid-15": "challenge's edition",
    "potsdam": "sizes differ by up to 2 pixels in scenes 3_13",
    "mmhunan": "12 scenes go into the manifest",
}
MAKERS: dict[str, Callable[[Path], Path]] = {
    "whu-opt-sar": published.make_whu,
    "gid-5": published.make_gid5,
    "gid-15": published.make_gid15_challenge,
    "five-billion-pixels": published.make_billions,
    "vaihingen": published.make_vaihingen,
    "potsdam": published.make_potsdam,
    "mmhunan": published.make_hunan,
    "sen1floods11": published.make_floods,
    "ombria": published.make_ombria,
    "dfc2020": published.make_dfc2020,
}


def manifest_of(root: Path, layout: str, **options: str) -> Manifest:
    """Through the file, as a user has it."""
    told = KNOWN.get(layout)
    with pytest.warns(UserWarning, match=told) if told else nullcontext():
        values = describe(root, layout, **options)
    return load_manifest(write_manifest(values, root / f"{layout}.yaml"))


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Copies of the data sets, each made once."""
    made: dict[str, Path] = {}

    def copy(layout: str) -> Path:
        if layout not in made:
            made[layout] = MAKERS[layout](tmp_path_factory.mktemp(layout))
        return made[layout]

    return copy


SPLITS = {
    "whu-opt-sar": {"train": 60, "val": 20, "test": 20},
    "gid-15": {"train": 12, "val": 2, "test": 3, "unlabelled": 3},
    "vaihingen": {"train": 13, "val": 3, "test": 17},
    "potsdam": {"train": 18, "val": 5, "test": 14},
    "mmhunan": {"train": 4, "val": 4, "test": 4},
    "sen1floods11": {"train": 2, "val": 1, "test": 2},
    "ombria": {"train": 3, "val": 1, "test": 3},
    "dfc2020": {"train": 24, "val": 16, "test": 3},
}


@pytest.mark.parametrize("layout", MAKERS)
def test_manifest_opens(layout: str, copies: Callable[[str], Path]) -> None:
    options = {"incomplete": "allow"} if layout == "mmhunan" else {}
    manifest = manifest_of(copies(layout), layout, **options)
    assert {k: manifest.splits[k] for k in SPLITS.get(layout, {})} == SPLITS.get(layout, {})
    assert manifest.splits["train"] > manifest.splits["val"] or layout == "mmhunan"
    classes = set()
    for scene in manifest.scenes():
        assert not scene.missing
        assert scene.has_labels == (scene.split != "unlabelled")
        sample = scene.read(scene.full_window)
        for modality in scene.modalities:
            image = sample.images[modality.name]
            assert image.shape[0] == len(modality.bands)
            assert sample.valid[modality.name].any()
        if sample.labels is not None:
            classes |= set(sample.labels.unique().tolist())
    assert classes - {255} == set(range(manifest.scheme.num_classes))


@pytest.mark.parametrize("layout", sorted(set(MAKERS) - {"gid-15", "mmhunan", "potsdam"}))
def test_whole_copies_are_described_without_a_word(
    layout: str, copies: Callable[[str], Path]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*pixels .width × height")
        warnings.filterwarnings("ignore", "Dataset has no geotransform")
        describe(copies(layout), layout)


def band_means(manifest: Manifest, name: str, index: int = 0) -> list[float]:
    scene = manifest.scene(manifest.entries[index].id)
    image = scene.read(scene.full_window).images[name]
    return np.nanmean(image.numpy(), axis=(1, 2)).tolist()


def test_bands_are_taken_by_name(copies: Callable[[str], Path]) -> None:
    """Band k of a file lies between 40 k + 1 and 40 k + 30."""

    def order(layout: str, modality: str, **options: str) -> list[int]:
        manifest = manifest_of(copies(layout), layout, **options)
        return [int(mean // 40) for mean in band_means(manifest, modality)]

    assert order("whu-opt-sar", "optical") == [0, 1, 2, 3]  # B, G, R, NIR on disk
    assert order("whu-opt-sar", "rgb", modalities="rgb,nir,sar") == [2, 1, 0]
    assert order("whu-opt-sar", "nir", modalities="rgb,nir,sar") == [3]
    assert order("gid-5", "rgb") == [1, 2, 3]  # NIR first
    assert order("gid-5", "nir") == [0]
    assert order("gid-15", "nir") == [0]
    assert order("five-billion-pixels", "rgb") == [1, 2, 3]
    assert order("vaihingen", "irrg") == [0, 1, 2]
    assert order("potsdam", "rgbir") == [0, 1, 2, 3]
    assert order("potsdam", "irrg", modalities="irrg,rgb,dsm") == [3, 0, 1]
    assert order("potsdam", "rgb", modalities="irrg,rgb,dsm") == [0, 1, 2]
    allowed = {"incomplete": "allow"}
    assert order("mmhunan", "rgb", modalities="rgb,dem", **allowed) == [3, 2, 1]
    assert order("mmhunan", "dem", modalities="rgb,dem", **allowed) == [0]


def test_both_depths_of_five_billion_pixels_show_the_same(copies: Callable[[str], Path]) -> None:
    root = copies("five-billion-pixels")
    eight = manifest_of(root, "five-billion-pixels", modalities="nirrgb")
    sixteen = manifest_of(root, "five-billion-pixels", modalities="nirrgb", images="16bit")
    assert [4 * mean for mean in band_means(eight, "nirrgb")] == band_means(sixteen, "nirrgb")


def test_labels_as_indices_and_as_colours_are_the_same(tmp_path: Path) -> None:
    root = published.make_billions(tmp_path, published.gid_ids()[:6])
    read = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="6 of 150 scenes"):
            values = describe(root, "five-billion-pixels", incomplete="allow")
        manifest = load_manifest(write_manifest(values, root / "dataset.yaml"))
        assert [item["name"] for item in values["classes"]][10] == "river"
        scenes = [scene for scene in manifest.scenes() if scene.has_labels]
        read.append(np.stack([scene.read_labels(scene.grid.window) for scene in scenes]))
        if (root / "Annotation__index").exists():
            for path in (root / "Annotation__index").iterdir():
                path.unlink()
            (root / "Annotation__index").rmdir()
    np.testing.assert_array_equal(*read)
    assert (read[0] == 255).sum() == 6 * published.WIDTH


def test_heights_keep_their_unit(copies: Callable[[str], Path]) -> None:
    manifest = manifest_of(copies("vaihingen"), "vaihingen")
    assert (manifest.modalities["dsm"].unit, manifest.modalities["dsm"].kind) == ("m", "elevation")
    assert 251 <= band_means(manifest, "dsm")[0] <= 280
    manifest = manifest_of(copies("potsdam"), "potsdam")
    assert {name: m.unit for name, m in manifest.modalities.items()} == {
        "rgbir": "dn",
        "dsm": "m",
        "ndsm": "dn",
    }


def test_a_missing_column_has_no_data(copies: Callable[[str], Path]) -> None:
    scene = manifest_of(copies("potsdam"), "potsdam").scene("3_13")
    sample = scene.read(scene.full_window)
    assert (scene.grid.height, scene.grid.width) == (published.HEIGHT, published.WIDTH)
    for name, columns in (("rgbir", 12), ("dsm", 11), ("ndsm", 11)):
        assert sample.valid[name].sum(dim=1).tolist() == [columns] * published.HEIGHT
        assert sample.valid[name][:, :columns].all()


def test_two_copies_of_a_label(copies: Callable[[str], Path], tmp_path: Path) -> None:
    """In the full set that of 4_12 is a photograph."""
    values = manifest_of(copies("potsdam"), "potsdam").to_dict()
    labels = {scene["id"]: scene["labels"] for scene in values["scenes"]}
    assert labels["4_12"].startswith("5_Labels_for_participants/")
    assert labels["3_13"].startswith("5_Labels_all/")
    ids = ["4_12", "2_10"]
    root = published.make_potsdam(tmp_path, ids=ids)
    (root / "5_Labels_for_participants/top_potsdam_4_12_label.tif").unlink()
    picture = r"labels: label 4_12: \d+% of the pixels .* is a picture; use .*-O without=4_12"
    with pytest.raises(DataError, match=picture):
        describe(root, "potsdam")
    with pytest.warns(UserWarning, match=picture):
        scenes = describe(root, "potsdam", incomplete="allow")["scenes"]
    assert {s["id"]: "labels" in s for s in scenes} == {"2_10": True, "4_12": False}


def test_splits_of_benchmarks(copies: Callable[[str], Path]) -> None:
    def count(layout: str, split: str) -> dict[str, int]:
        return manifest_of(copies(layout), layout, split=split).splits

    assert count("whu-opt-sar", "official") == {"train": 80, "test": 20}
    assert count("vaihingen", "official") == {"train": 16, "test": 17}
    assert count("vaihingen", "geoseg") == {"train": 15, "val": 1, "test": 17}
    assert count("vaihingen", "ssrs") == {"train": 12, "test": 4}
    assert count("vaihingen", "ssrs-val") == {"train": 9, "val": 3, "test": 4}
    assert count("gid-5", "official") == {"train": 120, "test": 30}


def test_drawn_splits_do_not_depend_on_what_else_is_there(tmp_path: Path) -> None:
    ids = published.gid_ids()
    whole = {
        s["id"]: s["split"]
        for s in describe(published.make_gid5(tmp_path / "a"), "gid-5")["scenes"]
    }
    with pytest.warns(UserWarning, match="50 of 150 scenes are there"):
        part = describe(
            published.make_gid5(tmp_path / "b", ids[25:75]), "gid-5", incomplete="allow"
        )
    for scene in part["scenes"]:
        assert scene["split"] == whole[scene["id"]]


def test_places_of_dfc2020_stay_apart(tmp_path: Path) -> None:
    manifest = manifest_of(published.make_dfc2020(tmp_path, places=True), "dfc2020")
    splits = {entry.id.split("_")[1]: entry.split for entry in manifest.entries}
    assert splits == {"Mumbai": "train", "CapeTown": "test", "KippaRing": "val"}
    with pytest.raises(UnknownNameError, match="unknown split of layout 'dfc2020' 'official'"):
        describe(tmp_path, "dfc2020", split="official")


def test_floods_by_published_lists(copies: Callable[[str], Path]) -> None:
    manifest = manifest_of(copies("sen1floods11"), "sen1floods11", split="official")
    assert manifest.splits == {"bolivia": 1, "val": 1, "train": 2, "test": 1}
    root = copies("sen1floods11") / "v1.1/data"
    with pytest.raises(DataError, match=r"needs the published lists flood_train_data\.csv"):
        describe(root, "sen1floods11", split="official")


def test_ombria_pairs_sensors_and_times(copies: Callable[[str], Path]) -> None:
    manifest = manifest_of(copies("ombria"), "ombria")
    assert manifest.modalities["s2"].bands[3:] == ("after_1", "after_2", "after_3")
    assert [mean // 100 for mean in band_means(manifest, "s1")] == [0, 1]
    # 16 numbers a run: 48 to 63 validate, 96 to 111 and 144 to 159 test; 60 has no Sentinel-2.
    assert {entry.id: entry.split for entry in manifest.entries} == {
        "0001": "train", "0002": "train", "0020": "train", "0050": "val",
        "0097": "test", "0100": "test", "0150": "test",
    }  # fmt: skip
    official = manifest_of(copies("ombria"), "ombria", split="official")
    assert official.splits == {"train": 5, "test": 2}
    alone = manifest_of(copies("ombria"), "ombria", modalities="s1")
    assert "0060" in {entry.id for entry in alone.entries}


def test_images_tagged_cmyk_are_told_and_read_as_stored(
    copies: Callable[[str], Path], command_line: Any, tmp_path: Path
) -> None:
    root = copies("five-billion-pixels")
    code, said, _ = command_line("data", "describe", root, "-o", tmp_path / "d.yaml")
    assert code == 0
    assert "CMYK" in said
    manifest = load_manifest(tmp_path / "d.yaml")
    assert [mean // 40 for mean in band_means(manifest, "rgb")] == [1, 2, 3]  # NIR, R, G, B on disk
    assert [mean // 40 for mean in band_means(manifest, "nir")] == [0]


def test_dates_of_ombria_may_be_modalities(copies: Callable[[str], Path]) -> None:
    names = "s1_after,s2_before,s2_after"
    manifest = manifest_of(copies("ombria"), "ombria", modalities=names)
    assert list(manifest.modalities) == names.split(",")
    assert [mean // 100 for mean in band_means(manifest, "s1_after")] == [1]
    assert [mean // 100 for mean in band_means(manifest, "s2_before")] == [0, 0, 0]
    assert manifest.modalities["s2_after"].wavelengths_um == (2.19, 0.865, 0.665)


def test_pictures_of_a_named_event_are_for_testing(tmp_path: Path) -> None:
    for sensor, bands in (("s1", 1), ("s2", 3)):
        for time in ("before", "after"):
            published.save(tmp_path / f"{sensor}_{time}/peru_007.png", published.numbers(bands))
    mask = (published.classes_for("x", 2) == 1).astype(np.uint8)[None] * 255
    published.save(tmp_path / "mask/peru_007.png", mask)
    assert manifest_of(tmp_path, "ombria").splits == {"test": 1}


def test_classes_of_hunan(tmp_path: Path) -> None:
    root = published.make_hunan(tmp_path)
    told: dict[str, Any] = {}
    for convention in ("original", "mfnet"):
        manifest = manifest_of(root, "mmhunan", incomplete="allow", classes=convention)
        told[convention] = dict(manifest.scheme.lookup())
        scene = manifest.scenes()[0]
        labels = scene.read_labels(scene.grid.window)
        assert labels.ravel()[:13].tolist() == [
            told[convention][code] for code in (*range(12), 255)
        ]
    ignored = {name: [c for c, k in table.items() if k == 255] for name, table in told.items()}
    assert sorted(ignored["original"]) == [0, 11, 255]
    assert sorted(ignored["mfnet"]) == [0, 4, 7, 10, 11, 255]
    assert told["original"][4] == told["original"][2]  # shrubs are forest
    assert [told["original"][code] for code in (7, 8, 9, 10)] == [6, 6, 5, 6]
    # The order of the published code; its names of the last two are exchanged.
    assert [told["mfnet"][code] for code in (1, 2, 3, 5, 6, 8, 9)] == list(range(7))
    assert manifest.scheme.names[5:] == ("built-up area", "unused land")


def test_every_layout_has_a_maker() -> None:
    assert set(MAKERS) | {"folder", "items", "forests"} == set(LAYOUTS)
