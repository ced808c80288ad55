"""Where a server of ours listens, and how it runs."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from terrafuse.errors import ConfigError, OutputError
from terrafuse.web.access.tokens import is_loopback

_LAST_PORT = 65_535
_BACKLOG = 2048
#: So long may answers take that are being sent when the server is to end.
_ENDING_SECONDS = 3

Say = Callable[[str], None]


def listen(host: str, port: int, *, more: int = 0, say: Say | None = None) -> socket.socket:
    """Listen on a port.

    Args:
        port: 0: any that is free.
        more: Ports after it that are tried where it is taken.
        say: Is told of another port than the one that is wanted.

    Raises:
        ConfigError: It is no port.
        OutputError: It is taken, or the host is not this machine's.
    """
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"--port {port} is no port; give a number from 1 to {_LAST_PORT}, or 0")
    reason: OSError | None = None
    for candidate in range(port, min(port + more, _LAST_PORT) + 1) if port else (0,):
        try:
            found = _bound(host, candidate)
        except OSError as error:
            reason = error
            if isinstance(error, socket.gaierror):
                break
            continue
        if say is not None and port and candidate != port:
            say(f"port {port} is in use; this is {candidate}")
        return found
    why = getattr(reason, "strerror", None) or reason
    raise OutputError(
        f"cannot listen on '{host}', port {port}: {why}. Choose another --port, or a --host of "
        "this machine"
    )


def _bound(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    found = socket.socket(family, kind)
    try:
        if sys.platform != "win32":  # where it would let two servers have one port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except OSError:
        found.close()
        raise
    return found


def address_of(listening: socket.socket, host: str) -> str:
    """The address that browsers of this machine call, with the port that was found."""
    host = "localhost" if host in ("", "0.0.0.0", "::") else host.strip("[]")  # noqa: S104
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}/"


def warn_of_others(host: str, what: str, say: Say) -> None:
    """Say what it means that other machines are let in.

    Args:
        what: Whoever has a token can do.
    """
    if not is_loopback(host):
        say(
            f"--host {host}: whoever has a token can {what}. Tokens and rasters travel unencrypted "
            "unless a proxy with TLS stands before this server"
        )


def run_app(app: FastAPI, listening: socket.socket, **logs: Any) -> None:
    """Answer requests until a signal comes.

    Args:
        logs: Of uvicorn's settings, what it says where.
    """
    config = uvicorn.Config(
        app,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_ENDING_SECONDS,
        **logs,
    )
    uvicorn.Server(config).run(sockets=[listening])
