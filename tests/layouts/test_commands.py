"""The commands that configs and documentation give for benchmarks write what the runs need."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import published_sets as published
from terrafuse.config import load_run_config
from terrafuse.data import load_manifest
from terrafuse.evaluation import scored_classes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # copies are tiny

CONFIGS = Path(__file__).parents[2] / "configs"
COMMAND = re.compile(r"# terrafuse (data describe ROOT .*)")
RUNS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if COMMAND.search(path.read_text())]
MAKERS: dict[str, Callable[[Path], Path]] = {
    "whu-opt-sar": published.make_whu,
    "gid-5": published.make_gid5,
    "gid-15": published.make_gid15_challenge,
    "vaihingen": published.make_vaihingen,
    "potsdam": published.make_potsdam,
    "forests": published.make_forests,
    "mmhunan": lambda root: published.make_hunan(root, per_split=9),
}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_manifest_of_a_run(
    path: Path, tmp_path: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    found = COMMAND.search(path.read_text())
    assert found
    words = shlex.split(found[1])
    root = MAKERS[words[words.index("--layout") + 1]](tmp_path / "copy")
    words[words.index("ROOT")] = str(root)
    if "mmhunan" in words:  # of 500
        words += ["-O", "incomplete=allow"]
    out = tmp_path / "dataset.yaml"
    code, said, message = command_line(*words, "-o", out)
    assert code == 0, message
    assert f"wrote {out}: " in said
    config = load_run_config(path)
    made = "potsdam" in words and "# terrafuse generate " in path.read_text()
    generated = {"structure"} if made else set()
    wanted = [name for name in config.data.modalities if name not in generated]
    manifest = load_manifest(out).select(wanted)
    splits = {*config.data.train_splits, config.training.validation_split, config.evaluation.split}
    assert splits <= set(manifest.splits)
    assert scored_classes(config.evaluation, manifest.scheme)
    for scene in manifest.scenes(config.evaluation.split):
        assert scene.has_reference(config.evaluation.reference)


def test_every_run_on_a_benchmark_says_how_its_manifest_is_made() -> None:
    assert len(RUNS) == 18
    for path in CONFIGS.rglob("*.yaml"):
        assert "describe` will write it" not in path.read_text()


def test_layouts_are_listed(command_line: Callable[..., tuple[int, str, str]]) -> None:
    code, said, _ = command_line("layouts")
    assert code == 0
    for name in MAKERS:
        assert name in said


def test_the_command_line_shows_what_was_noticed(
    tmp_path: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    root = published.make_whu(tmp_path / "copy", published.whu_ids()[:5])
    out = tmp_path / "dataset.yaml"
    words = ("data", "describe", root, "-o", out, "--layout", "whu-opt-sar")
    code, _, message = command_line(*words)
    assert code == 2
    assert "error: this copy of WHU-OPT-SAR is not complete:\n  optical: 5 of 100" in message
    assert not out.exists()
    with pytest.warns(UserWarning, match="5 scenes go into the manifest"):
        code, said, _ = command_line(*words, "-O", "incomplete=allow")
    assert code == 0
    assert out.exists()
    assert "scenes: " in said
