"""Code from outside the package: `module:Name`, and entry points of other distributions.

One resolver for methods, backbones, decoders, losses and layouts. Nothing is imported before a user
names it, and a distribution that is broken concerns those only who name what it provides.

A module is found as Python finds it (installed, PYTHONPATH), or beside the settings file that
names it. A run folder gives no place to look in: whoever made it does not choose what runs here.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from terrafuse.errors import PluginError, UnknownNameError, unknown_name

#: What other distributions may provide → the group of their entry points.
GROUPS: Mapping[str, str] = {
    "method": "terrafuse.methods",
    "backbone": "terrafuse.backbones",
    "decoder": "terrafuse.decoders",
    "loss": "terrafuse.losses",
    "layout": "terrafuse.layouts",
}
_OUTSIDE = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")


@dataclass(frozen=True)
class Plugin:
    """An extension that a distribution provides under a name; nothing is imported for it.

    Args:
        name: As run.yaml names it.
        module: Where it is.
        attribute: Its name there.
        distribution: Name and version.
    """

    name: str
    module: str
    attribute: str
    distribution: str

    @property
    def source(self) -> str:
        """Form for lists."""
        return f"{self.distribution} ({self.module}:{self.attribute})"


@dataclass(frozen=True)
class Origin:
    """Origin of code from outside that a run used, as its folder records it.

    Args:
        module: Its module.
        file: Of the module, where it was imported; empty where there is none.
        sha256: Digest of the file.
        distribution: Name and version of the distribution; empty for `module:Name`.
    """

    module: str
    file: str
    sha256: str
    distribution: str


# Folders of the settings files that name something, by the name; and what was imported.
_beside: dict[str, list[Path]] = {}
_origins: dict[str, Origin] = {}


def is_outside(name: object) -> bool:
    """Tell whether a name is of the form `module:Name`."""
    return isinstance(name, str) and _OUTSIDE.fullmatch(name) is not None


def look_beside(values: Any, folder: Path) -> None:
    """Let modules that settings name be found in a folder too; nothing is imported.

    Args:
        values: A name, or settings with names anywhere in them.
        folder: Of the file with the settings.
    """
    place = folder.expanduser().resolve()
    for text in filter(is_outside, _texts(values)):
        places = _beside.setdefault(text, [])
        if place not in places:
            places.append(place)


def list_plugins(kind: str) -> list[Plugin]:
    """List what installed distributions provide of a kind; nothing is imported.

    Args:
        kind: A key of `GROUPS`.
    """
    found: dict[str, set[Plugin]] = {}
    for distribution in distributions():
        try:
            name = f"{distribution.metadata['Name']} {distribution.version}"
            points = distribution.entry_points.select(group=GROUPS[kind])
            own = {Plugin(point.name, *_parts(point.value), name) for point in points}
        except Exception as error:  # whatever its metadata hold
            place = getattr(distribution, "_path", "an installed distribution")
            warnings.warn(f"'{place}' has no readable entry points ({error})", stacklevel=2)
            continue
        # Of a distribution that is there twice, Python takes the first.
        found.setdefault(name.partition(" ")[0].lower(), own)
    flat = (plugin for plugins in found.values() for plugin in plugins)
    return sorted(flat, key=lambda plugin: (plugin.name, plugin.source))


def find(
    kind: str, name: str, own: Mapping[str, Any], fits: Callable[[Any], bool], should_be: str
) -> Any:
    """Find what a name stands for: the package's, `module:Name`, or a distribution's.

    Args:
        kind: A key of `GROUPS`.
        name: As a user wrote it.
        own: What the package has, which no other distribution replaces.
        fits: Whether what was found is of the kind.
        should_be: What it has to be, for the message.

    Raises:
        UnknownNameError: No such name; the nearest is named.
        PluginError: It is outside the package, and cannot be imported or is something else.
    """
    if name in own:
        return own[name]
    if is_outside(name):
        module, attribute = _parts(name)
        what, distribution = f"{kind} '{name}'", ""
    else:
        plugin = _installed(kind, name, own)
        module, attribute, distribution = plugin.module, plugin.attribute, plugin.distribution
        what = f"{kind} '{name}' of the distribution {distribution}"
    value = _take(what, name, module, attribute)
    if not fits(value):
        raise PluginError(
            f"{what} is {_described(value)} in {_file_of(sys.modules[module])}; it has to be "
            f"{should_be}"
        )
    _origins[name] = _origin(module, distribution)
    return value


def origins_in(values: Any) -> dict[str, dict[str, str]]:
    """Collect the origins of outside names anywhere in settings."""
    names = dict.fromkeys(text for text in _texts(values) if text in _origins)
    return {name: asdict(_origins[name]) for name in names}


def folder_of(origin: Mapping[str, str]) -> Path | None:
    """The folder in which Python would find the module of something from outside."""
    if not origin["file"]:
        return None
    file = Path(origin["file"])
    return file.parents[origin["module"].count(".") + (file.name == "__init__.py")]


def folders_to_add(stored: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Folders of modules that lie beside a settings file, where Python does not look.

    Args:
        stored: What `origins_in` said.
    """
    found = [folder_of(origin) for origin in stored.values() if not origin["distribution"]]
    searched = {Path(place or ".").resolve() for place in sys.path}
    return list(dict.fromkeys(str(f) for f in found if f is not None and f not in searched))


