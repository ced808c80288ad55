"""Settings files that ship: every one is listed, and copies are whole, safe and honest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from terrafuse.api import copy_configs, list_configs
from terrafuse.errors import ConfigError, OutputError

CONFIGS = Path(__file__).parents[2] / "configs"
DATASET = "root: pixels\nscenes:\n  - {id: a, s1: a.tif}\n"
FILES = {
    "sets/flood.yaml": f"# A flood: two dates. Public.\n# {'x' * 40}\n{DATASET}",
    "sets/made.yaml": "scenes:\n  - {id: a, s1: mosaic.vrt, s2: ../../gone.tif}\n",
    "sets/mosaic.vrt": "<VRTDataset/>",
    "runs/own.yaml": "# One's own run.\n"
    "data: {manifest: datasets/own.yaml}\nmethod: {name: single}\n",
    "runs/flood.yaml": "# The flood,\n# with:\n# terrafuse train\n"
    "data: {manifest: ../sets/flood.yaml}\nmethod: {name: single}\n",
    "methods.yaml": "alone:\n  method: {name: single}\n",
}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder in place of the real one."""
    folder = tmp_path / "shipped"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr("terrafuse.api.shipped._folder", lambda: folder)
    return folder


def test_every_file_of_the_repository_is_listed() -> None:
    found = {config.name: config for config in list_configs()}
    assert set(found) == {
        path.relative_to(CONFIGS).as_posix().removesuffix(".yaml")
        for path in CONFIGS.rglob("*.yaml")
    }
    kinds = {
        "upseg/gid5": "run", "pretrain/mae": "pre-training", "ombria/dataset": "dataset",
        "compare/methods_tiny": "methods",
    }  # fmt: skip
    assert {name: found[name].kind for name in kinds} == kinds
    assert all(config.description for config in found.values())


def test_heads_are_cut_to_a_sentence(shipped: Path) -> None:
    found = {config.name: config.description for config in list_configs()}
    assert found == {
        "methods": "",
        "runs/flood": "The flood, with",
        "runs/own": "One's own run",
        "sets/flood": "A flood: two dates",
        "sets/made": "",
    }


def test_what_a_file_names_is_copied_with_it(shipped: Path, tmp_path: Path) -> None:
    copied = copy_configs("runs/flood.yaml", tmp_path / "own")
    names = ["runs/flood.yaml", "sets/flood.yaml"]
    assert [path.relative_to(tmp_path / "own").as_posix() for path in copied.written] == names
    for name in names:
        assert (tmp_path / "own" / name).read_text() == FILES[name]
    assert copied.notes == (
        "sets/flood.yaml: root 'pixels' does not exist; set the dataset's folder",
    )
    assert copied.kept == ()


def test_files_beside_a_manifest_are_copied(shipped: Path, tmp_path: Path) -> None:
    copied = copy_configs("sets/made", tmp_path / "own")
    assert [path.name for path in copied.written] == ["made.yaml", "mosaic.vrt"]
    assert copied.notes == ("sets/made.yaml: 1 of its rasters are missing: '../../gone.tif' …",)


def test_a_copy_keeps_what_was_there(shipped: Path, tmp_path: Path) -> None:
    mine = tmp_path / "own" / "sets" / "flood.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("root: elsewhere\n")
    assert copy_configs("runs/flood", tmp_path / "own").kept == (mine,)
    assert mine.read_text() == "root: elsewhere\n"
    with pytest.raises(OutputError, match=r"flood\.yaml' exists and would be overwritten"):
        copy_configs("runs", tmp_path / "own")
    assert not (tmp_path / "own" / "runs" / "own.yaml").exists()


def test_a_manifest_that_does_not_ship_is_said(shipped: Path, tmp_path: Path) -> None:
    copied = copy_configs("runs/own", tmp_path / "own")
    assert len(copied.written) == 1
    assert copied.notes[0].startswith("runs/own.yaml: data.manifest 'datasets/own.yaml' does not")
    (tmp_path / "two" / "runs" / "datasets").mkdir(parents=True)
    (tmp_path / "two" / "runs" / "datasets" / "own.yaml").touch()
    assert copy_configs("runs/own", tmp_path / "two").notes == ()


@pytest.mark.parametrize("name", ["runs/flod", "../shipped/runs/flood", "", "runs/f", "/etc"])
def test_only_what_ships_is_copied(shipped: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="unknown settings file"):
        copy_configs(name, tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_copies_stay_inside_the_folder(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sets").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="lies outside"):
        copy_configs("runs/flood", tmp_path / "own")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "own" / "runs").exists()


def test_commands(shipped: Path, tmp_path: Path, command_line: Callable[..., tuple]) -> None:
    code, printed, _ = command_line("configs", "list")
    assert code == 0
    assert "runs/own" in printed
    code, printed, _ = command_line("configs", "copy", "runs/flood", "-o", tmp_path / "own")
    assert code == 0
    assert f"wrote {tmp_path / 'own' / 'runs' / 'flood.yaml'}" in printed
    assert "note: sets/flood.yaml: root" in printed
    code, _, said = command_line("configs", "copy", "runs/flod")
    assert code == 2
    assert "Did you mean 'runs/flood'?" in said
