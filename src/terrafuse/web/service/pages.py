"""The service's addresses as a page: no script, and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>terrafuse: addresses</title>
<meta name="viewport" content="width=device-width"></head>
<body><main><h1>Addresses of this service</h1>
<p>The same for programs, with all fields: <a href="/openapi.json">openapi.json</a></p>
<dl>{entries}</dl></main></body></html>
"""


def list_addresses(openapi: Mapping[str, Any]) -> str:
    """A page of an OpenAPI document."""
    entries = []
    for path, methods in openapi["paths"].items():
        for method, about in methods.items():
            text = about.get("description") or about.get("summary", "")
            names = [parameter["name"] for parameter in about.get("parameters", ())]
            further = f" ({', '.join(names)})" if names else ""
            entries.append(
                f"<dt><code>{escape(method.upper())} {escape(path)}</code></dt>"
                f"<dd>{escape(text + further)}</dd>"
            )
    return _PAGE.format(entries="\n".join(entries))
