"""The rooms, who may know whom, and how modules look."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from architecture import DUTIES, KNOWS, LIBRARIES, VOCABULARY, rooms_table, violations

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "terrafuse"

#: Where a distribution is imported under another name.
IMPORTED_AS = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "huggingface-hub": "huggingface_hub",
    "scikit-image": "skimage",
    "rio-tiler": "rio_tiler",
}
#: Rooms and libraries of later steps, so that the table holds from the start.
PLANNED_ROOMS = {"tuning"}
PLANNED_LIBRARIES = {"ray", "onnx", "uvicorn", "sqlalchemy", "rio_tiler", "fastapi"}


def test_the_package_keeps_the_rules() -> None:
    found = violations(PACKAGE)
    assert not found, "\n".join(found)


def test_rooms_know_only_rooms_above_them() -> None:
    seen: set[str] = set()
    for room, known in KNOWS.items():
        if room != "__init__":  # the package itself is found by importing any room
            assert set(known) <= seen, f"'{room}' knows a room that comes later"
        seen.add(room)


def test_the_table_says_what_the_architecture_says() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name[0] != "_"}
    assert set(KNOWS) - rooms - PLANNED_ROOMS <= {"__main__", "__init__"}
    for room in VOCABULARY:
        assert set(KNOWS[room]) < set(VOCABULARY)
    assert LIBRARIES["lightning"] == ("training",)
    assert not {"backbones", "fusion", "decoders", "segmenter", "methods"} & set(KNOWS["data"])
    models = {"backbones", "tuning", "fusion", "decoders", "segmenter", "methods", "weights"}
    assert not models & set(LIBRARIES["rasterio"])
    for room, known in KNOWS.items():
        assert "cli" not in known or room == "__main__"
        assert "web" not in known or room == "cli"  # which starts it


def test_contributing_shows_the_table() -> None:
    assert set(DUTIES) == set(KNOWS) - set(VOCABULARY) - {"__main__", "__init__"}
    shown = (ROOT / "CONTRIBUTING.md").read_text()
    assert f"\n{rooms_table()}\n" in shown, (
        "put in what `python tests/helpers/architecture.py` prints"
    )


def test_every_library_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        re.split(r"[\[<>=~! ;]", requirement)[0].lower()
        for requirement in [*project["dependencies"], *(r for e in extras.values() for r in e)]
    }
    named = {IMPORTED_AS.get(name, name) for name in declared}
    named |= {"affine", "starlette"}  # rasterio's own transforms; what fastapi is made of
    assert set(LIBRARIES) - PLANNED_LIBRARIES <= named


def _tree(root: Path, files: dict[str, str]) -> Path:
    package = root / "terrafuse"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return package


GOOD = {
    "__init__.py": '"""A package."""\n\n__version__ = "1"\n__all__ = ["__version__"]\n',
    "errors.py": '"""Errors."""\n',
    "data/__init__.py": """
        '''Data.'''
        from terrafuse.data.scene import Scene

        __all__ = ["Scene"]
    """,
    "data/scene.py": '"""Scenes."""\n\nimport rasterio\n\nclass Scene: ...\n',
    "methods/__init__.py": '"""Methods."""\n\n__all__ = []\n',
    "methods/single.py": '"""A method."""\n',
    "cli/__init__.py": '"""Verbs."""\n\n__all__ = []\n',
    "cli/app.py": """
        '''The app.'''
        from typing import TYPE_CHECKING
        import typer
        from terrafuse.errors import unknown_name
        if TYPE_CHECKING:
            import torch
        def verb():
            from terrafuse.data import Scene
    """,
}


def test_a_good_tree_has_no_violations(tmp_path: Path) -> None:
    assert violations(_tree(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data/x.py", "import terrafuse.methods", "'data' must not know 'methods'"),
        ("data/x.py", "from terrafuse import methods", "'data' must not know 'methods'"),
        ("data/x.py", "from ..methods import single", "'data' must not know 'methods'"),
        ("data/x.py", "def f():\n  from terrafuse.cli import app", "must not know 'cli'"),
        ("data/x.py", "import importlib\nimportlib.import_module('lightning')", "lightning"),
        ("data/x.py", "from terrafuse.errors import _secret", "'_secret' is private"),
        ("data/x.py", "from terrafuse.data.scene import _read", "'_read' is private"),
        ("cli/x.py", "from terrafuse.data._pool import Pool", "'_pool' is private"),
        (
            "data/x.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from terrafuse.cli import app",
            "must not know 'cli'",
        ),
        ("data/x.py", "from terrafuse import load", "'data' must not know '__init__'"),
        ("errors.py", "from terrafuse.data import Scene", "'errors' must not know 'data'"),
        ("prediction/x.py", "import lightning", "'prediction' must not import lightning"),
        ("evaluation/x.py", "def f():\n  import lightning.pytorch", "must not import lightning"),
        ("methods/x.py", "import rasterio", "'methods' must not import rasterio"),
        ("training/x.py", "from terrafuse.methods.single import A", "not know a single method"),
        ("training/x.py", "from terrafuse.methods import single", "not know a single method"),
        ("data/x.py", "import requests", "library 'requests' is not a dependency"),
        ("stray.py", "", "room 'stray' has no line in KNOWS"),
        ("data/x.py", "import torch\ntorch.load('a')", "without weights_only=True"),
        ("data/x.py", "import torch\ntorch.load('a', weights_only=False)", "weights_only=True"),
        ("data/x.py", "import yaml\nyaml.load(f, Loader=yaml.Loader)", "loader that is not safe"),
        ("data/x.py", "import yaml\nyaml.load(f, yaml.FullLoader)", "loader that is not safe"),
        ("data/x.py", "import yaml\nyaml.unsafe_load(f)", "not safe"),
        ("data/x.py", "from pickle import loads", "runs code from files"),
        ("data/x.py", "import pickle\npickle.load(f)", "pickle.load() is not allowed"),
        ("data/x.py", "import os\nos.system('ls')", "os.system() is not allowed"),
        ("data/x.py", "import subprocess\nsubprocess.run('ls', shell=True)", "shell=True"),
        ("data/x.py", "import numpy\nnumpy.load('a', allow_pickle=True)", "allow_pickle"),
        ("data/x.py", "eval('1')", "eval() is not allowed"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, name: str, text: str, message: str) -> None:
    package = _tree(tmp_path, GOOD | {name: f'"""Planted."""\n{text}\n'})
    found = violations(package)
    assert message in found[0]
    assert all(fault.startswith(f"terrafuse/{name}:") for fault in found)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data/x.py", "x = 1\n", "no docstring"),
        ("data/__init__.py", '"""Data."""\n', "lists no __all__"),
        ("methods/__init__.py", '"""M."""\na = B = 1\n__all__ = ["a", "B"]\n', "not sorted"),
        ("methods/__init__.py", '"""M."""\n__all__ = ["gone"]\n', "'gone', which does not exist"),
    ],
)
def test_a_planted_fault_of_look_is_found(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (found,) = violations(_tree(tmp_path, GOOD | {name: text}))
    assert message in found


def test_derived_safe_loaders_are_safe(tmp_path: Path) -> None:
    text = '"""X."""\nimport yaml\nclass L(yaml.SafeLoader): ...\nyaml.load(f, Loader=L)\n'
    assert violations(_tree(tmp_path, GOOD | {"data/x.py": text})) == []


IMPORT_ALL = """
import importlib, importlib.metadata, json, pkgutil, sys

