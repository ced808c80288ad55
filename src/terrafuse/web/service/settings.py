"""Settings of the service, as `terrafuse serve` takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from terrafuse.errors import ConfigError


@dataclass(frozen=True)
class ServiceSettings:
    """What is served, to whom, and how much of it.

    Args:
        models: Run folders or ONNX files, or NAME=PATH.
        data: Folder of jobs, uploads and, without `database`, of the database.
        database: SQLAlchemy's URL; None: SQLite in `data`.
        roots: Folders whose rasters may be named in requests.
        url_hosts: Hosts whose http(s) addresses may be.
        tokens: File of tokens; None: everybody on loopback is the user "local".
        host: Address to listen at.
        port: Likewise; 0: any that is free.
        names: Further names by which browsers reach it, as behind a reverse proxy.
        workers: Processes that map, on this machine.
        device: That they map on.
        keep_days: How long ended jobs and their files are kept.
        max_queued: Jobs of a user that wait or run at once, where its token does not say.
        max_running: Jobs of a user that run at once, likewise.
        max_pixels: Of a scene grid.
        min_free_bytes: Disk below which the service is not ready.
        lease_seconds: A job whose worker has not been heard of for so long is given to another.

    Raises:
        ConfigError: One of the roots is no folder.
    """

    models: tuple[str, ...]
    data: Path
    database: str | None = None
    roots: tuple[Path, ...] = ()
    url_hosts: tuple[str, ...] = ()
    tokens: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8766
    names: tuple[str, ...] = ()
    workers: int = 1
    device: str = "auto"
    keep_days: float = 30.0
    max_queued: int = 100
    max_running: int = 4
    max_pixels: int = 4_000_000_000
    min_free_bytes: int = 1 << 30
    lease_seconds: float = 30.0

    def __post_init__(self) -> None:
        for root in self.roots:
            if not root.is_dir():
                raise ConfigError(
                    f"--root '{root}' is no folder. Name one whose rasters jobs may name, or leave "
                    "it out"
                )

    @property
    def database_url(self) -> str:
        """SQLAlchemy's URL."""
        return self.database or f"sqlite:///{self.data.absolute() / 'jobs.sqlite'}"
