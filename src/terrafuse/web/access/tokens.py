"""Tokens of users: shown once, kept as hashes in a file of their own.

A token is 256 random bits. Nobody can try so many, so that one round of SHA-256 keeps it as well as
a slow hash would; slow ones are for passwords, which people choose, and would cost each request.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, get_args

from terrafuse.errors import ConfigError, OutputError, cut, shown, unknown_name, write_failure
from terrafuse.writing import claimed_file

Right = Literal["priority", "upload", "urls", "all"]
#: priority: jobs before those of others; upload: send rasters; urls: name rasters by address; all:
#: see and end the jobs of others.
RIGHTS: tuple[Right, ...] = get_args(Right)
#: Begins every token, so that people and programs that look for secrets know one when they see it.
PREFIX = "tf_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOST_BYTES = 4_000_000


@dataclass(frozen=True)
class User:
    """Someone who asks.

    Args:
        name: Of the token; "local" where there are no tokens.
        may: What is allowed beyond jobs of one's own on the rasters of the server.
        max_queued: Jobs that wait or run at once; None: the service's.
        max_running: Jobs that run at once; None: the service's.
    """

    name: str = "local"
    may: frozenset[Right] = frozenset(RIGHTS)
    max_queued: int | None = None
    max_running: int | None = None


#: Whoever asks on loopback where there are no tokens.
LOCAL = User()


@dataclass(frozen=True)
class Token:
    """A token as it is kept.

    Args:
        sha256: Of the token, in hexadecimal digits.
        created: Date and time, UTC.
    """

    name: str
    sha256: str
    may: tuple[Right, ...] = ()
    max_queued: int | None = None
    max_running: int | None = None
    created: str = ""

    @property
    def user(self) -> User:
        """Whom it stands for."""
        return User(self.name, frozenset(self.may), self.max_queued, self.max_running)


def hash_token(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def add_token(
    path: Path,
    name: str,
    *,
    may: Iterable[str] = (),
    max_queued: int | None = None,
    max_running: int | None = None,
) -> tuple[str, Token]:
    """Make a token and keep its hash; returns the token, which nothing can show again.

    Args:
        path: File of tokens; made if need be, readable for its owner only. Who may read one that
            is there may read the new one.
        may: As in `User`, like the following ones.

    Raises:
        ConfigError: The name is taken or not allowed, a right is unknown, a number of jobs is below
            1, or the file is not one of tokens.
        OutputError: The file cannot be written.
    """
    if not _NAME.fullmatch(name) or name == LOCAL.name:
        raise ConfigError(
            f"'{cut(name)}' cannot be a user's name: 1 to 64 letters, digits and . _ @ - are "
            f"allowed, and not '{LOCAL.name}'"
        )
    rights = tuple(sorted({_right(word) for word in may}))
    for quota in (max_queued, max_running):
        if quota is not None and quota < 1:
            raise ConfigError(f"a quota of {quota} jobs is none; give 1 or more, or leave it out")
    secret = PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    token = Token(name, hash_token(secret), rights, max_queued, max_running, now)
    with claimed_file(path, "change tokens"):
        known = read_tokens(path) if path.exists() else ()
        if any(other.name == name for other in known):
            raise ConfigError(
                f"'{path}' has a token of '{name}' already. Remove it first "
                f"(terrafuse token remove {name}), or choose another name"
            )
        _write(path, (*known, token))
    return secret, token


def remove_token(path: Path, name: str) -> None:
    """Remove a user's token; a running server refuses it from the next request on.

    Raises:
        ConfigError: There is none of that name, or the file is not one of tokens.
        OutputError: The file cannot be written.
    """
    with claimed_file(path, "change tokens"):
        known = read_tokens(path)
        left = tuple(token for token in known if token.name != name)
        if len(left) == len(known):
            raise ConfigError(unknown_name("token", name, (token.name for token in known)))
        _write(path, left)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read a file of tokens.

    Raises:
        ConfigError: It is not there, not one of tokens, or others may write it.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"'{path}' is no file of tokens: it is no file. Give another path")
        if mode & 0o022:
            raise ConfigError(
                f"others may write '{path}', and so let themselves in. Run: chmod 600 '{path}'"
            )
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the file of tokens '{path}' cannot be read: {error.strerror}. Make one with: "
            f"terrafuse token add NAME --tokens '{path}'"
        ) from error
    try:
        if len(content) > _MOST_BYTES:
            raise ValueError(f"longer than {_MOST_BYTES:,} bytes")
        return tuple(_parsed(entry) for entry in json.loads(content)["tokens"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(
            f"'{path}' is no file of tokens: {cut(error)}. Make a new one with: "
            "terrafuse token add NAME --tokens FILE"
        ) from error


def _parsed(entry: object) -> Token:
    if not isinstance(entry, dict):
        raise ValueError(f"{shown(entry)} is no token")
    token = Token(**{**entry, "may": tuple(entry.get("may", ()))})
    if not (isinstance(token.name, str) and _NAME.fullmatch(token.name)):
        raise ValueError(f"{shown(token.name)} is no name")
    if not (isinstance(token.sha256, str) and _HASH.fullmatch(token.sha256)):
        raise ValueError(f"the hash of '{token.name}' is none")
    for quota in (token.max_queued, token.max_running):
        if not (quota is None or (isinstance(quota, int) and quota > 0)):
            raise ValueError(f"{shown(quota)} is no quota")
    return replace(token, may=tuple(_right(word) for word in token.may))


def _right(word: object) -> Right:
    for right in RIGHTS:
        if word == right:
            return right
    raise ConfigError(unknown_name("right", word, RIGHTS))


def _write(path: Path, tokens: tuple[Token, ...]) -> None:
    """Replace the file by one that its readers read, at first its owner alone."""
    text = json.dumps({"format": 1, "tokens": [asdict(token) for token in tokens]}, indent=2)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            _let_read(descriptor, path)
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"'{path}' cannot be written: {write_failure(error, path.parent)}"
        ) from error


def _let_read(descriptor: int, before: Path) -> None:
    """Give a new file the readers of the one before: a service may run as another user."""
    try:
        known = before.stat()
    except FileNotFoundError:
        return
    with suppress(PermissionError):
        os.fchown(descriptor, known.st_uid, known.st_gid)
    os.fchmod(descriptor, known.st_mode & 0o644)


@dataclass
class TokenFile:
    """A file of tokens that is read again whenever it changes.

    Args:
        path: File of tokens.
    """

    path: Path
    _tokens: tuple[Token, ...] = field(default=(), init=False)
    _seen: tuple[int, int, int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.tokens()

    def tokens(self) -> tuple[Token, ...]:
        """The tokens as they are now.

        Raises:
            ConfigError: As `read_tokens`: what cannot be read lets nobody in.
        """
        try:
            found = self.path.stat()
            state = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        except OSError:
            state = None
        if state is None or state != self._seen:
            self._tokens, self._seen = read_tokens(self.path), state
        return self._tokens

    def user(self, presented: str) -> User | None:
        """Whom a token stands for; None: nobody.

        All hashes are compared, each in constant time, so that answers tell nothing by their time.
        """
        given = hash_token(presented)
        found: User | None = None
        for token in self.tokens():
            if hmac.compare_digest(given, token.sha256):
                found = token.user
        return found

    def named(self, name: str) -> User | None:
        """The user of that name; None: the token was removed."""
        return next((token.user for token in self.tokens() if token.name == name), None)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address that a server listens on."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(host: str, tokens: Path | None) -> None:
    """Refuse to let other machines in without tokens.

    Raises:
        ConfigError: The host is not loopback and there is no file of tokens, or none in it.
    """
    if is_loopback(host):
        return
    if tokens is None:
        raise ConfigError(
            f"--host {cut(host)} lets other machines in, and there are no tokens. Make one "
            "(terrafuse token add NAME --tokens tokens.json) and add --tokens tokens.json; or "
            "leave out --host"
        )
    if not read_tokens(tokens):
        raise ConfigError(
            f"'{tokens}' has no token, so that nobody could use --host {cut(host)}. Make one: "
            f"terrafuse token add NAME --tokens '{tokens}'"
        )
