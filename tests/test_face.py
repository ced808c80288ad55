"""What a user of the package meets: its names, their types, its lists and its extras."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from a_user import USER
from terrafuse.describe.catalogue import make_catalogue, read_catalogue
from terrafuse.errors import MissingDependencyError
from terrafuse.extras import from_extra

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LAZY = ["terrafuse", "terrafuse.api", "terrafuse.data", "terrafuse.prediction", "terrafuse.weights"]
HEAVY = ("torch", "timm", "torchvision", "transformers", "skimage", "lightning", "matplotlib")


def _run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_are_told_to_type_checkers_as_they_are(package: str) -> None:
    """The imports under TYPE_CHECKING, the table of modules and `__all__` say the same."""
    path = ROOT / "src" / Path(*package.split(".")) / "__init__.py"
    tree = ast.parse(path.read_text())
    (branch,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    (table,) = (
        ast.literal_eval(node.args[1])
        for node in ast.walk(branch)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "import_on_use"
    )
    found = {name: module for module, names in table.items() for name in names}
    verb = {"generate": "terrafuse.api"} if package == "terrafuse" else {}  # a room has its name
    assert found | verb == typed
    listed = set(importlib.import_module(package).__all__)
    assert listed - {"__version__"} == set(typed)


def test_names_are_listed_without_importing_anything_heavy() -> None:
    printed = _run(
        "import sys, terrafuse\n"
        "names = dir(terrafuse)\n"
        f"print(names == terrafuse.__all__, sorted(set({HEAVY}) & set(sys.modules)))\n"
        # A room has the name of a verb; importing it first must not hide the verb.
        "from terrafuse import api\n"
        "print(callable(terrafuse.generate), terrafuse.generate is api.generate)\n"
        "import terrafuse.generate.masks\n"
        "from terrafuse.generate import MaskGenerator\n"
        "print(terrafuse.generate is api.generate, MaskGenerator is terrafuse_masks())\n".replace(
            "terrafuse_masks()", "sys.modules['terrafuse.generate.masks'].MaskGenerator"
        )
    )
    assert printed.splitlines() == ["True []", "True True", "True True"]


@pytest.mark.parametrize("package", LAZY)
def test_every_listed_name_is_found(package: str) -> None:
    module = importlib.import_module(package)
    found = {name: getattr(module, name) for name in module.__all__}
    if package == "terrafuse":
        api = importlib.import_module("terrafuse.api")
        assert found["load"] is api.load
        assert found["Segmenter"] is importlib.import_module("terrafuse.segmenter").Segmenter
    assert not [name for name, value in found.items() if isinstance(value, ModuleType)]


@pytest.mark.parametrize("package", LAZY)
def test_a_name_that_does_not_exist(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'lod'"):
        _ = module.lod


BENEATH = ("lightning", "numpy", "pydantic", "rasterio", "scipy", "timm", "torch", "torchvision")

UNUSED_ROOMS = (
    "backbones", "decoders", "describe", "doctor", "evaluation", "fusion", "generate", "landscape",
    "layouts", "pretraining", "reports", "splits", "training", "tuning",
)  # fmt: skip


def test_a_user_sees_types(tmp_path: Path) -> None:
    """`mypy --strict` on the README's Python and a little more, with two mistakes."""
    (tmp_path / "user.py").write_text(USER)
    # Of the libraries beneath, and of most rooms, which take minutes to look through, nothing is
    # needed here.
    unused = (*BENEATH, *(f"terrafuse.{room}" for room in UNUSED_ROOMS))
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in unused)
    settings = f"[mypy]\nstrict = True\nmypy_path = {ROOT / 'src'}\n{skipped}"
    (tmp_path / "mypy.ini").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "user.py"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    said = re.findall(r"^user\.py:(\d+): (\w+): (.+)$", done.stdout, re.M)
    found = {int(line): text for line, _, text in said}
    assert found[6] == 'Revealed type is "terrafuse.api.runs.Run"', done.stdout
    assert found[7] == 'Revealed type is "pathlib.Path"'
    assert found[10] == 'Revealed type is "int"'
    assert [int(line) for line, kind, _ in said if kind == "error"] == [11, 12]
    assert 'no attribute "lod"' in found[11]
    assert 'incompatible type "int"' in found[12]
    assert (ROOT / "src" / "terrafuse" / "py.typed").exists()


