"""Write frontend/src/shared/contract.ts: what the page and the server agree on, in TypeScript.

The models of `terrafuse.web.viewer.document` and of `terrafuse.web.service` are the source; `make
web-types` runs this, and tests/web/test_contract.py compares.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from terrafuse.web.service import asker, files, messages
from terrafuse.web.viewer import document

TARGET = Path(__file__).resolve().parents[1] / "src" / "shared" / "contract.ts"
#: What the page sends: fields with defaults may be left out. All else it reads, with every field.
SENT = ("JobRequest",)
_WORDS = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean"}

Schema = dict[str, Any]


def contract() -> str:
    """The whole file."""
    parts = [
        "// Generated from the server's models by `make web-types`; not edited by hand.\n",
        f"export const FORMAT = {document.FORMAT};\n",
        'export type Role = Layer["role"];\nexport type JobState = Job["state"];\n',
        "/** States that a job does not leave by itself. */\n"
        f"export const ENDED: readonly JobState[] = {json.dumps(messages.ENDED)};\n",
    ]
    for module in (document, messages, files, asker):
        parts += [_interface(model) for model in _models(module)]
    return "\n".join(parts)


def _models(module: ModuleType) -> list[type[BaseModel]]:
    """The models that a module defines, in its order, without the bases that have no fields."""
    return [
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing)
        and issubclass(thing, BaseModel)
        and thing.__module__ == module.__name__
        and thing.model_fields
    ]


def _interface(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    required = schema.get("required", ()) if model.__name__ in SENT else schema["properties"]
    fields = [
        f"  {name}{'' if name in required else '?'}: {_type(field)};\n"
        for name, field in schema["properties"].items()
    ]
    return f"{_comment(model)}export interface {model.__name__} {{\n{''.join(fields)}}}\n"


def _comment(model: type[BaseModel]) -> str:
    """The docstring as a JSDoc comment."""
    lines = inspect.getdoc(model)
    if not lines:
        return ""
    return "/**\n" + "".join(f" * {line}".rstrip() + "\n" for line in lines.split("\n")) + " */\n"


def _type(schema: Schema) -> str:
    """The TypeScript of a piece of JSON schema; what it does not know is an error."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix("#/$defs/")
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_type(choice) for choice in schema["anyOf"])
    if schema.get("type") == "array":
        return _array(schema)
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"Record<string, {_type(schema['additionalProperties'])}>"
    if schema.get("type") == "null":
        return "null"
    if schema.get("type") in _WORDS:
        return _WORDS[schema["type"]]
    raise ValueError(f"no TypeScript is known for {schema}: add it to {Path(__file__).name}")


def _array(schema: Schema) -> str:
    if "prefixItems" in schema:
        return f"[{', '.join(_type(item) for item in schema['prefixItems'])}]"
    inner = _type(schema["items"])
    return f"({inner})[]" if " | " in inner else f"{inner}[]"


if __name__ == "__main__":
    TARGET.write_text(contract(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