sys.modules.update(dict.fromkeys(BLOCKED))  # None: importing it fails
installed = importlib.metadata.distribution

def distribution(name):
    # Libraries that use another one where there is one look here (torchmetrics, transformers).
    if IMPORTED_AS.get(name, name.replace("-", "_")) in BLOCKED:
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)

importlib.metadata.distribution = distribution
import terrafuse
faults = []
for module in [terrafuse.__name__, *(m.name for m in
        pkgutil.walk_packages(terrafuse.__path__, "terrafuse."))]:
    if module.endswith("__main__") or module.startswith("terrafuse.web."):
        continue  # the web room says which extra it needs before it imports any of its modules
    loaded = importlib.import_module(module)
    faults += [f"{module}.{n}" for n in getattr(loaded, "__all__", []) if not hasattr(loaded, n)]
print(json.dumps(faults))
"""


def test_every_module_imports_without_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names = {
        re.split(r"[\[<>=~! ;]", r)[0].lower() for r in [r for e in extras.values() for r in e]
    }
    # torchmetrics is a part of lightning, which imports it.
    blocked = {IMPORTED_AS.get(n, n.replace("-", "_")) for n in names} - {"torchmetrics"}
    named = f"BLOCKED, IMPORTED_AS = {sorted(blocked | PLANNED_LIBRARIES)}, {IMPORTED_AS}"
    script = f"{named}\n{IMPORT_ALL}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


HELP = """
import sys
from terrafuse.cli.app import main
sys.argv = ["terrafuse", *ARGS]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "rasterio", "lightning", "timm", "matplotlib", "scipy", "shapely", "pyogrio"}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "args", [["--help"], ["train", "--help"], ["data", "check", "--help"], ["schema"]]
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    script = f"ARGS = {args!r}\n{HELP}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