def test_the_stored_list_is_what_the_code_has() -> None:
    stored, made = read_catalogue(), make_catalogue()
    assert stored["methods"] == made["methods"], "run: python -m terrafuse.describe.catalogue"
    pinned = re.search(r"^timm==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned
    if version("timm") != pinned[1]:  # licences are what timm's release says of its weights
        for row in [*stored["backbones"], *made["backbones"]]:
            del row["licence"]
    assert stored["backbones"] == made["backbones"], "run: python -m terrafuse.describe.catalogue"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of a photo and labels in folders."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin

    root = tmp_path_factory.mktemp("rasters")
    rng = np.random.default_rng(0)
    for number, split in enumerate(("train", "test")):
        for name, bands, most in (("photo", 3, 200), ("labels", 1, 2)):
            path = root / split / name / f"{number}.tif"
            path.parent.mkdir(parents=True)
            transform = from_origin(500_000 + 9_000 * number, 5_000_000, 10, 10)
            with rasterio.open(
                path, "w", driver="GTiff", count=bands, height=64, width=64, dtype="uint8",
                crs="EPSG:32633", transform=transform,
            ) as file:  # fmt: skip
                file.write(rng.integers(0, most, (bands, 64, 64), dtype=np.uint8))
    return root


VERBS = """
import sys, warnings
from terrafuse.cli.app import main
for words in VERBS:
    sys.argv = ["terrafuse", *words]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, 1, None), (words, end.code)
    print("LOADED", *sorted(set(HEAVY) & set(sys.modules)))
"""


def _loaded(verbs: Sequence[Sequence[str]]) -> list[str]:
    """After each verb of one process, which of the heavy libraries are there."""
    script = f"HEAVY, VERBS = {HEAVY!r}, {[list(words) for words in verbs]!r}\n{VERBS}"
    lines = _run(script).splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith("LOADED")]


def test_verbs_without_tensors_import_none(dataset: Path, tmp_path: Path) -> None:
    given = str(dataset / "dataset.yaml")
    blocks = ["--block", "16", "--buffer", "0", "--shares", "train=0.5,test=0.5"]
    verbs = [
        ["methods"],
        ["backbones", "--json"],
        ["schema"],
        ["configs", "list"],
        ["configs", "copy", "upseg/gid5", "--out", str(tmp_path / "configs")],
        ["layouts"],
        ["data", "describe", str(dataset), "-o", given],
        ["data", "split", given, "-o", str(tmp_path / "split.yaml"), *blocks],
        ["data", "preview", given, "-o", str(tmp_path / "preview.png")],
    ]
    assert _loaded(verbs) == [""] * 8 + ["matplotlib"]  # the last one draws


def test_verbs_that_read_samples_import_torch_alone(dataset: Path, tmp_path: Path) -> None:
    given = str(tmp_path / "dataset.yaml")
    verbs = [
        ["data", "describe", str(dataset), "-o", given],
        ["data", "stats", given],
        ["data", "check", given],
        ["data", "check", given, "--html", str(tmp_path / "findings.html")],
    ]
    assert _loaded(verbs) == ["", "torch", "torch", "matplotlib torch"]


@pytest.mark.parametrize(
    ("extra", "package", "needs"),
    [
        ("mit", "transformers", "backbone 'mit_b0' needs the package 'transformers'"),
        ("generate", "transformers", "model '.*' needs the package 'transformers'"),
        ("generate", "skimage", "kind 'superpixels' needs the package 'skimage'"),
    ],
)
def test_what_lacks_an_extra_names_it(
    extra: str, package: str, needs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terrafuse.backbones import create_backbone
    from terrafuse.generate import SuperpixelGenerator, find_model

    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    calls: dict[str, Callable[[], object]] = {
        "backbone": lambda: create_backbone("mit_b0", 3),
        "model": lambda: find_model(str(tmp_path), "mask-generation"),
        "kind": SuperpixelGenerator,
    }
    remedy = rf"Run: pip install 'terrafuse\[{extra}\]'"
    with pytest.raises(MissingDependencyError, match=f"{needs}.*{remedy}"):
        calls[needs.split()[0]]()
    extras = PYPROJECT["project"]["optional-dependencies"]
    distribution = {"skimage": "scikit-image"}.get(package, package)
    for name in (extra, "dev"):  # what the remedy installs, and what the tests need
        assert any(re.match(rf"{distribution}\b", line) for line in extras[name])
    base = PYPROJECT["project"]["dependencies"]
    assert not any(line.startswith(distribution) for line in base)


def test_other_failures_are_not_taken_for_a_missing_extra() -> None:
    with pytest.raises(ImportError, match="libtorch"), from_extra("mit", "backbone 'mit_b0'"):
        raise ImportError("libtorch.so: cannot open shared object file")


def test_stored_list_is_plain() -> None:
    rows = read_catalogue()
    assert json.loads(json.dumps(rows)) == rows
    assert [row["name"] for row in rows["methods"]][:2] == ["single", "early_fusion"]
