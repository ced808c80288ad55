"""Without a network there is one message, at once, and what was fetched before is still used."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

import terrafuse.weights.hub as hub
from terrafuse.backbones import create_backbone
from terrafuse.errors import WeightsNotFoundError
from terrafuse.weights import hub_or_cache, read_weights


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own and no proxy; a library that tries again fails the test."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("a library tries again"))


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address of this machine at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("weights", ["timm", "hub"])
def test_an_unreachable_hub_is_not_tried_again(
    weights: str, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", closed_port)
    name = "resnet18" if weights == "timm" else "mit_b0"
    with pytest.raises(WeightsNotFoundError, match=r"not on this machine.*give (its|their) path"):
        create_backbone(name, 3, weights=weights)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_name_server_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end = threading.Event()
    monkeypatch.setattr(hub, "PATIENCE_S", 0.1)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: end.wait(60) and [])
    with pytest.raises(WeightsNotFoundError, match="is not on this machine and cannot be fetched"):
        read_weights("hf://owner/name/w.safetensors")
    end.set()


def test_an_open_port_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        with hub_or_cache():
            assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_proxy_is_asked_instead(closed_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy no other connection leads out."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://hub.invalid")
        monkeypatch.setattr(hub, "getproxies", lambda: {"http": proxy})
        monkeypatch.setattr(hub, "proxy_bypass", lambda _: False)
        with hub_or_cache():
            assert not huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(hub, "getproxies", lambda: {"http": closed_port})
    with hub_or_cache():
        assert huggingface_hub.constants.HF_HUB_OFFLINE


def test_what_was_fetched_before_is_used(
    closed_port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", closed_port)
    folder = tmp_path / "cache" / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    save_file({"w": torch.ones(1)}, folder / "snapshots" / "abc" / "w.safetensors")
    found: dict[str, Any] = read_weights("hf://owner/name/w.safetensors")
    assert found == {"w": torch.ones(1)}
