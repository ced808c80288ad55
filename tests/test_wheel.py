"""The package without the repository: built, installed into an empty environment, and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from a_user import USER

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(UV).exists(), reason="uv builds and installs; make install has it"),
]


def _done(*words: object, cwd: Path, code: int = 0) -> str:
    # What the tests themselves run with must not lend its sources or packages.
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    run = subprocess.run(
        list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True
    )  # fmt: skip
    assert run.returncode == code, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as a release is."""
    out = tmp_path_factory.mktemp("dist")
    _done(UV, "build", "--out-dir", out, cwd=ROOT)
    (source,), (built,) = out.glob("*.tar.gz"), out.glob("*.whl")
    assert source.stat().st_size < 5 << 20  # without the golden files
    return built


@pytest.fixture(scope="module")
def terrafuse(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Function that runs a program of an environment with nothing but the wheel and its needs."""
    folder = tmp_path_factory.mktemp("elsewhere")
    _done(UV, "venv", "--python", sys.executable, folder / "env", cwd=folder)
    constraints = ROOT / "constraints.txt"
    python = folder / "env" / "bin" / "python"
    _done(UV, "pip", "install", "--python", python, "-c", constraints, wheel, cwd=folder)

    def call(program: str, *words: object, code: int = 0) -> str:
        return _done(folder / "env" / "bin" / program, *words, cwd=folder, code=code)

    return call


def test_the_wheel_has_settings_types_and_lists(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.*")}
    assert {f"terrafuse/{name}" for name in configs} <= names
    assert {"terrafuse/py.typed", "terrafuse/describe/catalogue.json"} <= names
    assert not any(name.startswith("tests/") for name in names)


def test_commands_work_without_the_repository(terrafuse: Callable[..., str]) -> None:
    assert "demo" in terrafuse("terrafuse", "--help")
    assert "--seed" in terrafuse("terrafuse", "demo", "--help")
    assert "late_fusion" in terrafuse("terrafuse", "methods")
    assert "upseg/gid5" in terrafuse("terrafuse", "configs", "list", "--json")
    assert "configs/ombria/dataset.yaml" in terrafuse("terrafuse", "configs", "copy", "ombria/s1")
    assert "$defs" in terrafuse("terrafuse", "schema")


def test_an_extra_that_is_missing_is_named(terrafuse: Callable[..., str]) -> None:
    lines = "from terrafuse import create_backbone; create_backbone('mit_b0', 3)"
    said = terrafuse("python", "-c", lines, code=1)
    assert "'transformers', which is not installed. Run: pip install 'terrafuse[mit]'" in said


def test_every_other_method_can_be_made_without_extras(terrafuse: Callable[..., str]) -> None:
    lines = (
        "from terrafuse.methods import METHODS\n"
        "from terrafuse.training import train\n"
        "import importlib.util as u\n"
        "assert u.find_spec('transformers') is None and u.find_spec('skimage') is None\n"
        "print(len(METHODS))"
    )
    assert int(terrafuse("python", "-c", lines)) > 10


def test_a_user_of_the_wheel_sees_types(terrafuse: Callable[..., str], tmp_path: Path) -> None:
    """With the tests' mypy on the packages of the other environment, all of them looked through."""
    (tmp_path / "user.py").write_text(USER)
    python = terrafuse("python", "-c", "import sys; print(sys.executable)").strip()
    words = ["-m", "mypy", "--strict", "--python-executable", python, "user.py"]
    said = _done(sys.executable, *words, cwd=tmp_path, code=1)
    assert 'Revealed type is "terrafuse.api.runs.Run"' in said
    assert "Found 2 errors in 1 file" in said


def test_the_demo_runs(terrafuse: Callable[..., str]) -> None:
    assert "report.html" in terrafuse("terrafuse", "demo", "--out", "demo")
