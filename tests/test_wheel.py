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


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    """Modules, lists, page templates and settings, as they lie in the source tree."""
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {p.relative_to(ROOT / "src").as_posix() for p in _files(ROOT / "src" / "terrafuse")}
    settings = {f"terrafuse/{p.relative_to(ROOT).as_posix()}" for p in _files(ROOT / "configs")}
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == package | settings
    assert {"terrafuse/py.typed", "terrafuse/reports/page.css", "terrafuse/demo.py"} <= package
    assert {"LICENSE", "NOTICE", "entry_points.txt"} <= {n.rpartition("/")[2] for n in about}


def _files(folder: Path) -> list[Path]:
    built = ("__pycache__",)
    return [p for p in folder.rglob("*") if p.is_file() and not set(built) & set(p.parts)]


def test_pages_and_lists_are_found_without_the_repository(
    terrafuse: Callable[..., str], tmp_path: Path
) -> None:
    """What is read beside the modules at run time."""
    lines = (
        "from importlib.resources import files\n"
        "from terrafuse import api\n"
        "from terrafuse.describe.catalogue import list_names\n"
        "from terrafuse.layouts import list_layouts\n"
        "from terrafuse.reports.html import Report\n"
        f"assert api.copy_configs('ombria/s1', {str(tmp_path / 'configs')!r})\n"
        "assert list_names('method') and list_names('backbone') and list_layouts()\n"
        "print(len(api.list_configs()), '</html>' in Report('title').render())"
    )
    said = terrafuse("python", "-c", lines)
    assert said.split()[-1] == "True"
    assert int(said.split()[-2]) > 20


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


def test_the_readmes_first_commands_run(wheel: Path, terrafuse: Callable[..., str]) -> None:
    """From the wheel to a map, as the first screen says."""
    first, _, _ = (ROOT / "README.md").read_text().partition("```bash\n")[2].partition("```")
    install, *commands = [line.partition(" #")[0].split() for line in first.splitlines()]
    assert install == ["uv", "pip", "install", wheel.name]
    assert [words[:2] for words in commands] == [["terrafuse", "demo"], ["terrafuse", "predict"]]
    said = [terrafuse(*words) for words in commands]
    assert "report.html" in said[0]
    assert "wrote maps/test_2/class_map.tif" in said[1]
