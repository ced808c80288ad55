"""The service's tables, in SQLite (WAL) or PostgreSQL: one schema, with a version number.

Times are seconds since 1970. A job's `revision` grows with each change that people see, and numbers
the events of the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from terrafuse.errors import ConfigError, OutputError
from terrafuse.extras import from_extra

METADATA = MetaData()
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

FACTS = Table(
    "facts",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
JOBS = Table(
    "jobs",
    METADATA,
    Column("seq", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("user", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("done", Integer, nullable=False, default=0),
    Column("total", Integer),
    Column("attempts", Integer, nullable=False, default=0),
    # Attempts in a row that ended without a word and without a new unit: those whose worker was
    # seen to die, and those that were not heard of any more.
    Column("deaths", Integer, nullable=False, default=0),
    Column("silences", Integer, nullable=False, default=0),
    Column("worker", Text),
    Column("lease", Float),
    Column("error", Text),
    Column("request", Text, nullable=False),
    Column("rasters", Text, nullable=False),
    Column("results", Text, nullable=False, default="[]"),
    Column("has_crs", Integer, nullable=False, default=0),
    Column("need_bytes", _NUMBER, nullable=False, default=0),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("revision", Integer, nullable=False, default=1),
    Index("jobs_by_state", "state", "model"),
    Index("jobs_by_user", "user", "state"),
)
USERS = Table(
    "users",
    METADATA,
    Column("name", Text, primary_key=True),
    # Number of the claim that gave this user a worker last: the smallest is next.
    Column("turn", _NUMBER, nullable=False, default=0),
    Column("max_running", Integer, nullable=False),
)
WORKERS = Table(
    "workers",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("boot", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", Text, nullable=False),
    Column("models", Text, nullable=False),
    Column("seen", Float, nullable=False),
)

#: Steps from each version of the schema to the next; new ones are added at the end.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = (lambda db: METADATA.create_all(db),)
VERSION = len(MIGRATIONS)
#: Of PostgreSQL's advisory locks, "terrafuse" in hexadecimal digits of its letters' sum.
_LOCK = 0x7E44AF53
_SECONDS = 30


class Database:
    """A database of jobs.

    Args:
        url: SQLAlchemy's; `sqlite:///FILE` or `postgresql://…`.

    Raises:
        ConfigError: No such kind of database.
        MissingDependencyError: Its driver is not installed.
        OutputError: It cannot be reached, or is of a later version.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        try:
            self._migrate()
        except SQLAlchemyError as error:
            self.close()
            raise OutputError(
                f"the database {self.engine.url.render_as_string()} cannot be used: "
                f"{_reason(error)}. Correct --database, or start it"
            ) from None
        except OutputError:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read by, in one transaction."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection to write by: one at a time in SQLite."""
        opened = self.engine.connect().execution_options(terrafuse_writes=True)
        with opened as connection, connection.begin():
            yield connection

    @contextmanager
    def deciding(self) -> Iterator[Connection]:
        """A connection to write by, while nobody else decides: for claims and quotas."""
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _LOCK})
            yield connection

    def fact(self, name: str) -> str | None:
        """A fact about the database itself."""
        with self.reading() as db:
            return db.scalar(select(FACTS.c.value).where(FACTS.c.name == name))

    def set_fact(self, name: str, value: str) -> None:
        """Keep such a fact."""
        with self.deciding() as db:
            _set_fact(db, name, value)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _migrate(self) -> None:
        with self.deciding() as db:
            found = 0
            if inspect(db).has_table(FACTS.name):
                found = int(db.scalar(select(FACTS.c.value).where(FACTS.c.name == "version")) or 0)
            if found > VERSION:
                raise OutputError(
                    f"the database {self.engine.url.render_as_string()} is of schema {found}, and "
                    f"this terrafuse knows those up to {VERSION}. Install the terrafuse that wrote "
                    "it, or give another --database"
                )
            for step in MIGRATIONS[found:]:
                step(db)
            if found < VERSION:
                _set_fact(db, "version", str(VERSION))


def now() -> float:
    """Seconds since 1970."""
    return time.time()


def _set_fact(db: Connection, name: str, value: str) -> None:
    changed = db.execute(update(FACTS).where(FACTS.c.name == name).values(value=value))
    if not changed.rowcount:
        db.execute(insert(FACTS).values(name=name, value=value))


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(
            "--database is no URL; give sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ConfigError(
                "--database sqlite:// needs a file: workers are processes of their own"
            )
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": _SECONDS}, pool_size=20)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if kind in ("postgresql", "postgres"):
        with from_extra("postgres", "--database postgresql://"):
            return create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_size=20,
                pool_pre_ping=True,
                connect_args={"connect_timeout": 10},
            )
    raise ConfigError(
        f"--database is of kind '{kind}'; give sqlite:///FILE or postgresql://USER@HOST/NAME"
    )


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Have transactions begin where we say so, and survive the end of the machine."""
    connection.isolation_level = None
    for line in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={1000 * _SECONDS}"):
        connection.execute(f"PRAGMA {line}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads and then writes fails where another one has written in between.
    writes = connection.get_execution_options().get("terrafuse_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _reason(error: SQLAlchemyError) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
