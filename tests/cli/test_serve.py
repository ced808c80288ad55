"""`terrafuse serve`: what it hands on."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")
from terrafuse.cli import serve
from terrafuse.web.service import serving
from terrafuse.web.service.settings import ServiceSettings


def test_models_of_the_hub_are_fetched_whatever_they_are_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[ServiceSettings] = []
    monkeypatch.setattr(serving, "run_service", lambda settings, **_: found.append(settings))
    monkeypatch.setattr(serve, "fetched", lambda run: Path("kept", run.name))
    serve.serve(["hf://owner/flood", "crops=hf://owner/fields", "runs/first", "a=runs/b=c"])
    assert found[0].models == ("kept/flood", "crops=kept/fields", "runs/first", "a=runs/b=c")
