"""The files around the code agree with each other and with the code."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import terrafuse

ROOT = Path(__file__).parents[1]
_BINARY = {".png", ".tif", ".safetensors", ".ckpt", ".pt"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _repository_files() -> list[Path]:
    """Text files of the repository, without what is built."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.split("\0") if name]
    return [ROOT / n for n in names if (ROOT / n).is_file() and Path(n).suffix not in _BINARY]


def _make(*arguments: str, cwd: Path = ROOT) -> str:
    # The tests may themselves run under make, whose settings are not those of this call.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=True
    ).stdout


def _distribution(requirement: str) -> str:
    return re.split(r"[\[<>=~! ;]", requirement)[0].lower()


def test_versions_agree() -> None:
    version = PYPROJECT["project"]["version"]
    assert terrafuse.__version__ == version
    assert yaml.safe_load(_text("CITATION.cff"))["version"] == version


def test_citation_has_what_a_reader_of_it_needs() -> None:
    citation = yaml.safe_load(_text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PYPROJECT["project"]["license"] == "Apache-2.0"
    assert [author["name"] for author in citation["authors"]] == ["The terrafuse developers"]
    assert {"message", "title", "type", "abstract"} <= set(citation)


def test_licence_is_complete() -> None:
    text = _text("LICENSE")
    assert "Apache License\n                           Version 2.0" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "9. Accepting Warranty or Additional Liability" in text


def test_changelog_has_the_form_it_names() -> None:
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", _text("CHANGELOG.md"), re.M)
    assert headings[0] == ("Unreleased", "")
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) and date for version, date in headings[1:])
    kinds = set(re.findall(r"^### (.+)$", _text("CHANGELOG.md"), re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_constraints_pin_every_direct_dependency() -> None:
    lines = [line for line in _text("constraints.txt").splitlines() if line and line[0] != "#"]
    pinned = {}
    for line in lines:
        found = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9.a-z]*)( ; python\S* [<>=]+ \S+)?", line)
        assert found, f"'{line}' is not of the form name==version, or has a local version"
        pinned[found[1]] = found[2]
    extras = PYPROJECT["project"]["optional-dependencies"]
    needed = [*PYPROJECT["project"]["dependencies"], *extras["dev"], *extras["docs"]]
    assert {_distribution(requirement) for requirement in needed} <= set(pinned)


def test_a_bound_has_a_reason() -> None:
    lines = _text("pyproject.toml").splitlines()
    first = lines.index("dependencies = [") + 1
    bounds = [line for line in lines[first : lines.index("]", first)] if "<" in line]
    assert all("#" in line for line in bounds), bounds


def test_a_fresh_clone_is_tested_by_the_readmes_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert script.read_text().rstrip().endswith("make test")
    assert "```bash\nmake test\n```" in _text("README.md")
    workflow = yaml.safe_load(_text(".github/workflows/ci.yml"))
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": ".ci/run"}


def test_make_lists_its_targets() -> None:
    makefile = _text("Makefile")
    listed = _make()
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    for target in phony.split()[1:]:
        assert re.search(rf"^{target}:", makefile, re.M), f"no target '{target}'"
        assert f"make {target}" in listed
    for target in ("docs-serve", "notebooks", "wheel"):
        assert target in phony.split()
    for target in ("demo", "test", "check", "format", "docs", "bench", "clean"):
        assert target in phony.split()


def test_make_reuses_its_environment(tmp_path: Path) -> None:
    """A stamp newer than its inputs: nothing is installed; touching an input installs again."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(_text(name))
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / ".uv" / "bin").mkdir(parents=True)
    (tmp_path / ".uv" / "bin" / "uv").touch()

    def commands(target: str) -> str:
        return _make("--dry-run", target, cwd=tmp_path)

    assert "pip install" not in commands("test")
    assert "pytest" in commands("test")
    assert "terrafuse demo --out demo" in commands("demo")
    (tmp_path / ".venv" / ".installed-docs").touch()
    served = commands("docs-serve")
    assert "mkdocs serve --dev-addr localhost:8000" in served
    assert "pip install" not in served
    assert "tests/test_notebooks.py" in commands("notebooks")
    later = (tmp_path / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert "pip install" in commands("test")
    assert "-c constraints.txt" in commands("test")


def test_no_index_and_no_machine_is_named() -> None:
    hosts = ("py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org")
    tops = ("home", "root", "tmp", "work", "Users", "mnt", "opt")
    paths = re.compile("|".join(f"(?<![A-Za-z0-9_.~<-])/{top}/[a-z]" for top in tops))
    found = []
    for path in _repository_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            named = any(host in line for host in hosts) or "index-" + "url" in line
            if named or paths.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_links_of_the_readme_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)|src=\"([^\"]+)\"", _text(name))
        for link in (a or b for a, b in links):
            assert link.startswith("http") or (ROOT / link).exists(), f"{name}: {link}"


def test_workflows_do_what_contributing_says() -> None:
    jobs = yaml.safe_load(_text(".github/workflows/ci.yml"))["jobs"]
    steps = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert steps["notebooks"][-1] == "make notebooks"
    for name in ("lint", "types", "docs"):  # with the tests, what `make check` is
        assert steps[name][-1] == f"make {name}"
    assert any("--resolution lowest-direct" in run for run in steps["lowest"])
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert jobs["lowest"]["steps"][1]["with"]["python-version"] == oldest
    assert any("--cov terrafuse" in run for run in steps["coverage"])
    assert any("tests/test_wheel.py" in run for run in steps["wheel"])


def test_a_release_holds_no_token() -> None:
    text = _text(".github/workflows/release.yml")
    publish = yaml.safe_load(text)["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "release"
    assert "secrets." not in text


def test_every_form_and_setting_around_the_code_is_valid_yaml() -> None:
    for path in [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]:
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form), path


def test_direct_dependencies_have_a_lowest_version() -> None:
    """Else the job with the lowest versions would take the first release ever made."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["dev"], *extras["mit"]]:
        assert ">=" in requirement, requirement
