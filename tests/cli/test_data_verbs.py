"""`terrafuse data split | stats | preview` as a user calls them."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from terrafuse.data import load_manifest
from terrafuse.landscape import make_landscape


@pytest.fixture
def landscape(tmp_path):
    return make_landscape(tmp_path / "land", seed=2, size=128, train=2, val=1, test=1)


def test_a_split_reports_its_classes_and_distance(landscape, command_line, tmp_path):
    out = tmp_path / "split.yaml"
    words = ("data", "split", landscape, "-o", out, "--block", 32, "--buffer", 8)
    code, text, message = command_line(*words, "--seed", 4, "--seeds", 3)
    assert code == 0, message
    assert "least distance between splits: 8 px" in text
    assert "wetland" in text
    assert f"wrote {out}" in text
    made = load_manifest(out)
    assert set(made.splits) == {"train", "val", "test"}
    again = tmp_path / "again.yaml"
    words = ("data", "split", landscape, "-o", again, "--block", 32, "--buffer", 8)
    _, text, _ = command_line(*words, "--seed", 4, "--seeds", 3, "--json")
    report = json.loads(text)
    assert report["least_distance_px"] == 8
    assert set(report["pixels"]) == {"train", "val", "test"}
    assert again.read_text() == out.read_text()


def test_statistics_of_all_splits_side_by_side(landscape, command_line):
    code, text, message = command_line("data", "stats", landscape, "--split", "all", "--json")
    assert code == 0, message
    values = json.loads(text)
    assert list(values["statistics"]) == ["train", "val", "test"]
    one = json.loads(command_line("data", "stats", landscape, "--split", "val", "--json")[1])
    assert values["statistics"]["val"] == one
    assert values["split"]["scenes"] == {"train": 2, "val": 1, "test": 1}
    code, text, _ = command_line("data", "stats", landscape, "--split", "all")
    assert "share of each class" in text
    assert "forest" in text


def test_a_preview_is_a_picture(landscape, command_line, tmp_path):
    out = tmp_path / "preview.png"
    code, text, message = command_line("data", "preview", landscape, "-o", out, "--scenes", 2)
    assert code == 0, message
    assert "train_1, test_1" in text
    with Image.open(out) as picture:
        assert picture.format == "PNG"
    code, _, message = command_line("data", "preview", landscape, "-o", tmp_path / "a.jpg")
    assert code == 2
    assert ".png" in message
