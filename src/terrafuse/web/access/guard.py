"""What every request passes before it is looked at: plain ASGI, the outermost first.

Security headers → Host header → origin of changes (CSRF) → size → who asks → how often.
"""

from __future__ import annotations

import base64
import binascii
import math
import socket
import time
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from terrafuse.errors import ConfigError, cut
from terrafuse.web.access.sessions import COOKIE, Sessions
from terrafuse.web.access.settings import OPEN_PATHS, Access
from terrafuse.web.access.tokens import LOCAL, TokenFile, User, is_loopback
from terrafuse.web.refusals import fault

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": (
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
UPLOADS = "/api/uploads"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
#: Requests without a valid token, per second and address, and at once.
_STRANGERS_RATE, _STRANGERS_BURST = 1.0, 20
_MOST_BUCKETS = 10_000


def access_middleware(
    access: Access, tokens: TokenFile | None, sessions: Sessions | None
) -> list[Middleware]:
    """Middleware for an app of Starlette or FastAPI, in order.

    Args:
        tokens: Of users, shared with the login page; None: everybody is the user "local".
        sessions: Of browsers, likewise; None: without one.
    """
    return [
        Middleware(SecurityHeaders),
        Middleware(HostCheck, names=host_names(access.host, access.names)),
        Middleware(SameOrigin),
        Middleware(BodyLimit, most=access.body_bytes, most_upload=access.upload_bytes),
        Middleware(Authentication, tokens=tokens, sessions=sessions),
        Middleware(RateLimit, rate=access.rate, burst=access.burst),
    ]


def host_names(host: str, names: Iterable[str] = ()) -> frozenset[str]:
    """Names that a Host header may have, without port; "*" stands for any IP address."""
    allowed = {name.lower().strip("[]") for name in names}
    plain = host.lower().strip("[]")
    if is_loopback(host):
        return frozenset({*allowed, plain, "localhost", "127.0.0.1", "::1"})
    if plain in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        # A name of somebody else that leads here is what is to be kept out; an address is no name.
        own = {socket.gethostname().lower(), socket.getfqdn().lower()}
        return frozenset({*allowed, *own, "localhost", "*"})
    return frozenset({*allowed, plain})


