"""What the service answers to errors of a request, and to those of its own disk and database."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError

from terrafuse.errors import OutputError, TerrafuseError, cut, shown
from terrafuse.web.refusals import answer_refusals, fault
from terrafuse.web.service.veil import Veil

_LOG = logging.getLogger("terrafuse.serve")
_MOST_FAULTS = 5


def answer_errors(app: FastAPI) -> None:
    """Have the service's app answer every error with a `Fault`."""
    answer_refusals(app, hint="Addresses are in /openapi.json")
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(TerrafuseError, _mistake)
    app.add_exception_handler(SQLAlchemyError, _no_database)


def _mistake(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, OutputError):  # of the server's disk or database, not of the request
        _LOG.error("%s", error)
        return fault(503, Veil({})(str(error)))
    return fault(422, str(error))


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return fault(422, _describe(error.errors()))


def _describe(faults: Sequence[Mapping[str, Any]]) -> str:
    """One message of what pydantic finds wrong: where, what, and the value received."""
    parts = []
    for one in faults[:_MOST_FAULTS]:
        if one["type"] == "json_invalid":
            why = one.get("ctx", {}).get("error", "it ends too early")
            parts.append(f"the body is no JSON at character {one['loc'][-1]}: {why}")
            continue
        place = ".".join(cut(part) for part in one["loc"] if part != "body") or "the body"
        found = "" if one["type"] == "missing" else f", not {shown(one['input'])}"
        parts.append(f"'{place}': {one['msg'][:1].lower()}{one['msg'][1:]}{found}")
    more = len(faults) - len(parts)
    rest = f", and {more} more" if more > 0 else ""
    return f"the request is not as /openapi.json says: {'; '.join(parts)}{rest}"


def _no_database(_: Request, error: Exception) -> JSONResponse:
    _LOG.error("the database does not answer: %s", type(error).__name__)
    message = "the service cannot reach its database; try again in a minute"
    return fault(503, message, {"Retry-After": "60"})
