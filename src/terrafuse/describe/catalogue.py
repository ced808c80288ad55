"""Rows of `terrafuse methods` and `terrafuse backbones`.

They are stored beside this file, so that listing does not import torch and timm. They are generated
from the code by `python -m terrafuse.describe.catalogue`; a test compares them with it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from terrafuse.plugins import list_plugins

FILE = "catalogue.json"


def read_catalogue() -> dict[str, list[dict[str, Any]]]:
    """Read the stored rows: "methods" and "backbones"."""
    rows: dict[str, list[dict[str, Any]]] = json.loads(
        files("terrafuse.describe").joinpath(FILE).read_text(encoding="utf-8")
    )
    return rows


def list_names(kind: Literal["method", "backbone"]) -> list[dict[str, Any]]:
    """The stored rows of a kind, and one for each plug-in, which is not imported for it.

    "source" says where each is from. Of a plug-in, what only its code says is None.
    """
    own = read_catalogue()[f"{kind}s"]
    first = {"method": "name", "backbone": "family"}[kind]
    rows = [row | {"source": "terrafuse"} for row in own]
    for plugin in list_plugins(kind):
        known = {first: plugin.name, "source": plugin.source}
        rows.append(dict.fromkeys(own[0]) | known)
    return rows


def make_catalogue() -> dict[str, list[dict[str, Any]]]:
    """Generate the rows from the current code."""
    from terrafuse.backbones import list_backbones
    from terrafuse.methods import list_methods

    rows = {
        "methods": [asdict(summary) for summary in list_methods()],
        "backbones": [asdict(summary) for summary in list_backbones()],
    }
    plain: dict[str, list[dict[str, Any]]] = json.loads(json.dumps(rows))
    return plain


if __name__ == "__main__":
    text = json.dumps(make_catalogue(), indent=1, ensure_ascii=False)
    Path(__file__).with_name(FILE).write_text(text + "\n", encoding="utf-8")
