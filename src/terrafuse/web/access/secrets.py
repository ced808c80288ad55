"""Logs without secrets."""

from __future__ import annotations

import logging
import re
from typing import Any

from terrafuse.web.access.tokens import PREFIX

HIDDEN = "(hidden)"
_KEYS = (
    r"(?:access_|id_|refresh_|security[-_])?token|api[-_]?key|password|passwd|pwd|secret|session"
    r"|sig|signature|x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)"
)
_RULES = (
    # Our tokens, wherever they stand.
    (re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{20,}}"), HIDDEN),
    (re.compile(r"(?i)(authorization['\"]?\s*[:=,]\s*b?['\"]?)[^\r\n'\"]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)((?:set-)?cookie['\"]?\s*[:=,]\s*b?['\"]?)[^\r\n'\"]+"), rf"\1{HIDDEN}"),
    # postgresql://user:password@host/database
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*:)[^\s@]+(?=@)"), rf"\1{HIDDEN}"),
    # ?token=, signed addresses of object stores, and words of database URLs.
    (re.compile(rf"(?i)((?:^|[?&;\s\"'])(?:{_KEYS})\s*=)[^&\s\"';]+"), rf"\1{HIDDEN}"),
)


def hide(text: str) -> str:
    """A text without tokens, passwords of addresses, and signatures of signed addresses."""
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text


class HideSecrets(logging.Filter):
    """Take secrets out of the messages and tracebacks that pass a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record where need be; all are let through."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a message whose own arguments do not fit it
            message = f"{record.msg} {record.args}"
        if hide(message) != message:
            if record.name == "uvicorn.access" and isinstance(record.args, tuple):
                # Its formatter takes the arguments apart.
                record.args = tuple(hide(a) if isinstance(a, str) else a for a in record.args)
            else:
                record.msg, record.args = hide(message), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = hide(record.exc_text)
        return True


def log_config(level: str = "INFO") -> dict[str, Any]:
    """Settings of logging for uvicorn: everything to stderr, without secrets."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"secrets": {"()": HideSecrets}},
        "formatters": {
            "plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
            "access": {
                "()": "uvicorn.logging.AccessFormatter",
                "fmt": '%(asctime)s %(client_addr)s "%(request_line)s" %(status_code)s',
                "use_colors": False,
            },
        },
        "handlers": {
            name: {
                "class": "logging.StreamHandler",
                "formatter": name,
                "filters": ["secrets"],
                "stream": "ext://sys.stderr",
            }
            for name in ("plain", "access")
        },
        "root": {"handlers": ["plain"], "level": "WARNING"},
        "loggers": {
            "uvicorn": {"handlers": ["plain"], "level": level, "propagate": False},
            "uvicorn.access": {"handlers": ["access"], "level": level, "propagate": False},
            "terrafuse": {"handlers": ["plain"], "level": level, "propagate": False},
        },
    }
