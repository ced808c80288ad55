"""Access control of an app, put in by one call."""

from __future__ import annotations

from fastapi import FastAPI

from terrafuse.web.access.guard import access_middleware
from terrafuse.web.access.login import login_router
from terrafuse.web.access.sessions import Sessions
from terrafuse.web.access.settings import Access
from terrafuse.web.access.tokens import TokenFile


def protect(app: FastAPI, access: Access) -> None:
    """Let every request of an app pass access control; with tokens, add pages to log in.

    Call it after all other middleware was added, so that it is the outermost.

    Raises:
        ConfigError: The file of tokens cannot be used.
    """
    tokens = sessions = None
    if access.tokens is not None:
        tokens, sessions = TokenFile(access.tokens), Sessions()
        app.include_router(login_router(tokens, sessions))
    for part in reversed(access_middleware(access, tokens, sessions)):
        app.add_middleware(part.cls, *part.args, **part.kwargs)
