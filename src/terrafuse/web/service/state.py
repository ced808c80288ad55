"""What the routes of the service work on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastapi import Request

from terrafuse.web.access.tokens import User
from terrafuse.web.refusals import Refusal
from terrafuse.web.service.database import Database
from terrafuse.web.service.events import Watch
from terrafuse.web.service.folders import Folders
from terrafuse.web.service.jobs import JobRow, Queue, find_row
from terrafuse.web.service.metrics import Durations
from terrafuse.web.service.models import ModelShelf, ServedModel
from terrafuse.web.service.settings import ServiceSettings
from terrafuse.web.service.uploads import Uploads
from terrafuse.web.service.workers import Supervisor

#: Between looks for uploads that are too old.
_UPLOADS_SECONDS = 60.0


class Service:
    """What the routes of an app work on; `service_of(request)` is that of a request.

    Raises:
        ConfigError: Models or database are named wrongly.
        OutputError: Folder or database cannot be used.
        WeightsError: A model cannot be read.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.shelf = ModelShelf(settings.models)
        self.folders = Folders(settings.data)
        self.folders.make()
        self.database = Database(settings.database_url)
        self.queue = Queue(self.database, settings.lease_seconds)
        self.watch = Watch(self.queue)
        self.durations = Durations()
        self.supervisor = Supervisor(settings, self.queue)
        self.uploads = Uploads(settings.data.absolute() / "uploads")
        self.is_stopping = False
        self._uploads_next = 0.0

    def card(self, model: ServedModel) -> dict[str, Any]:
        """What people need to know of a model."""
        return {**model.card, "supports_missing": self.queue.supports_missing(model.name)}

    def job(self, id: str, user: User) -> JobRow:
        """A job of a user.

        Raises:
            Refusal: There is none.
        """
        return find_row(self.queue, id, user)

    def finished(self, id: str, user: User) -> Path:
        """The folder of a job's finished map.

        Raises:
            Refusal: There is no such job, or it is not done.
        """
        row = self.job(id, user)
        if row.state != "done":
            raise Refusal(409, f"job {id} is {row.state}, and has no results yet")
        return self.folders.results(id)

    def keep_order(self) -> None:
        """Give jobs of silent workers to others, and remove what was kept long enough."""
        self.queue.expire()
        for id in self.queue.ended_before(time.time() - 86400 * self.settings.keep_days):
            self.remove(id)
        if time.monotonic() > self._uploads_next:
            self.uploads.expire(self.queue.uploads_in_use())
            self._uploads_next = time.monotonic() + _UPLOADS_SECONDS

    def remove(self, id: str) -> None:
        """Forget a job that has ended, and remove its files.

        Raises:
            Refusal: It has not ended.
        """
        self.queue.delete(id)
        self.folders.remove(id)


def service_of(request: Request) -> Service:
    """The service that a request is sent to."""
    service: Service = request.app.state.service
    return service
