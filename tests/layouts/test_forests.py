"""RGB and a second modality with lists of names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import published_sets as published
from terrafuse.data import load_manifest, write_manifest
from terrafuse.errors import DataError, UnknownNameError
from terrafuse.layouts import describe

NAMES = [f"plot_{n:02}" for n in range(12)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return published.make_forests(tmp_path, "SAM")


def test_lists_folders_and_ignored_pixels(root: Path) -> None:
    values = describe(root, "forests")
    assert values["modalities"] == {
        "rgb": {"kind": "optical", "bands": ["red", "green", "blue"]},
        "sam": {"kind": "other", "bands": ["band_1"]},
    }
    assert [item["code"] for item in values["classes"]] == [0, 1, 2]
    manifest = load_manifest(write_manifest(values, root / "dataset.yaml"))
    splits = {entry.id: entry.split for entry in manifest.entries}
    assert {id for id, split in splits.items() if split == "test"} == set(NAMES[9:])
    assert manifest.splits["val"] + manifest.splits["train"] == 9
    assert manifest.splits["val"] >= 1
    labels = manifest.scenes("test")[0].read_labels(manifest.scenes("test")[0].grid.window)
    assert (labels[0] == 255).all()
    assert (labels[1:] < 3).all()


def test_official_lists_and_a_list_of_their_own(root: Path) -> None:
    values = describe(root, "forests", split="official")
    assert {scene["split"] for scene in values["scenes"]} == {"train", "test"}
    (root / "train.txt").write_text("".join(f"{n}.jpg\n" for n in NAMES[:7]))
    (root / "val.txt").write_text("".join(f"{n}.jpg\n" for n in NAMES[7:9]))
    val = [s["id"] for s in describe(root, "forests")["scenes"] if s["split"] == "val"]
    assert val == NAMES[7:9]


def test_listed_pictures_that_are_not_there(root: Path) -> None:
    (root / "SAM/plot_03.png").unlink()
    with pytest.raises(DataError, match=r"1 of 12 listed pictures lack a file .*: plot_03"):
        describe(root, "forests")
    with pytest.warns(UserWarning, match="They are left out"):
        assert len(describe(root, "forests", incomplete="allow")["scenes"]) == 11


def test_faults_are_named(root: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'second'"):
        describe(root, "forests", secnd="SAM")
    published.save(root / "depth/x.png", np.ones((1, 2, 2), np.uint8))
    with pytest.raises(DataError, match=r"there are 'SAM', 'depth'.* -O second=FOLDER"):
        describe(root, "forests")
    assert "sam" in describe(root, "forests", second="SAM")["modalities"]
    (root / "test.txt").write_text("plot_00.jpg\n")
    with pytest.raises(DataError, match=r"'plot_00' is listed in 'train' and 'test' .*test\.txt"):
        describe(root, "forests", second="SAM")
    for name in ("train.txt", "test.txt"):
        (root / name).unlink()
    with pytest.raises(DataError, match=r"has no train\.txt and test\.txt"):
        describe(root, "forests", second="SAM")
    (root / "RGB").rename(root / "pictures")
    with pytest.raises(DataError, match="there is no folder 'RGB'"):
        describe(root, "forests", second="SAM")
