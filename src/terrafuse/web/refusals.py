"""Refusals over HTTP: a status, and one message as JSON (`{"error": "…"}`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from terrafuse.errors import cut

_LOG = logging.getLogger("terrafuse.serve")


class Refusal(Exception):  # noqa: N818 - an answer, no error of ours
    """A request that is not carried out.

    Args:
        status: 4xx or 503.
        message: As people read it.
        headers: Of the answer, such as Retry-After.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def fault(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer of a refusal."""
    # Names of files may have bytes that are no UTF-8, which JSON cannot hold.
    text = message.encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"error": text}, status, dict(headers or {}))


def answer_refusals(app: FastAPI, *, hint: str = "") -> None:
    """Have an app answer refusals, addresses that are none, and failures of its own alike.

    Args:
        hint: Sentence that says where addresses are listed.
    """
    rest = f". {hint}" if hint else ""

    def refuse_address(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        where = cut(request.url.path)
        said = {
            404: f"there is nothing at '{where}'{rest}",
            405: f"'{where}' does not take {cut(request.method)}{rest}",
            400: f"the body of the request cannot be read: {error.detail}. Send JSON in UTF-8",
        }
        return fault(error.status_code, said.get(error.status_code, error.detail), error.headers)

    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(HTTPException, refuse_address)
    app.add_exception_handler(Exception, _fail)


def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return fault(error.status, str(error), error.headers)


def _fail(request: Request, error: Exception) -> JSONResponse:
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return fault(500, f"internal error: {type(error).__name__}. The server's log says more")
