"""The container and the conda recipe agree with the package; neither is built here."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]
CONTAINERFILE = ROOT / "packaging" / "container" / "Containerfile"
#: Where conda-forge's package has another name.
CONDA_NAMES = {
    "torch": "pytorch", "matplotlib": "matplotlib-base", "huggingface-hub": "huggingface_hub",
}  # fmt: skip


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Containerfile with their arguments, lines joined."""
    lines = [li for li in CONTAINERFILE.read_text().splitlines() if li and li[0] != "#"]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (li.partition(" ") for li in joined.splitlines())]


def values_of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def test_the_image_is_pinned_and_its_python_supported() -> None:
    stages = values_of("FROM")
    assert len(stages) == 2
    assert all(stage.startswith("docker.io/library/python:${PYTHON}-slim") for stage in stages)
    first = [(word, rest) for word, rest in instructions() if word in ("ARG", "FROM")][:2]
    assert [word for word, _ in first] == ["ARG", "ARG"]  # else a stage would not know them
    given = dict(rest.partition("=")[::2] for rest in values_of("ARG") if "=" in rest)
    python = f"Programming Language :: Python :: {given['PYTHON']}"
    assert python in PROJECT["project"]["classifiers"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", given["UV"])
    assert given["TORCH_BACKEND"] == "cpu"


def test_what_the_image_copies_is_there() -> None:
    copied = [source for rest in values_of("COPY") for source in rest.split()[:-1]]
    assert {"pyproject.toml", "src", "configs", "constraints.txt", "README.md"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
    project = PROJECT["project"]  # what the build of the wheel reads
    assert {project["readme"], *project["license-files"]} <= set(copied)


def test_the_image_runs_as_nobody_in_particular() -> None:
    words = instructions()
    user = words.index(("USER", "terrafuse"))
    assert ("ENTRYPOINT", '["terrafuse"]') in words[user:]
    assert json.loads(values_of("CMD")[-1]) == ["--help"]
    assert all(word not in ("RUN", "COPY", "ADD") for word, _ in words[user:])
    text = CONTAINERFILE.read_text()
    assert not re.search(r"token|password|secret|HF_TOKEN", text, re.IGNORECASE)
    assert f'org.opencontainers.image.version="{VERSION}"' in text
    assert f'org.opencontainers.image.licenses="{PROJECT["project"]["license"]}"' in text


def recipe() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe.yaml").read_text())
    assert found["schema_version"] == 1
    return found  # type: ignore[no-any-return]


def test_the_recipe_has_the_packages_needs() -> None:
    project = PROJECT["project"]
    needed = {}
    for requirement in project["dependencies"]:
        name, _, bound = requirement.partition(">=")
        needed[CONDA_NAMES.get(name, name)] = f">={bound}"
    listed = dict(item.partition(" ")[::2] for item in recipe()["requirements"]["run"])
    python = listed.pop("python")
    assert listed == needed
    assert python == ">=${{ python_min }}"
    assert f">={recipe()['context']['python_min']}" == project["requires-python"]


def test_the_recipe_builds_this_package() -> None:
    found, project = recipe(), PROJECT["project"]
    assert found["context"]["version"] == VERSION
    assert found["package"]["name"] == project["name"]
    (script,) = (f"{name} = {place}" for name, place in project["scripts"].items())
    assert found["build"]["python"]["entry_points"] == [script]
    assert set(PROJECT["build-system"]["requires"]) <= set(found["requirements"]["host"])
    assert found["about"]["license"] == project["license"]
    assert found["about"]["license_file"] == project["license-files"]
    assert found["about"]["summary"] == project["description"]
    root = (ROOT / "packaging" / "conda" / found["source"]["path"]).resolve()
    assert root == ROOT
    (tested,) = (test["python"]["imports"] for test in found["tests"] if "python" in test)
    for module in tested:
        folder = ROOT / "src" / Path(*module.split("."))
        assert (folder / "__init__.py").exists() or folder.with_suffix(".py").exists(), module


def test_no_file_of_the_package_is_ignored() -> None:
    """The build leaves out what `.gitignore` names, committed or not."""
    words = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard", "src", "configs"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert listed.stdout == ""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["include"] == ["src/terrafuse", "configs"]