def say_what_changed(stored: Mapping[str, Mapping[str, str]], where: str) -> None:
    """Warn about code that is not as it was when a run was trained.

    Args:
        stored: What `origins_in` said then.
        where: Names the run.
    """
    for name, then in stored.items():
        now = _origins.get(name)
        if now is not None and then["sha256"] and now.sha256 != then["sha256"]:
            warnings.warn(
                f"'{name}' is in '{now.file}' now, whose code is another than that which "
                f"{where} was trained with ('{then['file']}'); its map may be another one too",
                stacklevel=3,
            )


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _texts(value)
    elif isinstance(values, Sequence):
        for value in values:
            yield from _texts(value)


def _parts(value: str) -> tuple[str, str]:
    module, _, attribute = value.partition("[")[0].strip().partition(":")
    return module.strip(), attribute.strip()


def _installed(kind: str, name: str, own: Mapping[str, Any]) -> Plugin:
    """The entry point of a name.

    Raises:
        UnknownNameError: There is none.
        PluginError: Two distributions provide it, or it is no name at all.
    """
    if ":" in name:
        raise PluginError(
            f"{kind} '{name}' is not of the form module:Name (my_module:MyClass, or "
            "package.module:MyClass)"
        )
    plugins = list_plugins(kind)
    named = [plugin for plugin in plugins if plugin.name == name]
    if not named:
        raise UnknownNameError(unknown_name(kind, name, [*own, *(p.name for p in plugins)]))
    if len(named) > 1:
        sources = " and ".join(plugin.source for plugin in named)
        raise PluginError(
            f"{kind} '{name}' is provided by {sources}. Uninstall one of them, or write which is "
            f"meant: {named[0].module}:{named[0].attribute}"
        )
    return named[0]


def _take(what: str, name: str, module: str, attribute: str) -> Any:
    loaded = _import(what, name, module)
    try:
        return reduce(getattr, attribute.split("."), loaded)
    except AttributeError:
        own = [n for n, v in vars(loaded).items() if getattr(v, "__module__", "") == module]
        known = [n for n in own or vars(loaded) if not n.startswith("_")]
        told = unknown_name(f"name in {_file_of(loaded)}", attribute, known)
        raise PluginError(f"{what} is not there: {told}") from None


def _import(what: str, name: str, module: str) -> ModuleType:
    """A module, once it is clear which one is meant.

    Raises:
        PluginError: It is not there, there are two of its name, or it does not run.
    """
    folder = _folder_of(what, name, module)
    try:
        with _also_in(folder):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if module != missing and not module.startswith(f"{missing}."):
            raise PluginError(f"{what} cannot be imported: {_fault(error)}") from error
        places = "".join(f" or in '{place}'" for place in _beside.get(name, ()))
        way = (
            f"Write '{missing.replace('.', '/')}.py' beside the file that names it, install it, or "
            "put its folder on PYTHONPATH"
        )
        parent = missing.rpartition(".")[0]
        if parent in sys.modules and not hasattr(sys.modules[parent], "__path__"):
            way = f"'{parent}' is one module, not a folder of them: write '{parent}:…'"
        raise PluginError(
            f"{what}: there is no module '{missing}' where Python looks{places}. {way}"
        ) from None
    except (Exception, SystemExit) as error:  # whatever a module does while it is imported
        raise PluginError(f"{what} cannot be imported: {_fault(error)}") from error


def _folder_of(what: str, name: str, module: str) -> Path | None:
    """The folder beside whose settings a module lies; None where Python finds it anyway.

    Raises:
        PluginError: Two modules have this name.
    """
    importlib.invalidate_caches()
    top = module.partition(".")[0]
    here: dict[str, Path | None] = {}
    for folder in _beside.get(name, ()):
        spec = PathFinder.find_spec(top, [str(folder)])
        if spec is not None and spec.origin is not None:
            here[str(Path(spec.origin).resolve())] = folder
    found = _found_by_python(top)
    if found is not None:
        here[found] = None
    if len(here) > 1:
        raise PluginError(
            f"{what}: there are {len(here)} modules '{top}': {' and '.join(sorted(here))}. "
            "Rename one of them; in a session that has imported one, start anew for the other"
        )
    return next(iter(here.values()), None)


def _found_by_python(top: str) -> str | None:
    """The file of a module, which is not imported for this."""
    loaded = sys.modules.get(top)
    spec = None if loaded else importlib.util.find_spec(top)
    origin = getattr(loaded, "__file__", None) if loaded else spec and spec.origin
    if loaded is None and spec is None:
        return None
    return str(Path(origin).resolve()) if origin and Path(origin).exists() else f"'{top}' of Python"


@contextmanager
def _also_in(folder: Path | None) -> Iterator[None]:
    # While one module is imported, so that no other import ever finds something there.
    if folder is None:
        yield
        return
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _fault(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    last = next((f for f in reversed(frames) if "importlib" not in f.filename), None)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__} in {error.filename}, line {error.lineno}: {error.msg}"
    place = f" in {last.filename}, line {last.lineno}" if last else ""
    return f"{type(error).__name__}{place}: {error}"


def _described(value: Any) -> str:
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    return f"an object of type {type(value).__name__}"


def _file_of(module: ModuleType) -> str:
    return f"'{getattr(module, '__file__', None) or module.__name__}'"


def _origin(module: str, distribution: str) -> Origin:
    file = getattr(sys.modules[module], "__file__", None) or ""
    path = Path(file)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if file and path.is_file() else ""
    return Origin(module, str(path.resolve()) if file else "", digest, distribution)
