"""The page's types are those of the server's models."""

from __future__ import annotations

import runpy
from pathlib import Path

_SCRIPT = Path(__file__).parents[2] / "frontend" / "scripts" / "contract.py"


def test_the_committed_types_are_those_of_the_models() -> None:
    script = runpy.run_path(str(_SCRIPT))
    committed = script["TARGET"].read_text(encoding="utf-8")
    assert committed == script["contract"](), "the server's models changed: run `make web-types`"


def test_what_is_read_has_every_field_and_what_is_sent_may_leave_some_out() -> None:
    text = runpy.run_path(str(_SCRIPT))["contract"]()
    job = text.split("export interface Job {")[1].split("}")[0]
    request = text.split("export interface JobRequest {")[1].split("}")[0]
    assert "  total: number | null;\n" in job
    assert (
        '  state: "queued" | "running" | "cancelling" | "cancelled" | "failed" | "done";\n' in job
    )
    assert "  results: ResultFile[];\n" in job
    assert "  rasters?: Record<string, string | string[]>;\n" in request
    assert '  outputs?: ("polygons" | "areas" | "preview")[];\n' in request
