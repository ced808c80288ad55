"""Basis of all settings files: strict models, YAML reading and readable error messages."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from terrafuse.config.yaml_reading import NotYamlError, YamlValues, keys_in, parse_yaml, read_file
from terrafuse.errors import ConfigError, cut, shown, unknown_name
from terrafuse.plugins import look_beside

_S = TypeVar("_S", bound=BaseModel)

#: The file in which a run folder keeps its settings, as terrafuse wrote them.
STORED_CONFIG = "config.yaml"

#: Within `backbone_options`: former key → present key.
_RENAMED = {"taps": "out_indices"}

# Faults of one file that a message lists.
_MOST_FAULTS = 6
#: True and false in YAML 1.1, text in 1.2.
_FORMER_BOOLEANS = {
    **dict.fromkeys(("yes", "on"), "true"),
    **dict.fromkeys(("no", "off"), "false"),
}


_MOST_INTEGER = 2**63
# Bytes: names of files, which end in more, may have 255.
_LONGEST_NAME = 200


def _check_name(text: str) -> str:
    size = len(text.encode("utf-8", "replace"))
    if not text.isprintable() or text != text.strip() or not 1 <= size <= _LONGEST_NAME:
        raise ValueError(
            f"give a name of printable characters without a blank at its ends, of 1 to "
            f"{_LONGEST_NAME} bytes"
        )
    return text


#: A name of a class, band, scene or split.
Name = Annotated[str, AfterValidator(_check_name)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values are immutable, numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        refuse_booleans(cls, info.field_name or "", value)
        return value


def refuse_booleans(model: type[BaseModel], field: str, value: Any) -> None:
    """Refuse true and false in a field for numbers or text: pydantic takes true for 1.

    Raises:
        ValueError: There is one.
    """
    if _holds_boolean(value) and not _takes_booleans(model, field):
        raise ValueError("true and false cannot stand here")


def _holds_boolean(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_boolean, value.values()))
    return any(map(_holds_boolean, value)) if isinstance(value, list) else isinstance(value, bool)


@cache
def _takes_booleans(model: type[BaseModel], field: str) -> bool:
    def takes(annotation: Any) -> bool:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return True  # judges its own fields
        if annotation in (bool, Any) or isinstance(annotation, bool):
            return True
        return any(map(takes, getattr(annotation, "__args__", ())))

    return takes(model.model_fields[field].annotation)


class NamedOptions(BaseModel):
    """A named component; every further key is an option of its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    #: Options that users look for in other sections.
    options_elsewhere: ClassVar[frozenset[str]] = frozenset()

    name: str

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        refuse_booleans(cls, info.field_name or "", value)
        return value

    @model_validator(mode="after")
    def _options_are_plain(self) -> Self:
        check_free_values(self.options)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """All keys except `name`."""
        return dict(self.model_extra or {})


def read_yaml(
    path: Path, overrides: Mapping[str, str] | None = None, *, text_keys: Collection[str] = ()
) -> YamlValues:
    """Read a YAML file that holds a mapping.

    Args:
        overrides: Dotted keys → YAML values that replace those in the file.
        text_keys: Keys whose values are text even where they look like numbers, such as ids.

    Raises:
        ConfigError: The file is missing, not YAML, or not a mapping.
    """
    values, text = read_file(path, text_keys)
    if not isinstance(values, dict):
        kind = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"'{path}' must hold keys and values, not {kind}")
    for key, value in (overrides or {}).items():
        _set_dotted(values, key, parse_value(value))
    return YamlValues(values, text, tuple(overrides or ()))


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
        lines = _explain_all(model, values, error)
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def _explain_all(
    model: type[BaseModel], values: Mapping[str, Any], error: ValidationError
) -> list[str]:
    """One line per faulty value, with its place in the file; of many the first ones."""
    reasons: dict[tuple[str, tuple[str | int, ...]], list[str]] = {}
    for item in error.errors(include_url=False):
        keys = keys_in(values, item["loc"])
        if item["type"] == "missing":
            keys = (*keys, item["loc"][-1])
        elif item["type"] == "extra_forbidden":
            keys = item["loc"]
        start, reason = _explain(model, dict(item), keys)
        found = reasons.setdefault((start, keys), [])
        found += [reason] if reason not in found else []
    lines = []
    for (start, keys), found in list(reasons.items())[:_MOST_FAULTS]:
        place = values.place(keys) if isinstance(values, YamlValues) else ""
        lines.append(f"{start}{'; or '.join(found)}{place}")
    if len(reasons) > _MOST_FAULTS:
        lines.append(f"and {len(reasons) - _MOST_FAULTS} more faults")
    return lines


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


def _explain(
    model: type[BaseModel], item: dict[str, Any], keys: Sequence[str | int]
) -> tuple[str, str]:
    """Name a faulty value, and say what is wrong with it."""
    location = [cut(part) for part in keys]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        parent = ".".join(location[:-1])
        places = places_of(model, location[-1])
        if places:
            where = f"of {parent}" if parent else "at the top of the file"
            return "", f"'{location[-1]}' is not a key {where}; it is {' or '.join(places)}"
        kind = f"key in '{parent}'" if parent else "key"
        return "", unknown_name(kind, location[-1], _keys_at(model, location[:-1]))
    if item["type"] == "missing":
        return "", f"'{key}' is missing"
    message = re.sub(r"^Value error, ", "", item["msg"])
    if item["type"] == "int_parsing_size":  # pydantic takes it for a text
        message = "give a whole number of 64 bits at most"
    message += _hint(item)
    return (f"'{key}' is {shown(item['input'])}: " if key else ""), message


def _hint(item: dict[str, Any]) -> str:
    """Tell how to write what YAML takes for another type."""
    fault, value = item["type"], item["input"]
    former = _FORMER_BOOLEANS.get(str(value).lower())
    if former and "True" in str(item.get("ctx", {}).get("expected")):
        return f". {shown(value)} is a text in YAML 1.2; write {former}"
    if fault == "string_type" and isinstance(value, int | float):
        text = {True: "true", False: "false"}[value] if isinstance(value, bool) else shown(value)
        return f". Write a text that looks like another value in quotes: '{text}'"
    return ""


def check_free_values(values: Any, where: Sequence[str] = ()) -> None:
    """Refuse what no option of a component can mean, where its type is not known yet.

    Args:
        values: Options, nested.
        where: Keys that lead to them.

    Raises:
        ValueError: A number that is not finite or exceeds 64 bits; a text that YAML 1.1 took for
            true or false.
    """
    if isinstance(values, Mapping):
        for key, inner in values.items():
            check_free_values(inner, (*where, str(key)))
    elif isinstance(values, list | tuple):
        for inner in values:
            check_free_values(inner, where)
    elif isinstance(values, str) and values.lower() in _FORMER_BOOLEANS:
        raise ValueError(
            f"'{cut('.'.join(where))}' is '{values}', which is a text in YAML 1.2; write "
            f"{_FORMER_BOOLEANS[values.lower()]}"
        )
    elif isinstance(values, int | float) and not abs(values) < _MOST_INTEGER:
        raise ValueError(
            f"'{cut('.'.join(where))}' is {shown(values)}; give a finite number of 64 bits"
        )


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
        return parse_yaml(text)
    except NotYamlError as fault:
        raise ConfigError(
            f"'{cut(text)}' is not a YAML value: {fault}. In quotes it is a text"
        ) from None


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{key}' cannot be set: '{parent}' holds a value, not keys")
        values = inner
    values[last] = value
