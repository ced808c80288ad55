"""Real copies beside this checkout, described by their layouts."""

from __future__ import annotations

from pathlib import Path

from shared import shared_data
from terrafuse.config.base import read_yaml
from terrafuse.data import load_manifest, write_manifest
from terrafuse.layouts import describe

CONFIGS = Path(__file__).parents[2] / "configs"


def test_ombria_is_described_as_in_its_config(tmp_path: Path) -> None:
    values = describe(shared_data("ombria_flood"), "ombria", manifest_folder=tmp_path)
    written = read_yaml(CONFIGS / "ombria/dataset.yaml")
    for key in ("classes", "modalities"):
        assert values[key] == written[key]
    by_id = {scene["id"]: scene for scene in values["scenes"]}
    assert by_id == {scene["id"]: scene for scene in written["scenes"]}
    scene = load_manifest(write_manifest(values, tmp_path / "dataset.yaml")).scene("0096")
    sample = scene.read(scene.full_window)
    assert {name: image.shape for name, image in sample.images.items()} == {
        "s1": (2, 256, 256),
        "s2": (6, 256, 256),
    }


def test_the_runs_of_ombria_are_those_of_the_lists() -> None:
    from terrafuse.layouts.ombria import split_of_run

    for name in ("train", "val", "test"):
        path = shared_data("ombria_flood") / "splits" / f"{name}.txt"
        assert {split_of_run(id) for id in path.read_text().split()} == {name}


def test_sen1floods11(tmp_path: Path) -> None:
    values = describe(shared_data("sen1floods11_chip"), "sen1floods11", manifest_folder=tmp_path)
    (scene,) = load_manifest(write_manifest(values, tmp_path / "dataset.yaml")).scenes("train")
    sample = scene.read(scene.full_window)
    assert sample.images["s1"].nanmean() < -5  # decibels
    assert sample.labels is not None
    counts = [int((sample.labels == value).sum()) for value in (255, 0, 1)]
    assert counts == [99, 192010, 70035]
