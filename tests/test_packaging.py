"""The container and the conda recipe agree with the package; neither is built here."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path, PurePosixPath
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


def test_the_image_of_the_service_is_the_images_child() -> None:
    text = (ROOT / "packaging" / "container" / "service.Containerfile").read_text()
    lines = [li for li in re.sub(r"\\\n\s*", "", text).splitlines() if li and li[0] != "#"]
    assert "FROM ${BASE}" in lines
    assert f'org.opencontainers.image.version="{VERSION}"' in text
    entry = json.loads(next(li for li in lines if li.startswith("ENTRYPOINT"))[11:])
    assert entry[:2] == ["terrafuse", "serve"]
    tokens = entry[entry.index("--tokens") + 1]  # it listens to all addresses
    # A file that is mounted alone stays the old one when `terrafuse token` replaces it.
    assert f':{PurePosixPath(tokens).parent}:ro"' in text
    assert f":{tokens}" not in text
    known = options_of("serve")
    assert {word for word in entry if word.startswith("--")} <= known
    health = next(li for li in lines if "CMD [" in li and li.startswith("HEALTHCHECK"))
    code = json.loads(health[health.index("[") :])[2]
    compile(code, "health", "exec")
    assert "USER" not in text  # the first image's stays


def options_of(verb: str) -> set[str]:
    """Options of a command."""
    from typer.main import get_command

    from terrafuse.cli.app import app

    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


def test_the_unit_starts_the_service() -> None:
    text = (ROOT / "packaging" / "systemd" / "terrafuse-serve.service").read_text()
    unit: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and line[0] not in "#;":
            key, _, value = line.partition("=")
            unit.setdefault(key, []).append(value)
    words = unit["ExecStart"][0].split()
    assert words[1:3] == ["serve", "$RUNS"]
    known = options_of("serve")
    named = re.findall(r"(?<!\S)--[a-z-]+", text)
    assert set(named) - {"--now"} <= known
    assert {"--data", "--root", "--workers"} <= set(named)
    for key, value in {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "DynamicUser": "yes",
        "CapabilityBoundingSet": "", "Restart": "on-failure", "StateDirectory": "terrafuse",
    }.items():  # fmt: skip
        assert unit[key] == [value], key
    assert "PASSWORD" not in "".join(unit["Environment"])
