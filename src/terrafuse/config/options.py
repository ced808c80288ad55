"""Options of named components, checked against the signature that takes them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from terrafuse.config.base import places_of
from terrafuse.config.run import RunConfig
from terrafuse.errors import ModelError, UnknownNameError, cut, shown, unknown_name

_T = TypeVar("_T")


def check_options(
    kind: str, name: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Check `options` and convert them to keyword-only arguments of `function`.

    Args:
        kind: Kind of component for messages ("method", "decoder").
        name: Name of the component, for messages.
        function: Function or class whose keyword-only parameters are the known options.
        options: Keys and values as a user wrote them.

    Returns:
        The options, converted to the annotated types (a list becomes a tuple where declared).

    Raises:
        UnknownNameError: An option does not exist; the nearest one is named.
        ModelError: A value does not have the annotated type.
    """
    allowed = option_names(function)
    unknown = [key for key in options if key not in allowed]
    if unknown:
        told = unknown_name(f"option of {kind} '{name}'", unknown[0], allowed)
        places = places_of(RunConfig, unknown[0])
        raise UnknownNameError(
            f"{told} As a setting it is {' or '.join(places)}." if places else told
        )
    annotated = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(annotated)
    return {
        key: _convert(f"option '{key}' of {kind} '{name}'", hints.get(key, Any), value)
        for key, value in options.items()
    }


def option_names(function: Callable[..., Any]) -> list[str]:
    """Return the names of the keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def by_modality(
    what: str, value: _T | Mapping[str, _T], names: Sequence[str], **default: _T
) -> dict[str, _T]:
    """Return the value of an option for each modality.

    Args:
        what: Name of the option, for messages.
        value: One value for all, or values by modality.
        names: Names of all modalities.
        default: Value of modalities that `value` omits; without it, none may be omitted.

    Raises:
        UnknownNameError: A modality does not exist.
        ModelError: A modality is omitted.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    unknown = [key for key in value if key not in names]
    if unknown:
        raise UnknownNameError(unknown_name(f"modality in option '{what}'", unknown[0], names))
    lacking = [name for name in names if name not in value]
    if lacking and not default:
        raise ModelError(f"option '{what}' has no value for modality {', '.join(lacking)}")
    return {name: value[name] if name in value else default["default"] for name in names}


def _convert(what: str, annotation: Any, value: Any) -> Any:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(
            annotation, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
        )
    except PydanticSchemaGenerationError:
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        reasons = "; ".join(dict.fromkeys(item["msg"] for item in error.errors()))
        raise ModelError(f"{what} is {shown(value)}: {cut(reasons, 400)}") from None
