"""The service as a process: `terrafuse serve`, and `terrafuse serve-worker`."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
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
#: So long may answers take that are being sent when the server is to end.
_ENDING_SECONDS = 3
_BACKLOG = 2048


def run_service(settings: ServiceSettings, say: Callable[[str], None]) -> None:
    """Serve until a signal comes.

    Args:
        say: Prints a line for whoever starts it.

    Raises:
        ConfigError: A setting is wrong, or the port is taken.
        OutputError: Folder or database cannot be used.
        WeightsError: A model cannot be read.
    """
    import uvicorn

    from terrafuse.web.service.app import create_service_app  # workers need neither

    with when_stopped(_STOPPED), _listen(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        app = create_service_app(replace(settings, port=port))
        service = app.state.service
        service.database.set_fact(SERVER_HOST, machine().host)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        say(f"terrafuse serves {', '.join(sorted(service.shelf.models))} at http://{host}:{port}/")
        if not settings.roots:
            say("jobs can name uploads only: no folder is given by --root")
        config = uvicorn.Config(
            app,
            log_config=log_config(),
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_ENDING_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listener])


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


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error.strerror or error}. Choose another --port, or "
            "an address of this machine as --host"
        ) from error
    return listener
