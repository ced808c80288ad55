"""What the README and the documentation say is what the code does."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from terrafuse.api.sweep_plan import read_methods
from terrafuse.cli.app import app
from terrafuse.config import AugmentConfig, RunConfig, TrainingConfig
from terrafuse.config.base import parse_settings, read_yaml
from terrafuse.config.pretrain import PretrainConfig, PretrainTrainingConfig
from terrafuse.data.manifest import ManifestSettings, load_manifest
from terrafuse.evaluation import SCORES, ScoreKind
from terrafuse.modalities import Modality
from terrafuse.plugins import is_outside
from terrafuse.pretraining import create_pretrainer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found in _FENCE.finditer(page.read_text(encoding="utf-8")):
            if found[1] == language:
                yield f"{page.relative_to(ROOT).as_posix()}", found[2]


def _ids(blocks: list[tuple[str, str]]) -> list[str]:
    return [f"{page}-{number}" for number, (page, _) in enumerate(blocks)]


YAML = list(_blocks("yaml"))
SHELL = list(_blocks("bash"))
PYTHON = list(_blocks("python"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """`docs/hooks.py`, which makes the tables of the reference."""
    return _load("hooks")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_there_is_something_to_check() -> None:
    heads = [block.splitlines()[0] for _, block in YAML]
    assert heads.count("# run.yaml") > 5
    assert heads.count("# dataset.yaml") > 3
    assert len(SHELL) > 5
    assert len(PYTHON) > 2


@pytest.mark.parametrize(("page", "block"), YAML, ids=_ids(YAML))
def test_yaml_is_valid(
    page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "example.yaml"
    for other, code in PYTHON:
        head = code.partition("\n")[0]
        if other == page and re.fullmatch(r"# \w+\.py", head):  # code that the page names
            (tmp_path / head.removeprefix("# ")).write_text(code)
            monkeypatch.delitem(sys.modules, head[2:-3], raising=False)
    path.write_text(block, encoding="utf-8")
    for area in re.findall(r"\barea: ([\w.]+)", block):  # must be there
        (tmp_path / area).touch()
    if block.startswith("# dataset.yaml"):
        assert load_manifest(path).entries
        return
    if block.startswith("# pretrain.yaml"):
        settings = parse_settings(PretrainConfig, read_yaml(path), page)
        create_pretrainer(settings, [Modality("s1", ("vv", "vh")), Modality("s2", ("r", "nir"))])
        return
    if block.startswith("# methods.yaml"):
        assert read_methods(path)
        return
    values = read_yaml(path)
    if not block.startswith("# run.yaml"):  # a part of one
        values = {"data": {"manifest": "dataset.yaml"}, "method": {"name": "single"}, **values}
        values["data"] = {"manifest": "dataset.yaml", **values["data"]}
    config = parse_settings(RunConfig, values, page)
    _check_method(config)


def _check_method(config: RunConfig) -> None:
    from terrafuse.config.options import check_options
    from terrafuse.methods import METHODS
    from terrafuse.training.losses import LOSSES

    if config.method.name != "difference":  # the example of add-method.md
        check_options(
            "method", config.method.name, METHODS[config.method.name], config.method.options
        )
    for loss in config.training.losses:
        if is_outside(loss.name):  # a user's
            continue
        check_options("loss", loss.name, LOSSES[loss.name], loss.options)


def _commands() -> list[tuple[str, str]]:
    found = []
    for page, block in SHELL:
        text = block.replace("\\\n", " ")
        for line in text.splitlines():
            command = line.partition(" #")[0].strip().removeprefix("srun ")
            if command and not command.startswith("#"):
                found.append((page, command))
    return found


COMMANDS = _commands()


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[c for _, c in COMMANDS])
def test_command_exists(page: str, command: str) -> None:
    words = shlex.split(command)
    if words[0] in ("terrafuse", "torchrun"):
        _check_verb(words[words.index("terrafuse") + 1 :])
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
    elif words[0] == "python":
        assert (ROOT / words[1]).exists(), f"{page}: {words[1]}"
    else:
        install = words[1:] if words[0] == "uv" else words
        assert install[:2] == ["pip", "install"], f"{page}: what is '{command}'?"


def _check_verb(words: list[str]) -> None:
    """Parse the words with the verb's own parser, without running it."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        assert words[0] in command.commands, f"no verb '{words[0]}'"
        command = command.commands[words.pop(0)]
    if words == ["--help"]:
        return
    context = command.make_context("terrafuse", list(words), resilient_parsing=False)
    assert context.params is not None


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=_ids(PYTHON))
def test_python_compiles_and_its_names_exist(page: str, block: str) -> None:
    tree = ast.parse(block, filename=page)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("terrafuse"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_python_api_of_the_readme_exists() -> None:
    import terrafuse
    from terrafuse.api import Run

    assert callable(terrafuse.load)
    assert "rasters" in inspect.signature(Run.predict).parameters


def test_the_example_method_works(tmp_path: Path) -> None:
    import torch

    from terrafuse.modalities import Modality

    page = (ROOT / "docs" / "howto" / "add-method.md").read_text()
    (source,) = (block for _, block in _FENCE.findall(page) if "class Diff" in block)
    path = tmp_path / "difference.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("difference", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    modalities = (Modality("a", ("x", "y")), Modality("b", ("z",)))
    model = module.DifferenceFusion(modalities, 3, backbone="resnet10t").eval()
    images = {"a": torch.rand(1, 2, 40, 50), "b": torch.rand(1, 1, 40, 50)}
    with torch.inference_mode():
        assert model(images).logits.shape == (1, 3, 40, 50)


def test_settings_tables_name_every_key(hooks: ModuleType) -> None:
    text = hooks.run_settings()
    for model in (RunConfig, TrainingConfig, AugmentConfig):
        for name, field in model.model_fields.items():
            assert f"| `{name}` |" in text
            assert not field.description or field.description in text
    assert "## `training.losses[]`" in text
    assert "(≥ 0, < 1)" in text
    text = hooks.pretrain_settings()
    for model in (PretrainConfig, PretrainTrainingConfig):
        for name in model.model_fields:
            assert f"| `{name}` |" in text
    text = hooks.dataset_settings()
    for name in ManifestSettings.model_fields:
        assert f"| `{name}` |" in text


def test_command_tables_name_every_option(hooks: ModuleType) -> None:
    text = hooks.commands_table()
    for verb in ("terrafuse train", "terrafuse data split", "terrafuse predict"):
        assert f"## {verb}\n" in text
    assert "| `--scene dataset.yaml#id` |" in text
    assert "`--raster, -r MODALITY=FILE`" in text


def test_method_and_backbone_tables(hooks: ModuleType) -> None:
    assert "| late_fusion |" in hooks.methods_table()
    assert "resnet18" in hooks.backbones_table()
    page = hooks.on_page_markdown("before\n\n<!-- generated: methods -->\n\nafter\n")
    assert "| single |" in page
    assert "generated" not in page


def test_an_added_score_is_in_the_table(hooks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    added = ScoreKind(
        name="errors", label="errors, px", title="wrong pixels", formula="N − Σ TP",
        undefined="never", compute=lambda _: 0.0, high=inf, higher_is_better=False,
        is_cheap=False,
    )  # fmt: skip
    monkeypatch.setitem(SCORES, "errors", added)
    head, _, *rows = hooks.on_page_markdown("<!-- generated: scores -->").splitlines()
    assert head == "| name | score | formula | range | better | monitor | undefined when |"
    assert [row.split("`")[1] for row in rows] == list(SCORES)
    row = "| `errors` | errors, px, wrong pixels | N − Σ TP | from 0 | lower | no | never |"
    assert rows[-1] == row
    kappa = "| `kappa` | kappa, Cohen's kappa | (OA − p) / (1 − p), p = Σ n · m / N² | -1 to 1 | "
    assert any(row == kappa + "higher | yes | p = 1 or N = 0 |" for row in rows)


def test_markers_have_tables(hooks: ModuleType) -> None:
    named = {
        name
        for page in PAGES
        for name in re.findall(r"<!-- generated: (\w+) -->", page.read_text(encoding="utf-8"))
    }
    assert named == set(hooks.TABLES)


def test_methods_page_describes_every_method() -> None:
    from terrafuse.methods import METHODS

    page = (ROOT / "docs" / "methods" / "index.md").read_text()
    readme = (ROOT / "README.md").read_text()
    for name in METHODS:
        assert f"## {name}\n" in page
        assert f"| `{name}` |" in readme


def test_every_method_page_shows_its_data_flow() -> None:
    figures = _load("flows").figures()
    folder = ROOT / "docs" / "assets" / "flow"
    assert {path.stem for path in folder.iterdir()} == set(figures)
    for name, svg in figures.items():
        stored = (folder / f"{name}.svg").read_text(encoding="utf-8")
        assert stored == svg, "run: python docs/flows.py"
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        shown = f"](../assets/flow/{page.stem}.svg)" in page.read_text(encoding="utf-8")
        assert shown or page.stem == "index", page.name


def test_errors_page_draws_the_tree() -> None:
    from terrafuse import errors

    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    classes = [c for c in vars(errors).values() if inspect.isclass(c)]
    for kind in classes:
        if issubclass(kind, errors.TerrafuseError):
            assert f"{kind.__name__}" in page
            for base in kind.__bases__:
                if base.__module__ == "builtins" and base is not Exception:
                    assert f"{kind.__name__} ({base.__name__})" in page


def test_pages_are_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in config


def test_every_room_has_an_api_page() -> None:
    text = "".join(p.read_text() for p in (ROOT / "docs" / "api").glob("*.md"))
    package = ROOT / "src" / "terrafuse"
    for path in package.iterdir():
        name = path.name.removesuffix(".py")
        if name.startswith("_") or name == "cli" or path.suffix not in ("", ".py"):
            continue
        assert f"::: terrafuse.{name}\n" in text, f"no API page for {name}"


def test_the_first_screen_is_a_picture_a_claim_and_three_commands() -> None:
    first = (ROOT / "README.md").read_text().partition("\n## ")[0]
    title, claim, picture, *rest = [part for part in first.split("\n\n") if part.strip()]
    assert title == "# terrafuse"
    assert claim.startswith("**Rasters in, map out.**")
    assert re.search(r'<img src="docs/assets/demo.png"', picture)
    commands = rest[0].removeprefix("```bash\n").removesuffix("```").splitlines()
    assert len(commands) == 3
    version = importlib.import_module("terrafuse").__version__
    assert commands[0].split()[:4] == [
        "uv", "pip", "install", f"terrafuse-{version}-py3-none-any.whl",
    ]  # fmt: skip
    assert len(first.splitlines()) < 25


def test_notebooks_are_pages_with_all_their_cells(hooks: ModuleType) -> None:
    from notebooks import code_cells

    for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        page = path.with_suffix(".md").read_text()
        assert f"({path.name})" in page
        made = hooks.on_page_markdown(page)
        assert made.startswith("# ")
        for source in code_cells(path):
            assert f"````python\n{source}\n````" in made


class _Links(HTMLParser):
    """Where a page leads, and what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        for key in ("src",) + (("href",) if tag == "link" else ()):
            if given.get(key):
                self.loaded.append(str(given[key]))


@pytest.mark.slow
def test_documentation_opens_from_disk(tmp_path: Path) -> None:
    """Every link of every page leads to a file, and nothing comes from elsewhere."""
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "-d", str(site)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 50
    for page in pages:
        found = _Links()
        found.feed(page.read_text(encoding="utf-8"))
        for link in found.links + found.loaded:
            place = link.partition("#")[0].partition("?")[0]
            is_elsewhere = place.startswith(("http:", "https:", "mailto:"))
            assert not (is_elsewhere and link in found.loaded), f"{page.name} loads {link}"
            if place and not is_elsewhere:
                target = page.parent / unquote(place)
                assert target.is_file(), f"{page.relative_to(site)}: {link} is no file"


@pytest.mark.slow
def test_documentation_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
