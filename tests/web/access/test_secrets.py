"""Logs hold no secrets."""

from __future__ import annotations

import io
import logging
import logging.config

import pytest

from terrafuse.web.access.secrets import HideSecrets, hide, log_config

SECRET = "s3cr3t-Vl0nger+/="
TOKEN = "tf_" + "Ab1-_" * 8 + "xyz"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"{{'authorization': 'Bearer {SECRET}'}}",
        f"[(b'authorization', b'Bearer {SECRET}')]",
        f"GET /api/jobs?token={SECRET}&x=1",
        f"GET /api/jobs?x=1&access_token={SECRET}",
        f"https://store.example/a.tif?X-Amz-Signature={SECRET}&X-Amz-Date=1",
        f"https://store.example/a.tif?sv=2020&sig={SECRET}",
        f"https://store.example/a.tif?X-Goog-Signature={SECRET}",
        f"postgresql://terra:{SECRET}@db/jobs",
        f"postgresql+psycopg://terra:{SECRET.replace('/', '%2F')}@db:5432/jobs failed",
        f"host=db password={SECRET} dbname=jobs",
        f"Set-Cookie: terrafuse_session={SECRET}; HttpOnly",
        f"cookie: a=1; terrafuse_session={SECRET}",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    shown = hide(text)
    assert SECRET.rstrip("=")[:12] not in shown
    assert "(hidden)" in shown


def test_our_tokens_are_hidden_wherever_they_stand() -> None:
    assert hide(f"x{TOKEN}, y") == "x(hidden), y"
    assert hide(f"/login/{TOKEN}/z") == "/login/(hidden)/z"


@pytest.mark.parametrize(
    "text",
    [
        "GET /api/jobs?state=done&limit=3 200",
        "http://127.0.0.1:8766/api/jobs",
        "the token of ana was removed",
        "sqlite:////data/jobs.sqlite",
        "tf_short is no token",
        "a basic map, 3 bearings",
        "mail ana@example.org: http://a.example/x",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert hide(text) == text


@pytest.fixture
def logged() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(HideSecrets())
    logger = logging.Logger("some.library")
    logger.addHandler(handler)
    return logger, stream


def test_a_secret_made_of_message_and_arguments(
    logged: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = logged
    logger.info("Authorization: Bearer %s for %d", SECRET, 3)
    logger.info("connect to %s", f"postgresql://terra:{SECRET}@db/jobs")
    logger.info("plain %s", "words")
    assert SECRET[:10] not in stream.getvalue()
    assert stream.getvalue().endswith("plain words\n")


def test_a_traceback(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = logged
    try:
        raise ValueError(f"cannot open https://a.example/x.tif?token={SECRET}")
    except ValueError:
        logger.exception("failed")
    assert "Traceback" in stream.getvalue()
    assert "?token=(hidden)" in stream.getvalue()
    assert SECRET[:10] not in stream.getvalue()


def test_uvicorns_access_log(capsys: pytest.CaptureFixture[str]) -> None:
    """As uvicorn sets it up and logs a request."""
    logger = logging.getLogger("uvicorn.access")
    before = (list(logger.handlers), logger.level, logger.propagate)
    config = log_config()
    config["loggers"] = {"uvicorn.access": config["loggers"]["uvicorn.access"]}
    del config["root"]
    try:
        logging.config.dictConfig(config)
        logger.info(
            '%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "GET", f"/x?token={SECRET}&a=1", "1.1", 200
        )
    finally:
        logger.handlers, logger.level, logger.propagate = before
    printed = capsys.readouterr().err
    assert '"GET /x?token=(hidden)&a=1 HTTP/1.1" 200' in printed
