"""The hub: asked only where it answers, so that without a network nobody waits for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

#: A hub that does not take a connection in this time is taken for unreachable.
PATIENCE_S = 2.0
_PORTS = {"http": 80, "https": 443}


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Let libraries use the hub if it can be reached, else only what was fetched before.

    They would try again and again for more than a minute. One connection to the hub, or to the
    proxy that the environment names, tells it before.
    """
    # Slow to import and needed only here. Not a setting of ours: the libraries read this one.
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _answers(address: str) -> bool:
    """Tell whether a connection to the host of an address, or to its proxy, is accepted."""
    url = urlsplit(address)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and url.hostname and not proxy_bypass(url.hostname):
        url = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    connected = threading.Event()
    done = threading.Event()

    def connect() -> None:
        try:
            port = url.port or _PORTS.get(url.scheme, 443)
            with socket.create_connection((url.hostname or "", port), PATIENCE_S):
                connected.set()
        except (OSError, ValueError):
            pass
        finally:
            done.set()

    # Looking up a name has no time limit of its own: a thread that is not waited for.
    threading.Thread(target=connect, name="terrafuse-hub", daemon=True).start()
    done.wait(PATIENCE_S)
    return connected.is_set()
