"""The hub: asked only where it answers, and its many errors in words of ours."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from terrafuse.errors import first_line

#: A hub that does not take a connection in this time is taken for unreachable.
PATIENCE_S = 2.0
_PORTS = {"http": 80, "https": 443}
_UNAUTHORISED, _FORBIDDEN = 401, 403

#: Whether the hub is used: "offline" where `HF_HUB_OFFLINE` is set.
HubState = Literal["reached", "unreachable", "offline"]


@contextmanager
def hub_or_cache() -> Iterator[HubState]:
    """Let libraries use the hub if it can be reached, else only what was fetched before.

    They would try again and again for more than a minute. One connection to the hub, or to the
    proxy that the environment names, tells it before.
    """
    # Slow to import and needed only here. Not a setting of ours: the libraries read this one.
    from huggingface_hub import constants

    state = hub_state()
    if state != "unreachable":
        yield state
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield state
    finally:
        constants.HF_HUB_OFFLINE = False


def hub_state() -> HubState:
    """Tell whether the hub can be reached."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "offline"
    return "reached" if _answers(constants.ENDPOINT) else "unreachable"


@contextmanager
def plain_where_nobody_looks() -> Iterator[None]:
    """Silence the progress bars of huggingface_hub where stderr is no terminal."""
    from huggingface_hub import constants, utils

    told = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None  # by the variable of that name
    if told or sys.stderr.isatty() or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def hub_address() -> str:
    """Return the address of the hub: that of `HF_ENDPOINT`, if it is set."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def why_not(error: BaseException, repository: str) -> str:
    """Say in one phrase why something of a repository cannot be had.

    Args:
        error: What huggingface_hub, or what stands on it, raised.
        repository: "owner/name".
    """
    from huggingface_hub import errors

    hub = hub_address()
    found = _in_chain(error, (errors.HfHubHTTPError, errors.HFValidationError))
    if isinstance(found, errors.GatedRepoError):
        return f"'{repository}' is given on request only: ask for it on {hub}/{repository}"
    if isinstance(found, errors.RevisionNotFoundError):
        return f"'{repository}' has no such branch, tag or commit"
    if isinstance(found, errors.EntryNotFoundError):
        return f"'{repository}' holds no such file"
    if isinstance(found, errors.RepositoryNotFoundError):
        return (
            f"{hub} has no repository '{repository}', or it is a private one: those are shown only "
            "to the token in HF_TOKEN"
        )
    if isinstance(found, errors.HfHubHTTPError):
        return _of_status(found, hub)
    if _in_chain(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
        return f"{hub} is not asked or does not answer"
    return first_line(error)


def _of_status(error: BaseException, hub: str) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if status == _UNAUTHORISED:
        return f"{hub} does not know the token in HF_TOKEN"
    if status == _FORBIDDEN:
        return f"{hub} does not allow it to the token in HF_TOKEN"
    return f"{hub} answers with status {status}" if status else first_line(error)


def _in_chain(
    error: BaseException | None, kinds: tuple[type[BaseException], ...]
) -> BaseException | None:
    """The first error of some kinds among one and its causes."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


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
