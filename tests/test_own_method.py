"""The page on a method of one's own, run from top to bottom with the command line."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from terrafuse.landscape import make_landscape

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "howto" / "own-method.md").read_text(encoding="utf-8")
#: What makes the page's training short, and gives its two-sensor method two of the sensors.
SMALL = {
    "sweep": ["-s", "training.steps=4", "-s", "data.modalities=[optical, sar]", "-s",
              "data.crop_size=32", "-s", "data.workers=0", "-s", "training.accelerator=cpu",
              "--device", "cpu"],
    "check-method": [],
}  # fmt: skip


def _blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def _terrafuse(folder: Path, words: list[str], code: int = 0, **env: str) -> str:
    # Python looks in the sources only: the working directory is not on its path.
    start = "import sys; sys.path.remove(''); from terrafuse.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, *words],
        cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | env,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_page_from_top_to_bottom(tmp_path: Path) -> None:
    project = tmp_path / "project"
    make_landscape(project, size=96, train=1, val=1, test=1)
    run = []
    for language, block in _blocks():
        head = re.match(r"# (\w+\.(?:py|yaml))\n", block)
        if head:
            (project / head[1]).write_text(block)
        if language == "bash":
            run += [shlex.split(line)[1:] for line in block.splitlines()]
    assert [words[0] for words in run] == ["check-method", "sweep"]
    checked, swept = (_terrafuse(project, words + SMALL[words[0]]) for words in run)
    assert "difference:DifferenceFusion keeps the contract of all methods" in checked
    assert re.search(r"\| difference \| 2 \| \d+\.\d, \d+\.\d \|", swept)
    assert re.search(r"\| late fusion \| 2 \| \d+\.\d, \d+\.\d \|", swept)
    scores = json.loads((project / "runs/difference/results.json").read_text())["rows"]
    assert [len(row["scores"]["mIoU"]["runs"]) for row in scores] == [2, 2]
    # A run folder brings no code: it says where that was, and the remedy works.
    trained = "runs/difference/run-difference-0"
    words = ["evaluate", trained, "--device", "cpu"]
    said = _terrafuse(project, words, code=2)
    remedy = re.search(r"set PYTHONPATH=(\S+)", said)
    assert remedy
    assert remedy[1] == str(project)
    path = os.pathsep.join([str(ROOT / "src"), remedy[1]])
    assert "per class" in _terrafuse(project, words, PYTHONPATH=path)
