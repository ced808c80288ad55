"""A PostgreSQL server of its own for as long as a test needs it, on a socket in its folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the URL of an empty database; skip the test where PostgreSQL is not installed."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="terrafuse-pg-"))
    as_user = _as_user(folder)
    data, socket = folder / "data", folder / "s"
    try:
        _run([*as_user, str(programs / "initdb"), "-D", str(data), "-U", "terrafuse", "-A", "trust",
              "-E", "UTF8", "--no-sync"])  # fmt: skip
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        _run([*as_user, str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(socket) + ".log",
              "-o", options, "start"])  # fmt: skip
        try:
            yield f"postgresql://terrafuse@/postgres?host={folder}"
        finally:
            _run([*as_user, str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("pg_ctl")
    if found:
        places.append(Path(found).resolve().parent)
    for place in places:
        if all((place / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return place
    pytest.skip("PostgreSQL (initdb, pg_ctl, postgres) is not installed")


def _as_user(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: words that make a command somebody else's."""
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("root cannot run PostgreSQL, and there is no user 'postgres'")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root cannot run PostgreSQL, and setpriv is not installed")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _run(command: list[str]) -> None:
    # Output to a file: the server inherits pipes, and they would never end.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(command, stdout=said, stderr=said, cwd="/", check=False, timeout=60)
        said.seek(0)
        assert done.returncode == 0, said.read().decode(errors="replace")
