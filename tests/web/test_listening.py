"""Ports and hosts of the viewer and of the service."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra web is not installed")

from terrafuse.errors import ConfigError, OutputError
from terrafuse.web.listening import address_of, listen, warn_of_others


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        yield busy.getsockname()[1]


def test_the_next_free_port_is_taken(taken: int) -> None:
    said: list[str] = []
    with listen("127.0.0.1", taken, more=50, say=said.append) as found:
        port = found.getsockname()[1]
    assert taken < port <= taken + 50
    assert said == [f"port {taken} is in use; this is {port}"]


def test_ports_and_hosts_that_are_none(taken: int) -> None:
    with pytest.raises(ConfigError, match="--port 70000 is no port"):
        listen("127.0.0.1", 70_000)
    for host, port in (("192.0.2.1", 8765), ("127.0.0.1", taken)):
        with pytest.raises(OutputError, match=f"cannot listen on '{host}', port {port}: "):
            listen(host, port)


@pytest.mark.parametrize(
    ("host", "name"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "localhost"), ("::1", "[::1]"), ("::", "localhost")],
)
def test_the_address_is_one_that_a_browser_calls(host: str, name: str) -> None:
    with listen("127.0.0.1", 0) as found:
        assert address_of(found, host) == f"http://{name}:{found.getsockname()[1]}/"


def test_it_is_said_where_others_are_let_in() -> None:
    said: list[str] = []
    warn_of_others("localhost", "look", said.append)
    assert said == []
    warn_of_others("0.0.0.0", "look", said.append)
    assert said[0].startswith("--host 0.0.0.0: whoever has a token can look. Tokens and rasters")
