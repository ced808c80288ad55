"""Tables of the reference pages, made from the code while the documentation is built.

A line `<!-- generated: NAME -->` in a page is replaced by the table of that name.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_SNIPPET = re.compile(r'^--8<-- "(\w+\.md)"$', re.MULTILINE)
_MARKER = re.compile(r"^<!-- generated: ([a-z_]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return _MARKER.sub(lambda found: TABLES[found[1]](), _SNIPPET.sub(_include, markdown))


def _include(found: re.Match[str]) -> str:
    """A file above docs/ that is shown as a page, with its links as they hold there."""
    text = (Path(__file__).parents[1] / found[1]).read_text(encoding="utf-8")
    return text.replace("](docs/", "](")


def settings_tables(model: type[BaseModel], heading: str = "") -> str:
    """One table per settings class, from the outermost to the innermost."""
    parts = []
    for path, part in _walk(model, heading):
        title = f"## `{path}`\n\n" if path else ""
        parts.append(title + _first_line(part) + "\n\n" + _settings_table(part))
    return "\n\n".join(parts)


def _walk(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        for inner, suffix in _models(field.annotation):
            yield from _walk(inner, f"{path}.{name}{suffix}".lstrip("."))


def _settings_table(model: type[BaseModel]) -> str:
    rows = [
        (f"`{field.alias or name}`", _type_name(field.annotation), _default(field), _meaning(field))
        for name, field in model.model_fields.items()
    ]
    return _table(("key", "value", "default", "meaning"), rows)


def _models(annotation: Any, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, suffix
        return
    origin = get_origin(annotation)
    if origin is dict:
        yield from _models(get_args(annotation)[1], suffix + ".NAME")
    elif origin in (list, tuple):
        yield from _models(get_args(annotation)[0], suffix + "[]")
    elif origin in (Union, types.UnionType, typing.Annotated):
        for part in get_args(annotation):
            yield from _models(part, suffix)


_PLAIN = {
    bool: "true / false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    Any: "any",
    type(None): "null",
}


def _type_name(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin is typing.Annotated:
        return _type_name(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_name(a) for a in args if a is not type(None)))
    if origin in (list, tuple) or getattr(origin, "__name__", "") == "Sequence":
        inner = [a for a in args if a is not Ellipsis]
        if origin is tuple and Ellipsis not in args and len(args) > 1:
            return f"list of {len(args)} {_plural(_type_name(args[0]))}"
        return f"list of {_plural(_type_name(inner[0]))}"
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        return f"names → {_type_name(args[1])}"
    return "keys" if _models_of(annotation) else getattr(annotation, "__name__", str(annotation))


def _plural(name: str) -> str:
    return {"text": "texts", "number": "numbers", "whole number": "whole numbers"}.get(name, name)


def _models_of(annotation: Any) -> bool:
    return next(_models(annotation), None) is not None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return "below"
    return _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"`[{', '.join(_shown(item).strip('`') for item in value)}]`"
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{k}: {_shown(v).strip('`')}" for k, v in value) + "}"
    if value is None or isinstance(value, bool):
        return {None: "–", True: "`true`", False: "`false`"}[value]
    return f"`{value}`" if value != {} else "–"


_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _meaning(field: FieldInfo) -> str:
    limits = [
        f"{sign} {_number(getattr(item, name))}"
        for item in field.metadata
        for name, sign in _LIMITS.items()
        if getattr(item, name, None) is not None
    ]
    inner = next(_models(field.annotation), None)
    text = field.description or (inner and _first_line(inner[0])) or ""
    return f"{text} ({', '.join(limits)})" if limits else text


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def commands_table() -> str:
    """Every verb with its arguments and options."""
    import typer

    from terrafuse.cli.app import app

    sections = []
    for path, command in _commands(typer.main.get_command(app), "terrafuse"):
        rows = [
            (_usage(p), (getattr(p, "help", None) or "").replace("|", "\\|"), _option_default(p))
            for p in command.params
            if p.name != "help"
        ]
        help_text = (command.help or "").strip()
        table = _table(("argument", "meaning", "default"), rows) if rows else ""
        sections.append(f"## {path}\n\n{help_text}\n\n{table}")
    return "\n\n".join(sections)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if not children:
        yield path, command
        return
    for name, child in children.items():
        yield from _commands(child, f"{path} {name}")


def _usage(parameter: Any) -> str:
    metavar = parameter.metavar or ""
    if parameter.param_type_name == "argument":
        return f"`{metavar or parameter.name.upper()}`"
    names = ", ".join(parameter.opts)
    return f"`{names}`" if parameter.is_flag else f"`{names} {metavar or 'VALUE'}`"


def _option_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or callable(value) or str(value).startswith("Sentinel"):
        return "–"
    return f"`{value}`"


def methods_table() -> str:
    """What `terrafuse methods` prints."""
    from terrafuse.methods import list_methods

    return _dicts_table(list_methods())


def backbones_table() -> str:
    """What `terrafuse backbones` prints."""
    from terrafuse.backbones import list_backbones

    return _dicts_table(list_backbones())


def scores_table() -> str:
    """Every score over all classes."""
    from terrafuse.evaluation import SCORES

    head = ("name", "score", "formula", "range", "better", "monitor", "undefined when")
    rows = [
        (
            f"`{kind.name}`",
            f"{kind.label}, {kind.title}",
            kind.formula,
            kind.range,
            "higher" if kind.higher_is_better else "lower",
            _cell(kind.is_cheap),
            kind.undefined,
        )
        for kind in SCORES.values()
    ]
    return _table(head, rows)


def _dicts_table(items: Iterable[Any]) -> str:
    rows = [item if isinstance(item, dict) else dataclasses.asdict(item) for item in items]
    head = [str(key).replace("_", " ") for key in rows[0]]
    return _table(head, [[_cell(value) for value in row.values()] for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value in (None, "") else str(value)


def run_settings() -> str:
    """Every key of `run.yaml`."""
    from terrafuse.config import RunConfig

    return settings_tables(RunConfig)


def pretrain_settings() -> str:
    """Every key of `pretrain.yaml`."""
    from terrafuse.config.pretrain import PretrainConfig

    return settings_tables(PretrainConfig)


def dataset_settings() -> str:
    """Every key of `dataset.yaml`."""
    from terrafuse.data import manifest

    return settings_tables(manifest.ManifestSettings)


def units_table() -> str:
    """Every unit that a manifest may name."""
    from terrafuse.modalities import UNITS

    return _table(("unit", "what it is"), ((f"`{unit}`", text) for unit, text in UNITS.items()))


def notebook(name: str) -> str:
    """The cells of a notebook as a page."""
    path = Path(__file__).parent / "notebooks" / f"{name}.ipynb"
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        fence = "````"  # longer than those that a cell may write
        is_code = cell["cell_type"] == "code"
        parts.append(f"{fence}python\n{source}\n{fence}" if is_code else source)
    return "\n\n".join(parts)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "run": run_settings,
    "pretrain": pretrain_settings,
    "dataset": dataset_settings,
    "units": units_table,
    "commands": commands_table,
    "notebook_rasters_to_map": lambda: notebook("rasters-to-map"),
    "notebook_new_fusion": lambda: notebook("new-fusion"),
    "methods": methods_table,
    "backbones": backbones_table,
    "scores": scores_table,
}
