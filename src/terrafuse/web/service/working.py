"""A worker: a process that maps one job after the other.

It is started by a `Supervisor`, reads its settings from standard input, and ends when that is
closed: its parent is gone. A job that it has then is free for others at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from logging.config import dictConfig
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from terrafuse import api
from terrafuse.data.value_conversion import ValueConversion
from terrafuse.errors import TerrafuseError
from terrafuse.locking import machine, process_start
from terrafuse.web.access.secrets import log_config
from terrafuse.web.service.checks import as_asked, check_again, scene_of_item
from terrafuse.web.service.database import Database
from terrafuse.web.service.folders import RECORD, Folders, hide_inputs, kept_units, list_results
from terrafuse.web.service.jobs import Answer, Claim, Queue
from terrafuse.web.service.models import ModelShelf
from terrafuse.web.service.veil import Veil, names_given

_LOG = logging.getLogger("terrafuse.worker")
_T = TypeVar("_T")
_POLL_SECONDS = 0.3
#: Beside a server that answers people.
_NICENESS = 5
#: Nothing that a user could act on.
_OF_LIBRARIES = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
POLYGONS = "polygons.gpkg"
ITEM, PREVIEW = "item.json", "preview.png"


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is told.

    Args:
        id: Its own name.
        models: Name → absolute path of what it can map with.
        url_hosts: Hosts whose addresses may be read.
    """

    id: str
    models: Mapping[str, str]
    data: str
    database: str
    device: str = "auto"
    lease_seconds: float = 30.0
    url_hosts: tuple[str, ...] = ()


class GivenUp(BaseException):
    """The job in hand is not this worker's any more, or was cancelled; nothing else handles it."""

    def __init__(self, why: Answer) -> None:
        super().__init__(why)
        self.why = why


class Heart:
    """A thread that says how far a job is, and hears whether it is to go on.

    Args:
        folder: Where the map is made.
    """

    def __init__(self, queue: Queue, claim: Claim, folder: Path) -> None:
        self.answer: Answer = "go on"
        self._queue, self._claim, self._folder = queue, claim, folder
        self._last: tuple[int, int | None] = (0, None)
        self._stop = threading.Event()
        self._pause = min(queue.lease_seconds / 10, 2.0)
        self._until = time.monotonic() + queue.lease_seconds
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heart:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def progress(self, done: int, total: int) -> None:
        """Stop here if the job is to be given up; what is kept, stays.

        Raises:
            GivenUp: It is.
        """
        del done, total  # windows, of which nothing is kept yet
        if self._last[1] is None:
            self._last = kept_units(self._folder)
        if self.answer != "go on":
            raise GivenUp(self.answer)

    def beat(self) -> None:
        """Say it once."""
        try:
            done, total = kept_units(self._folder)
            if total is None and (self._folder / RECORD).exists():  # its units are joined
                done, total = self._last[1] or 0, self._last[1]
            self._last = done, total
            self.answer = self._queue.beat(self._claim, done, total)
            self._until = time.monotonic() + self._queue.lease_seconds
        except SQLAlchemyError as error:
            _LOG.warning("the database does not answer: %s", type(error).__name__)
            if time.monotonic() > self._until:
                self.answer = "lost"

    def _beat(self) -> None:
        while not self._stop.wait(self._pause):
            self.beat()


