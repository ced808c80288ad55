"""`terrafuse view`: the server, from an address to Ctrl-C."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fastapi import FastAPI

from terrafuse.stopping import Stopped
from terrafuse.web.access.settings import Access
from terrafuse.web.listening import Say, address_of, listen, run_app, warn_of_others
from terrafuse.web.viewer.app import create_viewer_app
from terrafuse.web.viewer.painting import painting_of
from terrafuse.web.viewer.preparing import Preparer
from terrafuse.web.viewer.subjects import find_subjects

# Ports after the wanted one that are tried.
_MORE_PORTS = 50
# Most of a request: polygons of a scene.
_BODY_BYTES = 64 << 20


def serve_view(
    target: str | Path,
    *,
    port: int = 8765,
    host: str = "127.0.0.1",
    tokens: str | Path | None = None,
    names: Sequence[str] = (),
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
        tokens: File of tokens; needed where the host is not loopback.
        names: Further names by which browsers reach it.
        browser: Whether to open the page in the user's browser.
        scenes: Those to show.
        map_: Of a sample.
        subsets: Of a run, also map each modality alone, and all but one.
        say: Takes each line for the user.

    Raises:
        ConfigError: Other machines would be let in without a token.
        DataError: There is nothing to be shown.
        OutputError: No port is free there, or the host is not this machine's.
    """
    access = Access(host, tuple(names), Path(tokens) if tokens else None, body_bytes=_BODY_BYTES)
    preparer, app = open_viewer(target, access, scenes=scenes, map_=map_, subsets=subsets, say=say)
    listening = listen(host, port, more=_MORE_PORTS, say=say)
    address = address_of(listening, host)
    warn_of_others(host, "look at these rasters and change what is painted on them", say)
    say(f"{preparer.collection.title}: {address} (Ctrl-C ends it)")
    if browser and can_open_browser():
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    # What uvicorn was told to end by, it tells again once it has ended.
    with listening, suppress(KeyboardInterrupt, Stopped):
        run_app(app, listening, log_level="warning")


def open_viewer(
    target: str | Path,
    access: Access | None = None,
    *,
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
    return preparer, create_viewer_app(preparer, access, routers=routers)


def can_open_browser() -> bool:
    """Tell whether there is a screen: a browser in the terminal would hide what is said."""
    if sys.platform.startswith(("darwin", "win")):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
