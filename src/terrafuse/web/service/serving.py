"""The service as a process: `terrafuse serve`, and `terrafuse serve-worker`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from logging.config import dictConfig

from terrafuse.errors import ConfigError, OutputError
from terrafuse.locking import machine
from terrafuse.stopping import when_stopped
from terrafuse.web.access.secrets import log_config
from terrafuse.web.service.database import Database
from terrafuse.web.service.folders import Folders
from terrafuse.web.service.jobs import Queue
from terrafuse.web.service.settings import ServiceSettings
from terrafuse.web.service.workers import Supervisor

#: Fact of a database: the machine of its server.
SERVER_HOST = "server_host"
_STOPPED = "jobs are kept, and go on when the service is started again"


def run_service(settings: ServiceSettings, say: Callable[[str], None]) -> None:
    """Serve until a signal comes.

    Args:
        say: Prints a line for whoever starts it.

    Raises:
        ConfigError: A setting is wrong.
        OutputError: Folder, database or port cannot be used.
        WeightsError: A model cannot be read.
    """
    from terrafuse.web.listening import address_of, listen, run_app, warn_of_others
    from terrafuse.web.service.app import create_service_app  # workers need neither

    with when_stopped(_STOPPED), listen(settings.host, settings.port) as listening:
        app = create_service_app(settings)
        service = app.state.service
        service.database.set_fact(SERVER_HOST, machine().host)
        warn_of_others(settings.host, "have maps made", say)
        names = ", ".join(sorted(service.shelf.models))
        say(f"terrafuse serves {names} at {address_of(listening, settings.host)}")
        if not settings.roots:
            say("jobs can name uploads only: no folder is given by --root")
        run_app(app, listening, log_config=log_config())


def run_workers(settings: ServiceSettings, say: Callable[[str], None]) -> None:
    """Map jobs of a service that runs elsewhere, until a signal comes.

    Raises:
        ConfigError: A setting is wrong, or the database is one that machines cannot share.
        OutputError: Folder or database cannot be used.
        WeightsError: A model cannot be read.
    """
    dictConfig(log_config())
    database = Database(settings.database_url)
    server = database.fact(SERVER_HOST)
    if database.is_sqlite and server not in (None, machine().host):
        raise ConfigError(
            f"the service runs on '{server}', and this is '{machine().host}': SQLite is not safe "
            "between machines. Give both the same --database postgresql://…"
        )
    if not Folders(settings.data).jobs.is_dir():
        raise OutputError(
            f"--data '{settings.data}' is not the folder of a service. Give the same as to "
            "'terrafuse serve', on a disk that both machines have"
        )
    supervisor = Supervisor(settings, Queue(database, settings.lease_seconds))
    with when_stopped(_STOPPED):
        supervisor.start(lambda: None)
        say(f"{settings.workers} workers map for the service of {settings.data}; Ctrl-C ends them")
        try:
            threading.Event().wait()
        finally:
            supervisor.stop()
            database.close()