class Worker:
    """A worker.

    Raises:
        ConfigError: The database is named wrongly.
        OutputError: It, or the folder, cannot be used.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.queue = Queue(self.database, settings.lease_seconds)
        self.folders = Folders(Path(settings.data))
        self.claim: Claim | None = None
        self._models: dict[str, api.TrainedModel] = {}

    def run(self) -> None:
        """Do jobs for ever."""
        self.enrol()
        self.tell_models()
        seen = time.monotonic()
        while True:
            if self.run_once():
                continue
            if time.monotonic() - seen > self.settings.lease_seconds / 6:
                _patiently(lambda: self.queue.is_alive(self.settings.id))
                seen = time.monotonic()
            time.sleep(_POLL_SECONDS)

    def enrol(self) -> None:
        """Have this worker be known."""
        here, number = machine(), os.getpid()
        where = {
            "host": here.host,
            "boot": here.boot,
            "pid": number,
            "started": process_start(number),
        }
        _patiently(lambda: self.queue.enrol(self.settings.id, list(self.settings.models), where))

    def tell_models(self) -> None:
        """Say what the service does not know before it has imported the methods."""
        for model in ModelShelf([f"{n}={path}" for n, path in self.settings.models.items()]):
            try:
                supports = model.supports_missing
            except TerrafuseError as error:  # code that is not installed; jobs will say so
                _LOG.warning("model '%s': %s", model.name, error)
                continue
            _patiently(partial(self.queue.tell_missing, model.name, supports))

    def run_once(self) -> bool:
        """Do the next job; False: there is none."""
        models = list(self.settings.models)
        if not _patiently(lambda: self.queue.has_waiting(models)):
            return False
        self.claim = _patiently(lambda: self.queue.claim(self.settings.id, models))
        if self.claim is None:
            return False
        try:
            self._do(self.claim)
        finally:
            self.claim = None
        return True

    def give_back(self) -> None:
        """Let others have the job in hand, and forget this worker."""
        claim = self.claim
        if claim is not None:
            self.queue.give_back(claim)
        self.queue.bury(self.settings.id, how=None)

    def _do(self, claim: Claim) -> None:
        log = _JobLog(self.folders.log(claim.id), self._veil(claim))
        began = time.monotonic()
        try:
            if not self.folders.has_results(claim.id):
                folder = self.folders.take(claim.id, claim.attempt)
                log.say(f"attempt {claim.attempt} begins, by {claim.worker}")
                with Heart(self.queue, claim, folder) as heart, log.warnings():
                    self._map(claim, folder, heart, log)
                    heart.beat()
                    heart.progress(0, 0)
                self.folders.give(claim.id, claim.attempt)
            files = list_results(self.folders.results(claim.id))
            seconds = time.monotonic() - began
            log.say(f"done in {seconds:.1f} s: {', '.join(file.name for file in files)}")
            _patiently(lambda: self.queue.finish(claim, files, seconds))
        except GivenUp as end:
            if end.why == "cancel":
                log.say("cancelled; what is kept can be gone on with")
                _patiently(lambda: self.queue.stopped(claim))
            else:
                self._lose(claim, log)
        except Exception as error:
            self._fail(claim, log, error)

    def _map(self, claim: Claim, folder: Path, heart: Heart, log: _JobLog) -> None:
        request = claim.request
        if not (folder / RECORD).exists():
            model = self._model(claim.model)
            heart.progress(0, 0)
            conversions = {
                name: ValueConversion.parse(text, f"convert {name}")
                for name, text in request.convert.items()
            }
            model.predict(
                folder,
                **self._scene(claim, model),
                products=request.products,
                areas="areas" in request.outputs,
                convert=conversions,
                trust_values=request.trust_values,
                windows=model.windows(crop_size=request.crop_size, overlap=request.overlap),
                device=self.settings.device,
                resume=True,
                tta=request.tta,
                progress=heart.progress,
            )
            log.say("the map is made")
        if "preview" not in request.outputs:
            (folder / PREVIEW).unlink(missing_ok=True)
        if "polygons" in request.outputs:
            api.vectorize(folder / "class_map.tif", folder / POLYGONS, progress=heart.progress)
            log.say("the polygons are made")
        _keep_inside(folder / ITEM)
        hide_inputs(folder)

    def _scene(self, claim: Claim, model: api.TrainedModel) -> dict[str, Any]:
        """What is mapped, as `predict` takes it."""
        if claim.request.item is None:
            check_again(claim.rasters)
            return {"rasters": claim.rasters}
        return {"scene": scene_of_item(model.info, claim.request.item, self.settings.url_hosts)}

    def _model(self, name: str) -> api.TrainedModel:
        if name not in self._models:
            self._models[name] = api.open_model(self.settings.models[name])
        return self._models[name]

    def _lose(self, claim: Claim, log: _JobLog) -> None:
        """Leave nothing behind of a job that another worker has, or that is deleted."""
        self.folders.drop(claim.id, claim.attempt)
        if _patiently(lambda: self.queue.get(claim.id)) is None:
            self.folders.remove(claim.id)
        else:
            log.say(f"{claim.worker} has lost the job")

    def _fail(self, claim: Claim, log: _JobLog, error: Exception) -> None:
        if not _patiently(lambda: self.queue.is_held(claim)):  # its folder is gone: no fault
            self._lose(claim, log)
            return
        if isinstance(error, TerrafuseError):
            message = log.veil(as_asked(str(error)))
        else:
            message = f"internal error: {type(error).__name__}. The service's log says more"
            _LOG.error("job %s failed\n%s", claim.id, "".join(traceback.format_exception(error)))
        log.say(f"failed: {message}")
        _patiently(lambda: self.queue.fail(claim, message))

    def _veil(self, claim: Claim) -> Veil:
        names = names_given(claim.request, claim.rasters)
        names[str(self.folders.job(claim.id) / f"work-{claim.attempt}")] = "results"
        names |= {path: name for name, path in self.settings.models.items()}
        return Veil(names)


class _JobLog:
    """The log of a job, as its user may read it."""

    def __init__(self, path: Path, veil: Veil) -> None:
        self.veil = veil
        self._path = path

    def say(self, text: str) -> None:
        """Add a line; a full disk is not the reason for which a job fails."""
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{moment} {self.veil(text)}\n")

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Have warnings in the log."""

        def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            if not issubclass(category, _OF_LIBRARIES):
                self.say(f"warning: {message}")

        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = show
            yield


def _keep_inside(path: Path) -> None:
    """Take out of a map's STAC item what does not lie beside it, such as the model's weights."""
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
        assets = item["assets"]
    except (OSError, ValueError, LookupError, TypeError):
        return
    item["assets"] = {
        key: asset
        for key, asset in assets.items()
        if "/" not in str(asset["href"]).removeprefix("./")
    }
    item["links"] = [one for one in item.get("links", ()) if "://" in str(one.get("href"))]
    path.write_text(json.dumps(item, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _patiently(call: Callable[[], _T], tries: int = 8) -> _T:
    """The result of a call to the database, which may be started again meanwhile."""
    for number in range(tries - 1):
        try:
            return call()
        except SQLAlchemyError as error:
            _LOG.warning("the database does not answer: %s", type(error).__name__)
            time.sleep(min(0.5 * 2**number, 15.0))
    return call()


def main() -> None:
    """Work until standard input is closed."""
    dictConfig(log_config())
    values = json.loads(sys.stdin.readline())
    settings = WorkerSettings(**{**values, "url_hosts": tuple(values["url_hosts"])})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops this process
    with suppress(OSError, AttributeError):
        os.nice(_NICENESS)
    worker = Worker(settings)
    threading.Thread(target=_end_with_parent, args=(worker,), daemon=True).start()
    worker.run()


def _end_with_parent(worker: Worker) -> None:
    sys.stdin.buffer.read()
    try:
        worker.give_back()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
