"""The rules on imports and on the look of modules, read from the source without running it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VOCABULARY = (
    "version",
    "lazy",
    "progress",
    "errors",
    "extras",
    "stopping",
    "locking",
    "writing",
    "memory",
    "cores",
    "plugins",
    "tracing",
    "samples",
    "modalities",
    "classes",
    "config",
)
_DATA = ("data", "sampling", "splits", "layouts", "landscape", "doctor")
_LEARNABLE = ("weights", "backbones", "tuning", "fusion", "decoders", "segmenter")

#: Room → the rooms it may know, from the ground up: each knows only rooms above its own line.
KNOWS: dict[str, tuple[str, ...]] = {
    "version": (),
    "progress": (),
    "errors": (),
    "lazy": (),
    "extras": ("errors",),
    "stopping": (),
    "locking": ("errors", "stopping"),
    "writing": ("errors", "stopping", "locking"),
    "memory": ("errors",),
    "cores": (),
    "plugins": ("errors",),
    "samples": (),
    "tracing": (),
    "modalities": ("errors",),
    "classes": ("errors", "samples"),
    "config": ("errors", "plugins"),
    "data": VOCABULARY,
    "sampling": (*VOCABULARY, "data"),
    "splits": (*VOCABULARY, "data"),
    "layouts": (*VOCABULARY, "data"),
    "landscape": (*VOCABULARY, "data"),
    "doctor": (*VOCABULARY, "data", "splits"),
    "weights": VOCABULARY,
    "backbones": (*VOCABULARY, "weights"),
    "tuning": (*VOCABULARY, "weights", "backbones"),
    "fusion": (*VOCABULARY, "weights"),
    "decoders": (*VOCABULARY, "weights"),
    "segmenter": (*VOCABULARY, "weights", "backbones", "tuning", "fusion", "decoders"),
    "methods": (*VOCABULARY, *_LEARNABLE),
    "describe": (*VOCABULARY, *_LEARNABLE, "data", "sampling", "methods"),
    "pretraining": (*VOCABULARY, *_LEARNABLE, "methods"),
    "exporting": (*VOCABULARY, "weights", "segmenter"),
    "prediction": (*VOCABULARY, "data", "weights", "segmenter"),
    "maps": (*VOCABULARY, "data", "weights", "prediction"),
    "generate": (*VOCABULARY, *_LEARNABLE, "data", "prediction"),
    "evaluation": (*VOCABULARY, "data", "weights", "segmenter", "prediction"),
    "reports": (*VOCABULARY, "data", "doctor", "evaluation"),
    "training": (
        *VOCABULARY, "data", "sampling", "doctor", "weights", "backbones", "segmenter", "methods",
        "describe", "pretraining", "prediction", "evaluation", "reports",
    ),
    "contract": (
        *VOCABULARY, "weights", "backbones", "segmenter", "methods", "exporting", "training",
    ),
    "api": (
        *VOCABULARY, *_LEARNABLE, *_DATA, "methods", "describe", "pretraining", "prediction",
        "maps", "generate", "evaluation", "reports", "training", "contract", "exporting",
    ),
    "demo": (*VOCABULARY, "data", "landscape", "prediction", "reports", "api"),
    "client": ("errors", "version", "progress", "writing"),
    "web": (
        *VOCABULARY, "data", "splits", "weights", "methods", "prediction", "maps", "evaluation",
        "reports", "api",
    ),
    "cli": (
        *VOCABULARY, *_LEARNABLE, *_DATA, "methods", "describe", "prediction", "maps",
        "generate", "evaluation", "reports", "training", "contract", "api", "demo", "web",
    ),
    "__main__": ("cli",),
    "__init__": (
        "version", "lazy", "modalities", "classes", "data", "backbones", "segmenter", "methods",
        "prediction", "api",
    ),
}  # fmt: skip

#: What each room is for, as CONTRIBUTING.md says it; the vocabulary has one row.
DUTIES = {
    "data": "rasters on disk → scenes and manifests",
    "sampling": "scenes → batches to learn from",
    "splits": "which scene trains, validates, tests",
    "layouts": "published folders → manifest",
    "landscape": "a made-up place with known truth",
    "doctor": "what is wrong with a data set",
    "weights": "files of weights, run folders",
    "backbones": "image → levels",
    "tuning": "what of a backbone learns",
    "fusion": "levels of several modalities → one",
    "decoders": "levels → class scores",
    "segmenter": "the model contract",
    "methods": "one paper, one file",
    "describe": "a model before it costs anything",
    "pretraining": "objectives without labels",
    "exporting": "models as graphs that run elsewhere",
    "prediction": "map a scene",
    "maps": "what is done with finished maps",
    "generate": "a second modality out of photos",
    "evaluation": "judge",
    "reports": "figures and pages from results",
    "training": "learn; the only room with Lightning",
    "contract": "what every method keeps, as checks",
    "api": "verbs as functions",
    "demo": "a synthetic landscape, from rasters to the report",
    "client": "the service, called from Python",
    "web": "the viewer and the service",
    "cli": "verbs on the command line",
}

_EVERY = tuple(KNOWS)
_MODELS = ("backbones", "tuning", "fusion", "decoders", "segmenter", "methods")
_RASTERS = (
    "data",
    "layouts",
    "landscape",
    "doctor",
    "prediction",
    "maps",
    "generate",
    "demo",
    "web",
)
_TENSORS = (
    "samples", "tracing", *_MODELS, "exporting", "weights", "data", "sampling", "doctor",
    "describe", "pretraining", "prediction", "generate", "evaluation", "training", "contract",
)  # fmt: skip

#: Library → the rooms that may import it. What is not here is not a dependency.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "numpy": _EVERY,
    "pydantic": _EVERY,
    "yaml": ("config", "data", "training", "weights", "demo", "cli"),
    "torch": _TENSORS,
    "torchvision": ("sampling", "backbones", "methods"),
    "timm": ("backbones", "tuning", "methods", "describe", "generate"),
    "transformers": ("backbones", "methods", "generate"),
    "skimage": ("generate",),
    "safetensors": ("weights", "prediction"),
    "huggingface_hub": ("weights",),
    "lightning": ("training",),
    "rasterio": _RASTERS,
    "affine": _RASTERS,
    "pyogrio": ("data", "prediction", "maps", "web"),
    "shapely": ("data", "prediction", "maps", "web"),
    "scipy": (
        "data",
        "landscape",
        "doctor",
        "generate",
        "evaluation",
        "prediction",
        "maps",
        "training",
        "reports",
    ),
    "matplotlib": ("reports",),
    "PIL": ("reports", "data", "generate", "prediction", "maps", "web"),
    "pyarrow": ("maps",),
    "rich": ("progress", "cli"),
    "typer": ("cli",),
    "ray": ("prediction",),
    "fastapi": ("web",),
    "starlette": ("web",),
    "uvicorn": ("web",),
    "sqlalchemy": ("web",),
    "rio_tiler": ("web",),
    "onnx": ("exporting",),
    "onnxscript": ("exporting",),
    "onnxruntime": ("exporting", "prediction"),
}

#: Modules that run whatever the file they read contains.
_UNSAFE_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
_UNSAFE_CALLS = ("os.system", "os.popen", "eval", "exec", "pickle.load", "pickle.loads")


@dataclass(frozen=True)
class Import:
    """One imported module, and the name taken from it, if any."""

    module: str
    name: str | None
    line: int
    for_types: bool


def rooms_table() -> str:
    """The table of rooms in CONTRIBUTING.md; `python tests/helpers/architecture.py` prints it."""
    rows = [("room", "duty", "may know"), ("---", "---", "---")]
    rows.append((f"`{' '.join(VOCABULARY)}`", "the vocabulary", "other vocabulary"))
    above = set(VOCABULARY)
    for room, duty in DUTIES.items():
        knows = [name for name in KNOWS[room] if name not in VOCABULARY]
        groups = ["vocabulary"] if set(VOCABULARY) <= set(KNOWS[room]) else []
        others = sorted(above - set(KNOWS[room]))
        if len(others) < len(knows):
            groups = ["all above" + (f" but {', '.join(others)}" if others else "")]
        else:
            groups += knows
        rows.append((f"`{room}`", duty, ", ".join(groups)))
        above.add(room)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def violations(package: Path) -> list[str]:
    """Every breach of the rules in a package, as "file:line: what".

    Imports inside functions count like all others: knowing a room late is still knowing it. Under
    TYPE_CHECKING the same holds for our own rooms, but a library is not imported there.
    """
    found = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        room = relative.parts[0].removesuffix(".py")
        faults = [
            *_import_faults(tree, room, relative, package),
            *_look_faults(tree, relative),
            *_unsafe_faults(tree),
        ]
        found += [f"{package.name}/{relative.as_posix()}:{line}: {text}" for line, text in faults]
    return found


def _import_faults(
    tree: ast.Module, room: str, relative: Path, package: Path
) -> Iterator[tuple[int, str]]:
    if room not in KNOWS:
        yield 1, f"room '{room}' has no line in KNOWS"
        return
    here = [package.name, *relative.with_suffix("").parts]
    for item in imports(tree, here):
        library, *inner = item.module.split(".")
        if library != package.name:
            yield from _library_faults(item, library, room)
            continue
        if not inner and item.name and _is_module(package, item.name):
            inner = [item.name]
        target = inner[0] if inner else "__init__"
        if target not in (room, *KNOWS[room]):
            yield item.line, f"'{room}' must not know '{target}'"
        private = _private_part([*inner, item.name or ""], here)
        if private:
            yield item.line, f"'{private}' is private to '{item.module}'"
        if target == "methods" and room != "methods" and _names_module(package, inner, item.name):
            yield item.line, f"'{room}' must not know a single method"


def _library_faults(item: Import, library: str, room: str) -> Iterator[tuple[int, str]]:
    if library in _UNSAFE_MODULES and item.name not in ("UnpicklingError", None):
        yield item.line, f"'{library}' runs code from files"
    if library in sys.stdlib_module_names or item.for_types:
        return
    if library not in LIBRARIES:
        yield item.line, f"library '{library}' is not a dependency"
    elif room not in LIBRARIES[library]:
        yield item.line, f"'{room}' must not import {library}"


def imports(tree: ast.Module, here: list[str]) -> Iterator[Import]:
    """Every import of a module, wherever it stands, also by `import_module("name")`."""
    typed = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for_types = id(node) in typed
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno, for_types)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, for_types)
        elif isinstance(node, ast.Call) and _dotted(node.func).endswith("import_module"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield Import(first.value, None, node.lineno, for_types)


def _look_faults(tree: ast.Module, relative: Path) -> Iterator[tuple[int, str]]:
    if not ast.get_docstring(tree):
        yield 1, "no docstring says what the module is"
    if relative.name != "__init__.py":
        return
    exported = _exported(tree)
    if exported is None:
        yield 1, "the package lists no __all__"
        return
    if exported != sorted(exported, key=_rank):
        yield 1, f"__all__ is not sorted: {exported}"
    bound = _bound(tree)
    if "__getattr__" not in bound:
        for name in exported:
            if name not in bound:
                yield 1, f"__all__ names '{name}', which does not exist"


def _unsafe_faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    safe_loaders = {"SafeLoader", "CSafeLoader"}
    safe_loaders |= {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(_dotted(base).rpartition(".")[2] in safe_loaders for base in node.bases)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        call = _dotted(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
        if call == "torch.load" and given.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        if call in ("yaml.load", "yaml.load_all"):
            loader = given.get("Loader") or ast.unparse(node.args[-1])
            if loader.rpartition(".")[2] not in safe_loaders:
                yield node.lineno, "yaml.load with a loader that is not safe"
        if call.startswith("yaml.") and call.rpartition(".")[2].startswith(("unsafe", "full")):
            yield node.lineno, f"{call} is not safe"
        if given.get("shell") == "True":
            yield node.lineno, "shell=True"
        if given.get("allow_pickle") == "True":
            yield node.lineno, "allow_pickle=True"
        if call in _UNSAFE_CALLS:
            yield node.lineno, f"{call}() is not allowed"


def _private_part(path: list[str], here: list[str]) -> str | None:
    """The first part that begins with an underscore, unless its package is the importer's own."""
    for i, part in enumerate(path):
        if part.startswith("_") and not part.startswith("__") and here[1:-1] != path[:i]:
            return part
    return None


def _is_module(package: Path, name: str) -> bool:
    return (package / f"{name}.py").exists() or (package / name).is_dir()


def _names_module(package: Path, inner: list[str], name: str | None) -> bool:
    return len(inner) > 1 or bool(name and _is_module(package.joinpath(*inner), name))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(node, ast.AnnAssign):
            target = node.target
        if isinstance(target, ast.Name) and target.id == "__all__":
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            names: list[str] = list(ast.literal_eval(node.value))
            return names
    return None


def _bound(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _rank(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as the linter sorts them."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


if __name__ == "__main__":
    sys.stdout.write(rooms_table())
