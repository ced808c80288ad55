"""The page on which a browser gives its token, once."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from terrafuse.web.access.guard import SECURITY_HEADERS
from terrafuse.web.access.sessions import COOKIE, Sessions
from terrafuse.web.access.tokens import TokenFile

_STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:26rem;margin:4rem auto;padding:0 1rem;"
    "color-scheme:light dark}input,button{font:inherit;display:block;width:100%;"
    "box-sizing:border-box;padding:.5rem;margin:.5rem 0}"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>terrafuse: log in</title>
<meta name="viewport" content="width=device-width"><style>{style}</style></head>
<body><main><h1>Log in</h1>{message}
<form method="post" action="/login"><input type="hidden" name="next" value="{next}">
<label>Token <input name="token" type="password" autocomplete="current-password" required
autofocus></label><button>Log in</button></form></main></body></html>
"""
_CSP = SECURITY_HEADERS["content-security-policy"] + (
    f"; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)


def login_router(tokens: TokenFile, sessions: Sessions) -> APIRouter:
    """Routes `/login` and `/logout`."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    def show_login(next: str = "/") -> HTMLResponse:
        return _page(next)

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
        target = _local(form.get("next", ["/"])[0])
        user = await run_in_threadpool(tokens.user, form.get("token", [""])[0].strip())
        if user is None:
            return _page(target, "This is no token of this service.", 401)
        answer = RedirectResponse(target, 303, headers={"cache-control": "no-store"})
        answer.set_cookie(
            COOKIE,
            sessions.begin(user.name),
            max_age=int(3600 * sessions.hours),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @router.post("/logout")
    async def log_out(request: Request) -> Response:
        sessions.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    return router


def _page(target: str, message: str = "", status: int = 200) -> HTMLResponse:
    shown = f'<p role="alert">{escape(message)}</p>' if message else ""
    html = _PAGE.format(style=_STYLE, message=shown, next=escape(_local(target), quote=True))
    headers = {"content-security-policy": _CSP, "cache-control": "no-store"}
    return HTMLResponse(html, status, headers)


def _local(target: str) -> str:
    """A path of this server; anything else becomes the front page."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "/"
    # Browsers take any number of slashes for the two before a host.
    is_local = target.startswith("/") and not target.startswith("//")
    is_local = is_local and not (parts.scheme or parts.netloc)
    plain = target.isprintable() and target.isascii() and "\\" not in target
    return target if is_local and plain else "/"
