"""The Python and the commands of the README, of the API's page and of the methods' pages are run.

Those of the how-to pages are in test_howto.py.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from golden_files import load_golden, part
from made_rasters import FENCE, make_rasters, shrunk
from small_evidence import evidence_of
from terrafuse.config import load_run_config
from terrafuse.evaluation.evidence import Evidence, write_evidence
from terrafuse.training import train

ROOT = Path(__file__).parents[1]
CommandLine = Callable[..., tuple[int, str, str]]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for found, block in FENCE.findall(text) if found == language]


def readme_data(folder: Path) -> None:
    """The README's two files, rasters of its scenes, and those of a new place."""
    for block in blocks("README.md", "yaml"):
        name = block.partition("\n")[0].removeprefix("# ").partition(" ")[0]
        if name.endswith(".yaml"):
            (folder / name).write_text(block)
    values = yaml.safe_load((folder / "dataset.yaml").read_text())
    make_rasters(folder, values)
    new = [{"id": "n", "s1": "new_s1.tif", "s2": "new_s2.tif"}]
    make_rasters(folder, {**values, "scenes": new})


@pytest.fixture
def run(command_line: CommandLine) -> Callable[[list[str]], None]:
    """Function that runs a command with little training."""

    def run(words: list[str]) -> None:
        code, out, said = command_line(*shrunk(words)[1:])
        assert code == 0, f"{' '.join(words)}\n{out[-2000:]}\n{said[-2000:]}"

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's data, and the run that its commands make of them, in a few steps."""
    folder = tmp_path_factory.mktemp("readme")
    readme_data(folder)
    words = shrunk(["terrafuse", "train", "run.yaml"])
    overrides = dict(word.split("=", 1) for word in words[3:] if word != "-s")
    config = load_run_config(folder / "run.yaml", overrides)
    train(config, folder / "runs" / "flood", progress=False)
    return folder


def flood(folder: Path, request: pytest.FixtureRequest) -> None:
    shutil.copytree(request.getfixturevalue("trained"), folder, dirs_exist_ok=True)


def published_cmx(folder: Path, request: pytest.FixtureRequest) -> None:
    """A file of the original, which is small here."""
    stored, _ = load_golden("cmx/full_small")
    torch.save({"model": dict(part(stored, "sd."))}, folder / "epoch-500.pth")


def evidence_of_a_run() -> Evidence:
    labels = np.arange(80 * 70).reshape(80, 70).astype(np.uint8) % 3
    return evidence_of([labels], [[labels // 2], [labels]])


def counted(folder: Path, request: pytest.FixtureRequest) -> None:
    """The evidence of a run."""
    path = folder / "runs" / "first" / "evidence.npz"
    path.parent.mkdir(parents=True)
    write_evidence(path, evidence_of_a_run())


def nothing(folder: Path, request: pytest.FixtureRequest) -> None:
    """The page needs nothing."""


#: Page with Python → what its code takes as given.
PAGES: Mapping[str, Callable[[Path, pytest.FixtureRequest], None]] = {
    "README.md": flood,
    "docs/api/verbs.md": flood,
    "docs/methods/cmx.md": published_cmx,
    "docs/methods/mcanet.md": nothing,
    "docs/methods/mfnet.md": nothing,
    "docs/reference/run-folder.md": counted,
}
#: A line of a block that is not run → why.
SKIPPED = {
    'read_weights("UNetformer_epoch30_0.84")': "a file of 400 MB; its names and shapes, and those "
    "of a small one with its values, are compared in tests/methods/test_mfnet_reference.py",
}


def test_every_page_with_python_is_run() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    names = {path.relative_to(ROOT).as_posix() for path in pages}
    with_python = {name for name in names if blocks(name, "python")}
    assert {name for name in with_python if not name.startswith("docs/howto/")} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_python_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    PAGES[page](tmp_path, request)
    namespace: dict[str, Any] = {"__name__": page}
    for block in blocks(page, "python"):
        if not any(line in block for line in SKIPPED):
            exec(compile(block, page, "exec"), namespace)
    if page == "README.md":
        assert (tmp_path / "maps" / "new" / "class_map.tif").exists()
    elif page.endswith("verbs.md"):
        assert namespace["products"].class_map.exists()
        assert namespace["metrics"]["split"] == "test"
    elif page.endswith("run-folder.md"):
        expected = evidence_of_a_run().counts("confusion").sum(axis=0)
        found = namespace["counts"][: namespace["cells"]].sum(axis=0)
        assert (found.reshape(3, 4) == expected).all()
    elif page.endswith("cmx.md"):
        assert namespace["state"]


def test_what_is_skipped_is_still_there() -> None:
    text = "".join(block for page in PAGES for block in blocks(page, "python"))
    assert all(line in text for line in SKIPPED)


#: Beginning of a command of the README → why it is not run here.
ELSEWHERE = {
    "uv pip install": "an installation; tests/test_wheel.py makes one",
    "make ": "tests/test_project.py",
    "terrafuse demo": "tests/test_demo.py",
    "terrafuse predict demo/": "a map of the demo, tests/test_demo.py",
    "terrafuse pretrain": "the page docs/howto/pretrain.md is run",
    "terrafuse sweep run.yaml": "minutes; tests/api/test_sweeps.py",
    "terrafuse sweep configs/": "tables of published data",
    "terrafuse evaluate runs/flood --label-efficiency": "the page docs/howto/label-efficiency.md",
    "terrafuse data describe": "a published data set; tests/layouts",
    "terrafuse view": "a server; tests/web/browser/test_viewer.py uses its page",
    "terrafuse serve": "a server; tests/web/browser/test_service.py uses its page",
    "terrafuse compare": "runs of several seeds; tests/api/test_comparing.py",
    "terrafuse areas": "of a sample that somebody has labelled; the page docs/howto/areas.md",
    "terrafuse push": "a hub; the page docs/howto/share.md is run against one on loopback",
    "terrafuse check-method": "the page docs/howto/own-method.md is run",
    "terrafuse generate": "published weights; the page docs/howto/generate.md is run",
    "python benchmarks/": "hours",
}


@pytest.mark.slow
def test_commands_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[list[str]], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    readme_data(tmp_path)
    skipped, done = set(), []
    for block in blocks("README.md", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.partition(" #")[0].strip()
            reason = next((start for start in ELSEWHERE if command.startswith(start)), None)
            if reason is not None:
                skipped.add(reason)
            elif command and not command.startswith("#"):
                run(shlex.split(command))
                done.append(command)
    assert skipped == set(ELSEWHERE), "what is skipped is no longer there"
    assert len(done) >= 7
