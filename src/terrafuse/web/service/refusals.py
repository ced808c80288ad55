"""Refusals: one message each, and the status that HTTP has for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from terrafuse.errors import OutputError, TerrafuseError, cut, shown
from terrafuse.web.service.messages import Fault
from terrafuse.web.service.veil import Veil

_LOG = logging.getLogger("terrafuse.serve")
_MOST_FAULTS = 5


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


def answer_refusals(app: FastAPI) -> None:
    """Have an app answer every refusal with a `Fault`."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(TerrafuseError, _mistake)
    app.add_exception_handler(SQLAlchemyError, _no_database)
    app.add_exception_handler(Exception, _internal)


def fault(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer of a refusal."""
    content = Fault(error=message).model_dump()
    return JSONResponse(content, status, dict(headers or {}))


def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return fault(error.status, str(error), error.headers)


def _mistake(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, OutputError):  # of the server's disk or database, not of the request
        _LOG.error("%s", error)
        return fault(503, Veil({})(str(error)))
    return fault(422, str(error))


def _plain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    where = cut(request.url.path)
    said = {
        404: f"there is nothing at '{where}'. Addresses are in /openapi.json",
        405: f"'{where}' does not take {cut(request.method)}. Addresses are in /openapi.json",
        400: f"the body of the request cannot be read: {error.detail}. Send JSON in UTF-8",
    }
    return fault(error.status_code, said.get(error.status_code, error.detail), error.headers)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return fault(422, describe_faults(error.errors()))


def describe_faults(faults: Sequence[Mapping[str, Any]]) -> str:
    """One message of what pydantic finds wrong: where, what, and the value received."""
    parts = []
    for one in faults[:_MOST_FAULTS]:
        place = ".".join(cut(part) for part in one["loc"] if part != "body") or "the body"
        found = "" if one["type"] in ("missing", "json_invalid") else f", not {shown(one['input'])}"
        parts.append(f"'{place}': {one['msg'][:1].lower()}{one['msg'][1:]}{found}")
    more = len(faults) - len(parts)
    rest = f", and {more} more" if more > 0 else ""
    return f"the request is not as /openapi.json says: {'; '.join(parts)}{rest}"


def _no_database(_: Request, error: Exception) -> JSONResponse:
    _LOG.error("the database does not answer: %s", type(error).__name__)
    message = "the service cannot reach its database; try again in a minute"
    return fault(503, message, {"Retry-After": "60"})


def _internal(request: Request, error: Exception) -> JSONResponse:
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return fault(500, f"internal error: {type(error).__name__}. The service's log says more")
