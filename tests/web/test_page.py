"""The built page: what is committed is what its sources give, and it leads nowhere else."""

from __future__ import annotations

import filecmp
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRONTEND = ROOT / "frontend"
PAGE = ROOT / "src" / "terrafuse" / "web" / "page"


def test_the_lock_file_records_no_addresses() -> None:
    text = (FRONTEND / "package-lock.json").read_text()
    assert "http" not in text
    packages = json.loads(text)["packages"]
    assert all("integrity" in each for path, each in packages.items() if path)


@pytest.mark.parametrize("name", ["index", "jobs"])
def test_pages_name_only_what_lies_beside_them(name: str) -> None:
    text = (PAGE / f"{name}.html").read_text()
    addresses = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert sum(address != "data:," for address in addresses) == 2
    for address in addresses:
        assert address == "data:," or (PAGE / address).is_file()
    # Modules are not read from disk, and a policy forbids scripts within the page.
    assert 'type="module"' not in text
    assert "<script>" not in text


def test_styles_load_nothing() -> None:
    for sheet in (PAGE / "assets").glob("*.css"):
        assert not re.search(r"@import|url\((?!['\"]?data:)", sheet.read_text()), sheet.name


def test_licences_of_the_bundled_packages_are_beside_it() -> None:
    text = (PAGE / "THIRD_PARTY.txt").read_text()
    for name in ("ol", "geotiff", "lit-html"):
        assert re.search(rf"^{name} \d+\.\d+\.\d+ \(", text, re.MULTILINE), name
    assert "(no text)" not in text


@pytest.mark.slow
def test_the_sources_give_what_is_committed(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("no node on this machine")
    if not (FRONTEND / "node_modules").is_dir():
        pytest.skip("the packages of the page are not installed: make web")
    command = ["node", "scripts/build.mjs", str(tmp_path / "page")]
    subprocess.run(command, cwd=FRONTEND, check=True, capture_output=True, timeout=300)
    built = sorted(each.relative_to(tmp_path / "page") for each in (tmp_path / "page").rglob("*"))
    assert built == sorted(each.relative_to(PAGE) for each in PAGE.rglob("*"))
    names = [str(each) for each in built if (PAGE / each).is_file()]
    same, *others = filecmp.cmpfiles(PAGE, tmp_path / "page", names, shallow=False)
    assert (others, same) == ([[], []], names), "run `make web` and commit what it writes"
