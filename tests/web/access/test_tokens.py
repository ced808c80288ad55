"""Tokens: shown once, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from pathlib import Path

import pytest

from terrafuse.errors import ConfigError, OutputError
from terrafuse.web.access import tokens as module
from terrafuse.web.access.settings import Access
from terrafuse.web.access.tokens import (
    RIGHTS,
    TokenFile,
    add_token,
    check_host,
    is_loopback,
    read_tokens,
    remove_token,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_a_token_is_kept_as_a_hash(path: Path) -> None:
    secret, token = add_token(path, "ana", may=["upload", "priority"], max_queued=3)
    assert secret.startswith("tf_")
    assert len(secret) == 46  # 256 bits in base64
    assert secret not in path.read_text()
    assert token.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not [other for other in path.parent.iterdir() if other != path]
    user = TokenFile(path).user(secret)
    assert user is not None
    assert (user.name, user.may, user.max_queued, user.max_running) == (
        "ana", {"upload", "priority"}, 3, None,
    )  # fmt: skip


def test_tokens_differ_and_lead_to_their_own_users(path: Path) -> None:
    made = {name: add_token(path, name)[0] for name in ("ana", "ben", "cleo")}
    file = TokenFile(path)
    assert len(set(made.values())) == 3
    for name, secret in made.items():
        user = file.user(secret)
        assert user is not None
        assert user.name == name
        assert user.may == frozenset()
    for wrong in ("", "tf_", made["ana"][:-1], made["ana"] + "x", made["ana"].lower(), "\ud800"):
        assert file.user(wrong) is None


def test_a_removed_token_is_refused_at_once(path: Path) -> None:
    secret, _ = add_token(path, "ana")
    other, _ = add_token(path, "ben")
    file = TokenFile(path)
    assert file.user(secret) is not None
    remove_token(path, "ana")
    assert file.user(secret) is None
    assert file.named("ana") is None
    assert file.named("ben") == file.user(other)
    with pytest.raises(ConfigError, match=r"unknown token 'anna'.*Known: ben"):
        remove_token(path, "anna")


def test_readers_of_the_file_stay_its_readers(path: Path) -> None:
    """A service that runs as another user would refuse everybody after the next token."""
    add_token(path, "ana")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    before = path.stat()
    add_token(path, "bob")
    remove_token(path, "ana")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip


def test_every_hash_is_compared_in_constant_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An early end would tell by its time which token was nearly right."""
    secret, _ = add_token(path, "ana")
    for name in ("ben", "cleo"):
        add_token(path, name)
    compared, original = [], hmac.compare_digest

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return original(a, b)

    file = TokenFile(path)
    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    user = file.user(secret)
    assert user is not None
    assert user.name == "ana"
    given = hashlib.sha256(secret.encode()).hexdigest()
    assert compared == [(given, token.sha256) for token in read_tokens(path)]


def test_what_is_refused_when_making_one(path: Path) -> None:
    add_token(path, "ana")
    before = path.read_bytes()
    cases = {
        "has a token of 'ana' already. Remove it first": ("ana", {}),
        "'../x' cannot be a user's name": ("../x", {}),
        "'local' cannot be a user's name": ("local", {}),
        "unknown right 'uplaod'. Did you mean 'upload'?": ("ben", {"may": ["uplaod"]}),
        "a quota of 0 jobs is none": ("ben", {"max_queued": 0}),
    }
    for message, (name, given) in cases.items():
        with pytest.raises(ConfigError, match=message.replace("?", r"\?").replace(".", r"\.")):
            add_token(path, name, **given)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    remove_token(path, "ana")  # what the message says
    add_token(path, "ana", may=RIGHTS, max_queued=1)
    with pytest.raises(OutputError):
        add_token(path / "below", "ben")


FOLLOWED = (
    "web.access.tokens:add_token | Remove it first",
    "web.access.tokens:add_token | give 1 or more, or leave it out",
    "web.access.tokens:read_tokens | Give another path",
    "web.access.tokens:read_tokens | Make one with: terrafuse token add",
    "web.access.tokens:read_tokens | Make a new one with: terrafuse token add",
    "web.access.tokens:check_host | Make one (terrafuse token add",
    "web.access.tokens:check_host | Make one: terrafuse token add",
)


def test_a_file_that_others_may_write(path: Path) -> None:
    """web.access.tokens:read_tokens | Run: chmod 600"""
    secret, _ = add_token(path, "ana")
    for mode in (0o620, 0o602):  # of its group, and everybody
        path.chmod(mode)
        with pytest.raises(ConfigError, match=r"others may write .* Run: chmod 600"):
            TokenFile(path)
    path.chmod(0o600)
    assert TokenFile(path).user(secret) is not None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"tokens": 3}',
        '{"tokens": ["ana"]}',
        '{"tokens": [{"name": "ana"}]}',
        '{"tokens": [{"name": "ana", "sha256": "abc"}]}',
        '{"tokens": [{"name": "a/b", "sha256": "%s"}]}' % ("0" * 64),
        '{"tokens": [{"name": "ana", "sha256": "%s", "may": ["root"]}]}' % ("0" * 64),
        '{"tokens": [{"name": "ana", "sha256": "%s", "max_queued": -1}]}' % ("0" * 64),
        '{"tokens": [{"name": "ana", "sha256": "%s", "more": 1}]}' % ("0" * 64),
        "[" * 100_000,
    ],
)
def test_files_that_are_none_of_tokens(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is no file of tokens"):
        read_tokens(path)


def test_a_file_that_is_not_there_is_made_as_the_message_says(path: Path) -> None:
    with pytest.raises(ConfigError, match="Make one with: terrafuse token add NAME --tokens"):
        read_tokens(path)
    with pytest.raises(ConfigError, match="it is no file"):
        read_tokens(path.parent)
    add_token(path, "ana")
    assert [token.name for token in read_tokens(path)] == ["ana"]
    assert set(json.loads(path.read_text())) == {"format", "tokens"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "::1", "[::1]"]
)
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert Access(host=host).rate is None


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.3", "maps.example.org", "128.0.0.1"]
)
def test_other_hosts_need_a_token(host: str, path: Path) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match=r"there are no tokens\. Make one"):
        Access(host=host)
    add_token(path, "ana")
    remove_token(path, "ana")
    with pytest.raises(ConfigError, match="has no token, so that nobody could use"):
        check_host(host, path)
    add_token(path, "ana")
    assert Access(host=host, tokens=path).rate == 100
