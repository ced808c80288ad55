"""`terrafuse view`: the server, from an address to Ctrl-C."""

from __future__ import annotations

import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from terrafuse.errors import ConfigError, OutputError
from terrafuse.stopping import Stopped
from terrafuse.web.viewer.app import EVERYWHERE, create_viewer_app
from terrafuse.web.viewer.painting import painting_of
from terrafuse.web.viewer.preparing import Preparer
from terrafuse.web.viewer.subjects import find_subjects

#: Where the viewer listens if nothing else is said.
HOST, PORT = "127.0.0.1", 8765
# Ports after the wanted one that are tried.
_MORE_PORTS = 50
_LAST_PORT = 65_535
# For answers that are under way at the end.
_PATIENCE_S = 2
_LOCAL = ("127.0.0.1", "localhost", "::1")

Say = Callable[[str], None]


def serve_view(
    target: str | Path,
    *,
    port: int = PORT,
    host: str = HOST,
    browser: bool = True,
    scenes: Sequence[str] = (),
    map_: str | Path | None = None,
    subsets: bool = False,
    say: Say = print,
) -> None:
    """Serve the page of a map, a run, a data set or a sample until Ctrl-C.

    Args:
        target: See `find_subjects`, as are the other choices.
        port: To listen on; where it is taken, the next free one; 0: any.
        host: To listen on.
        browser: Whether to open the page in the user's browser.
        scenes: Those to show.
        map_: Of a sample.
        subsets: Of a run, also map each modality alone, and all but one.
        say: Takes each line for the user.

    Raises:
        DataError: There is nothing to be shown.
        OutputError: No port is free there, or the host is not this machine's.
    """
    preparer, app = open_viewer(
        target, host=host, scenes=scenes, map_=map_, subsets=subsets, say=say
    )
    listening = listen(host, port, say)
    address = f"http://{_in_address(host)}:{listening.getsockname()[1]}/"
    if host not in _LOCAL:
        say(
            f"--host {host}: whoever reaches this machine can look at these rasters and change "
            "what is painted on them; nothing asks for a password. Ctrl-C ends it"
        )
    say(f"{preparer.collection.title}: {address} (Ctrl-C ends it)")
    if browser and can_open_browser():
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off",
        timeout_graceful_shutdown=_PATIENCE_S,
    )  # fmt: skip
    # What uvicorn was told to end by, it tells again once it has ended.
    with listening, suppress(KeyboardInterrupt, Stopped):
        uvicorn.Server(config).run(sockets=[listening])


def open_viewer(
    target: str | Path,
    *,
    host: str = HOST,
    scenes: Sequence[str] = (),
    map_: str | Path | None = None,
    subsets: bool = False,
    say: Say | None = None,
) -> tuple[Preparer, FastAPI]:
    """The scenes of a page and its server, which does not listen yet; a single scene is ready.

    Raises:
        DataError: There is nothing to be shown.
    """
    collection = find_subjects(target, scenes=scenes, map_=map_, subsets=subsets)
    routers, finish = painting_of(collection)
    preparer = Preparer(collection, finish=finish, say=say)
    if len(collection.subjects) == 1:
        preparer.prepare_soon(next(iter(collection.subjects)))
    return preparer, create_viewer_app(preparer, host=host, routers=routers)


def listen(host: str, port: int, say: Say) -> socket.socket:
    """Listen on a port, or on the next free one, which is said.

    Raises:
        ConfigError: It is no port.
        OutputError: There is none, or the host is not this machine's.
    """
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"--port {port} is no port; give a number from 1 to {_LAST_PORT}, or 0")
    reason: OSError | None = None
    for candidate in range(port, min(port + _MORE_PORTS, _LAST_PORT) + 1) if port else (0,):
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host, candidate, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            found = socket.socket(family, kind)
        except OSError as error:
            reason = error
            break
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
        except OSError as error:
            found.close()
            reason = error
            continue
        if port and candidate != port:
            say(f"port {port} is in use; this is {candidate}")
        return found
    why = getattr(reason, "strerror", None) or reason
    raise OutputError(
        f"cannot listen on '{host}', port {port}: {why}. Choose another --port, or a --host of "
        "this machine"
    )


def can_open_browser() -> bool:
    """Tell whether there is a screen: a browser in the terminal would hide what is said."""
    if sys.platform.startswith(("darwin", "win")):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _in_address(host: str) -> str:
    host = "localhost" if host in EVERYWHERE else host
    return f"[{host}]" if ":" in host else host