class SecurityHeaders:
    """Headers that tell browsers what a page may do; what an answer says itself, stays."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                given = {bytes(name).lower() for name, _ in headers}
                headers += [
                    (name.encode(), value.encode())
                    for name, value in SECURITY_HEADERS.items()
                    if name.encode() not in given
                ]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_headers)


class HostCheck:
    """Refuse names of others that lead here (DNS rebinding)."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            given = Headers(scope=scope).getlist("host")
            name = _host_name(given[0]) if len(given) == 1 else None
            if name is None or not self._is_allowed(name):
                answer = fault(
                    421,
                    f"this server is not '{cut(', '.join(given))}'. Call it by the address that it "
                    "printed, or start it with --name HOST for each further name",
                )
                await answer(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self.app(scope, receive, send)

    def _is_allowed(self, name: str) -> bool:
        return name in self.names or ("*" in self.names and _is_address(name))


def _host_name(header: str) -> str | None:
    """The name of a Host header, without port; None: it is none."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return None
    plain = parts.netloc == header and not (parts.path or parts.query or parts.fragment)
    return parts.hostname if plain and "@" not in header else None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class SameOrigin:
    """Refuse changes that pages of other origins ask for (cross-site request forgery).

    Browsers say where a request comes from, by Sec-Fetch-Site or at least Origin. Programs say
    neither, and pass.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS:
            headers = Headers(scope=scope)
            if not _is_same_origin(headers):
                answer = fault(
                    403,
                    "a page of another origin cannot change anything here. Open this server's own "
                    "page, or use a program with a token",
                )
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_same_origin(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


class BodyLimit:
    """Refuse what is too long, by what a request says and by what it sends."""

    def __init__(self, app: ASGIApp, most: int, most_upload: int) -> None:
        self.app, self.most, self.most_upload = app, most, most_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = scope["method"] == "POST" and scope["path"] == UPLOADS
        most = self.most_upload if is_upload else self.most
        counted = _Counted(receive, send, most)
        declared = Headers(scope=scope).get("content-length")
        if declared is not None and not (declared.isascii() and declared.isdigit()):
            answer = fault(400, "Content-Length is no number. Send the body's length")
            await answer(scope, receive, send)
        elif declared is not None and int(declared[:20]) > most:
            await self._too_long(most)(scope, receive, send)
        else:
            try:
                await self.app(scope, counted.receive, counted.send)
            except Exception:  # also within a group of errors, or as another one's cause
                if not counted.is_too_long:
                    raise
            if counted.is_too_long and not counted.has_begun:
                await self._too_long(most)(scope, receive, send)

    def _too_long(self, most: int) -> Response:
        what = "an upload" if most == self.most_upload else "a request"
        message = f"{what} may have {most:,} bytes, and this one is longer. Send less"
        return fault(413, message, {"connection": "close"})


class TooLongError(Exception):
    """A body went on beyond the limit; `BodyLimit` answers."""


class _Counted:
    """A request's messages, with the bytes of its body counted."""

    def __init__(self, receive: Receive, send: Send, most: int) -> None:
        self._receive, self._send, self._left = receive, send, most
        self.is_too_long = self.has_begun = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.is_too_long = True
                raise TooLongError
        return message

    async def send(self, message: Message) -> None:
        if self.is_too_long and not self.has_begun:
            return  # the app's own answer to what it could not read
        self.has_begun = True
        await self._send(message)


class Authentication:
    """Find out who asks: by token, or by a browser's session.

    A token is given as `Authorization: Bearer TOKEN`, or as the password of Basic, which QGIS and
    GDAL offer. The user is put where `current_user` finds it.
    """

    def __init__(self, app: ASGIApp, tokens: TokenFile | None, sessions: Sessions | None) -> None:
        self.app, self.tokens, self.sessions = app, tokens, sessions
        self.strangers = Buckets(_STRANGERS_RATE, _STRANGERS_BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        if self.tokens is None:
            state["user"] = LOCAL
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            user = self._user(headers, self.tokens)
        except ConfigError:
            message = "the service cannot read its tokens. Tell whoever runs it to look at the log"
            await fault(503, message)(scope, receive, send)
            return
        if user is not None or scope["path"] in OPEN_PATHS:
            state["user"] = user
            state["is_let_in"] = partial(self._is_still, user, headers, self.tokens)
            await self.app(scope, receive, send)
            return
        await self._refuse(scope, headers)(scope, receive, send)

    def _user(self, headers: Headers, tokens: TokenFile) -> User | None:
        token = presented_token(headers.get("authorization", ""))
        if token is not None:
            return tokens.user(token)
        name = self.sessions.name(_cookie(headers)) if self.sessions else None
        return tokens.named(name) if name else None

    def _is_still(self, user: User | None, headers: Headers, tokens: TokenFile) -> bool:
        """Whether a request would be let in again as the same user."""
        try:
            return self._user(headers, tokens) == user
        except ConfigError:
            return False

    def _refuse(self, scope: Scope, headers: Headers) -> Response:
        """The answer to somebody without a token."""
        wait = self.strangers.take((scope.get("client") or ("", 0))[0])
        if wait:
            return _too_fast(wait)
        is_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        if is_page and self.sessions is not None:
            target = f"/login?next={quote(scope['path'], safe='/')}"
            return fault(303, "log in first", {"location": target, "cache-control": "no-store"})
        return fault(
            401,
            "no valid token was given. Send one as 'Authorization: Bearer TOKEN'; whoever runs the "
            "service makes them with 'terrafuse token add'",
            {"www-authenticate": 'Bearer realm="terrafuse"'},
        )


def presented_token(authorization: str) -> str | None:
    """The token of an Authorization header; None: there is none."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return decoded.partition(":")[2] or None


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


@dataclass
class Buckets:
    """Token buckets, one per name: `rate` a second in the long run, `burst` at once."""

    rate: float
    burst: int
    clock: Callable[[], float] = time.monotonic
    _filled: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)

    def take(self, name: str) -> float:
        """Take one; returns 0, or the seconds until there will be one."""
        now = self.clock()
        level, then = self._filled.get(name, (float(self.burst), now))
        level = min(self.burst, level + (now - then) * self.rate)
        wait = 0.0 if level >= 1 else (1 - level) / self.rate
        self._filled[name] = (level if wait else level - 1, now)
        if len(self._filled) > _MOST_BUCKETS:
            self._forget(now)
        return wait

    def _forget(self, now: float) -> None:
        """Forget full ones, which are as those never seen; else all but the newest half."""
        used = {
            name: (level, then)
            for name, (level, then) in self._filled.items()
            if level + (now - then) * self.rate < self.burst
        }
        newest = sorted(used, key=lambda name: used[name][1])[-_MOST_BUCKETS // 2 :]
        self._filled = {name: used[name] for name in newest}


class RateLimit:
    """Refuse for a moment what comes too fast, by user."""

    def __init__(self, app: ASGIApp, rate: float | None, burst: int) -> None:
        self.app = app
        self.buckets = Buckets(rate, burst) if rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and self.buckets is not None:
            user: User | None = scope.get("state", {}).get("user")
            # Names of users cannot have a colon, addresses are not taken for them.
            name = user.name if user else f"address:{(scope.get('client') or ('', 0))[0]}"
            wait = 0.0 if scope["path"] in ("/health", "/ready") else self.buckets.take(name)
            if wait:
                await _too_fast(wait)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _too_fast(wait: float) -> Response:
    seconds = max(1, math.ceil(wait))
    message = f"requests come too fast. Wait {seconds} s, and ask less often"
    return fault(429, message, {"retry-after": str(seconds)})
