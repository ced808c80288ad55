"""Basis of all settings files: strict models, YAML reading and readable error messages."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from terrafuse.errors import ConfigError, unknown_name
from terrafuse.plugins import look_beside

_S = TypeVar("_S", bound=BaseModel)

#: The file in which a run folder keeps its settings, as terrafuse wrote them.
STORED_CONFIG = "config.yaml"

#: Within `backbone_options`: former key → present key.
_RENAMED = {"taps": "out_indices"}


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NamedOptions(BaseModel):
    """A named component; every further key is an option of its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)

    #: Options that users look for in other sections.
    options_elsewhere: ClassVar[frozenset[str]] = frozenset()

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """All keys except `name`."""
        return dict(self.model_extra or {})


def read_yaml(path: Path, overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        overrides: Dotted keys → YAML values that replace those in the file.

    Raises:
        ConfigError: The file is missing, not YAML, or not a mapping.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    except FileNotFoundError:
        raise ConfigError(f"there is no file '{path}'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"'{path}' is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"'{path}' must hold keys and values, not {type(values).__name__}")
    for key, value in (overrides or {}).items():
        _set_dotted(values, key, parse_value(value))
    return values


def find_code_beside(path: Path, values: Any, overrides: Mapping[str, str] | None = None) -> None:
    """Let modules that a settings file names be found beside it; nothing is imported.

    Not so of a run folder's own file: what came with a run folder is not run. Modules named on the
    command line may be in the working directory, too.
    """
    if path.name != STORED_CONFIG:
        look_beside(values, path.parent)
    look_beside([parse_value(value) for value in (overrides or {}).values()], Path.cwd())


def parse_settings(model: type[_S], values: Mapping[str, Any], where: str) -> _S:
    """Validate `values` as `model`, with all errors in one readable message.

    Keys under former names are accepted, with a warning unless the file is a run folder's.

    Args:
        values: Keys and values of the file.
        where: Names the file in messages.

    Raises:
        ConfigError: Lists each faulty key, the value received and what is allowed.
    """
    told = None if Path(where).name == STORED_CONFIG else where  # nobody is to edit that one
    try:
        return model.model_validate(with_present_names(values, told))
    except ValidationError as error:
        lines = [_explain(model, dict(item)) for item in error.errors()]
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def with_present_names(values: Mapping[str, Any], where: str | None = None) -> dict[str, Any]:
    """Return `values` with the backbone options under their present names.

    Args:
        values: Keys and values of a method, or of a settings file.
        where: Names the file in the warning about each former name; None: no warning.

    Raises:
        ConfigError: A key is given under both names.
    """
    renamed: dict[str, Any] = _renamed(values, "", where)
    return renamed


def _renamed(values: Any, path: str, where: str | None) -> Any:
    """Rename the keys of the values at a dotted path."""
    if not isinstance(values, Mapping):
        return values
    renames = _RENAMED if "backbone_options" in path.split(".") else {}
    present: dict[Any, Any] = {}
    for key, value in values.items():
        name, old = renames.get(str(key), key), f"{path}.{key}".lstrip(".")
        if name != key and name in values:
            raise ConfigError(f"'{path}' holds '{key}' and '{name}', which are one; delete '{key}'")
        if name != key and where is not None:
            warnings.warn(f"{where}: '{old}' is called '{name}' now; rename it", stacklevel=4)
        present[name] = _renamed(value, old, where)
    return present


def _explain(model: type[BaseModel], item: dict[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        parent = ".".join(location[:-1])
        places = places_of(model, location[-1])
        if places:
            where = f"of {parent}" if parent else "at the top of the file"
            return f"'{location[-1]}' is not a key {where}; it is {' or '.join(places)}"
        kind = f"key in '{parent}'" if parent else "key"
        return unknown_name(kind, location[-1], _keys_at(model, location[:-1]))
    if item["type"] == "missing":
        return f"'{key}' is missing"
    message = re.sub(r"^Value error, ", "", item["msg"])
    return f"'{key}' is {item['input']!r}: {message}" if key else message


def places_of(model: type[BaseModel], key: str) -> list[str]:
    """Every place at which settings have a key, as dotted paths; options of things by name too.

    Args:
        model: The settings.
        key: Its name; of a list of settings the place is `losses[].weight`.
    """
    return list(dict.fromkeys(_walk(model, key, "")))


def _walk(model: type[BaseModel], key: str, path: str) -> Iterator[str]:
    if issubclass(model, NamedOptions) and key in model.options_elsewhere:
        yield f"{path}.{key}"
    for name, field in model.model_fields.items():
        here = f"{path}.{name}".lstrip(".")
        if name == key or field.alias == key:
            yield here
        origin = getattr(field.annotation, "__origin__", None)
        part = ".NAME" if origin is dict else "[]" if origin in (list, tuple) else ""
        for inner in _models_in(field.annotation):
            yield from _walk(inner, key, here + part)


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def parse_value(text: str) -> Any:
    """Parse a YAML value given on the command line.

    Raises:
        ConfigError: The text is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ConfigError(f"'{text}' is not a YAML value: {error}") from None


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{key}' cannot be set: '{parent}' holds a value, not keys")
        values = inner
    values[last] = value


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-3` as a number, as YAML 1.2 and every user do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+"
        r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    ),
    list("-+0123456789."),
)
