"""The service, called from Python: maps by models that are served elsewhere.

    from pathlib import Path
    from terrafuse.client import Client

    client = Client("http://127.0.0.1:8766")
    job = client.submit({"s1": Path("s1.tif"), "s2": "2024/s2.tif"}, products=["class_map"])
    job.wait().download("map")

Needs nothing but Python's own library. Redirects and proxies are not followed, so that a token
reaches the named host only.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, cast
from urllib.parse import quote, urlencode, urlsplit

from terrafuse.errors import ConfigError, OutputError, ServiceError, cut, write_failure
from terrafuse.progress import Progress
from terrafuse.version import VERSION

#: States that a job does not leave by itself.
ENDED = ("cancelled", "failed", "done")
_BLOCK = 1 << 20
_MOST_JSON = 64 << 20
_LONGEST_WAIT = 60.0

Raster = str | Path
Body = bytes | BinaryIO


@dataclass(frozen=True)
class Job:
    """A job as it stood when it was asked for.

    Args:
        record: All that the service says of it.
    """

    client: Client = field(repr=False)
    record: Mapping[str, Any]

    @property
    def id(self) -> str:
        """What the service calls it."""
        return str(self.record["id"])

    @property
    def state(self) -> str:
        """One of queued, running, cancelling, cancelled, failed, done."""
        return str(self.record["state"])

    @property
    def has_ended(self) -> bool:
        """Whether it stays as it is by itself."""
        return self.state in ENDED

    @property
    def error(self) -> str | None:
        """Why it failed."""
        return cast("str | None", self.record.get("error"))

    @property
    def results(self) -> dict[str, int]:
        """Files of a finished job, with their bytes."""
        return {str(file["name"]): int(file["bytes"]) for file in self.record.get("results", ())}

    def refresh(self) -> Job:
        """The job as it stands now."""
        return self.client.job(self.id)

    def events(self) -> Iterator[Job]:
        """Yield the job now and at each change, until it has ended.

        A connection that breaks is made again, and goes on where it was.

        Raises:
            ServiceError: The job does not exist, or the service stays away.
        """
        return self.client._events(self.id)

    def wait(self, progress: Progress | None = None) -> Job:
        """Wait for the job's end.

        Args:
            progress: Called with finished and all work units.

        Raises:
            ServiceError: It failed or was cancelled, or the service stays away.
        """
        job = self
        for job in self.events():
            if progress is not None and job.record.get("total"):
                progress(int(job.record["done"]), int(job.record["total"]))
        if job.state == "failed":
            raise ServiceError(f"job {job.id} failed: {job.error}")
        if job.state == "cancelled":
            raise ServiceError(f"job {job.id} was cancelled. Go on with it by resume()")
        return job

    def cancel(self) -> Job:
        """Have it stop; what is kept of it can be gone on with."""
        return self.client._change(self.id, "cancel")

    def resume(self) -> Job:
        """Put a cancelled or failed job back into the queue."""
        return self.client._change(self.id, "resume")

    def delete(self) -> None:
        """Remove an ended job and its files from the service."""
        self.client._json("DELETE", f"/api/jobs/{quote(self.id, safe='')}")

    def log(self) -> str:
        """What workers have said of it."""
        with self.client._opened("GET", f"/api/jobs/{quote(self.id, safe='')}/log") as answer:
            return answer.read(_MOST_JSON).decode("utf-8", "replace")

    def download(
        self,
        folder: str | Path,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[Path]:
        """Download the results; a file that is there already is not fetched again.

        A file gets its name once all of it is there. What a broken connection or a stopped process
        left is gone on with.

        Args:
            folder: Made if need be.
            names: Of `results`; None: all.
            progress: Called with bytes that are there, and all.

        Raises:
            ServiceError: The job has no such results, or the service stays away.
            OutputError: A file cannot be written.
        """
        job = self if self.state == "done" else self.refresh()
        if job.state != "done":
            raise ServiceError(f"job {job.id} is {job.state} and has no results yet. Wait for it")
        wanted = list(job.results) if names is None else list(names)
        unknown = [name for name in wanted if name not in job.results]
        if unknown:
            known = ", ".join(job.results)
            raise ServiceError(f"job {job.id} has no result '{cut(unknown[0])}'; it has {known}")
        total = sum(job.results[name] for name in wanted)
        done, paths = 0, []
        for name in wanted:
            path = Path(folder) / _plain(name)
            url = f"/api/jobs/{quote(job.id, safe='')}/results/{quote(name, safe='')}"
            with _writing(path):
                self.client._fetch(url, path, job.results[name], progress, done, total)
            done += job.results[name]
            paths.append(path)
        return paths


class Client:
    """A service.

    Args:
        url: Its address, as `terrafuse serve` prints it.
        token: As `terrafuse token add` printed it; None: TERRAFUSE_TOKEN, if that is set.
        timeout: Seconds that the service may be silent.
        patience: Seconds that the service may be away while something is waited for.

    Raises:
        ConfigError: The address is none.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float = 300.0,
    ) -> None:
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigError(
                f"'{cut(url)}' is no address of a service. Give one such as http://127.0.0.1:8766 "
                "or https://maps.example.org"
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
        self._is_tls = parts.scheme == "https"
        self._host, self._prefix = parts.hostname, parts.path.rstrip("/")
        self._token = token if token is not None else os.environ.get("TERRAFUSE_TOKEN")
        self.timeout, self.patience = timeout, patience
        if self._token and not self._is_tls and not _is_here(self._host):
            warnings.warn(
                f"the token travels to {self._host} as plain text. Use https, which docs/howto/"
                "serve.md sets up",
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def models(self) -> list[dict[str, Any]]:
        """The cards of the models: bands, units, classes, scores, licence."""
        return cast("list[dict[str, Any]]", self._json("GET", "/api/models"))

    def submit(
        self,
        rasters: Mapping[str, Raster | Sequence[Raster]] | None = None,
        **fields: Any,
    ) -> Job:
        """Ask for a map.

        Args:
            rasters: Modality → rasters. A `Path` is a file here, which is sent; a text names a
                file of the service, an upload, or an address.
            fields: Further ones of a request, as /openapi.json of the service describes them:
                model, item, products, outputs, tta, crop_size, overlap, priority, title.

        Raises:
            ServiceError: The service refuses it; the message is the service's.
        """
        named = {
            name: self._named(given)
            if isinstance(given, str | Path)
            else [*map(self._named, given)]
            for name, given in (rasters or {}).items()
        }
        body = json.dumps({"rasters": named, **fields}).encode()
        return Job(self, self._json("POST", "/api/jobs", body))

    def upload(self, path: str | Path) -> str:
        """Send a raster; returns its name for requests, `upload:ID`.

        Raises:
            ServiceError: The service refuses it, or something else has arrived there.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                hashing = _Hashing(file)
                target = f"/api/uploads?{urlencode({'name': path.name[:200]})}"
                upload = self._json("POST", target, cast("BinaryIO", hashing), size)
        except OSError as error:
            if isinstance(error, ServiceError):
                raise
            raise ConfigError(f"'{path}' cannot be read: {error.strerror or error}") from error
        if upload["sha256"] != hashing.digest.hexdigest():
            raise ServiceError(f"'{path}' was changed while it was sent. Send it again")
        return f"upload:{upload['id']}"

    def job(self, id: str) -> Job:
        """A job by its id.

        Raises:
            ServiceError: There is none.
        """
        return Job(self, self._json("GET", f"/api/jobs/{quote(id, safe='')}"))

    def jobs(self, *, state: str | None = None, model: str | None = None) -> Iterator[Job]:
        """Yield one's jobs, newest first."""
        wanted = {"state": state, "model": model}
        query = {key: value for key, value in wanted.items() if value is not None}
        while True:
            page = self._json("GET", f"/api/jobs?{urlencode(query)}")
            for record in page["jobs"]:
                yield Job(self, record)
            if page.get("next") is None:
                return
            query["cursor"] = str(page["next"])

    def _named(self, given: Raster) -> str:
        return self.upload(given) if isinstance(given, Path) else given

    def _change(self, id: str, verb: str) -> Job:
        return Job(self, self._json("POST", f"/api/jobs/{quote(id, safe='')}/{verb}", b""))

    def _events(self, id: str) -> Iterator[Job]:
        last, patience = "", _Patience(self.patience)
        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
            target = f"/api/jobs/{quote(id, safe='')}/events"
            try:
                with self._opened("GET", target, headers=headers) as answer:
                    for number, kind, data in _parse_events(answer):
                        patience.renew()
                        last = number or last
                        if kind == "end":
                            return
                        yield Job(self, json.loads(data))
            except (OSError, HTTPException) as error:
                patience.spend(error)
            else:
                # Ended in the middle: a server that stops, or a proxy.
                patience.spend(ServiceError(f"{self.url} ends the events of job {id} early"))

    def _fetch(
        self,
        target: str,
        path: Path,
        size: int,
        progress: Progress | None,
        before: int,
        total: int,
    ) -> None:
        """Fetch a file into its place."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size == size:
            return
        source = hashlib.sha256(f"{self.url}{target}".encode()).hexdigest()[:16]
        partial = path.with_name(f".{path.name}.{source}.download")
        patience = _Patience(self.patience)
        with partial.open("ab") as file:
            most = file.tell()
            while file.tell() < size:
                error: Exception = ServiceAwayError(f"{self.url}{target} ends early")
                try:
                    self._append(target, file, file.tell())
                except (OSError, HTTPException) as broken:
                    if isinstance(broken, OSError) and not isinstance(broken, _NETWORK):
                        raise  # of the disk
                    error = broken
                if progress is not None:
                    progress(before + min(file.tell(), size), total)
                if file.tell() < size:
                    if file.tell() > most:
                        patience.renew()
                    most = max(most, file.tell())
                    patience.spend(error)
            file.flush()
            os.fsync(file.fileno())
            complete = file.tell() == size
        if not complete:
            partial.unlink()
            raise ServiceError(f"{self.url}{target} is longer than its job says. Download it again")
        partial.replace(path)

    def _append(self, target: str, file: BinaryIO, start: int) -> None:
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._opened("GET", target, headers=headers) as answer:
            if start and answer.status != 206:  # whoever stands between sends all of it
                file.truncate(0)
                file.seek(0)
            while block := answer.read1(_BLOCK):
                file.write(block)

    def _json(self, method: str, target: str, body: Body | None = None, size: int = 0) -> Any:
        """Ask, and read the answer's JSON; what comes too fast is asked again after a while."""
        patience = _Patience(self.patience)
        headers = {"Accept": "application/json"}
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        while True:
            try:
                with self._opened(method, target, body, headers, size) as answer:
                    content = answer.read(_MOST_JSON)
                return json.loads(content) if content else None
            except ServiceError as error:
                if method != "GET" or error.status not in (429, 503):
                    raise
                patience.spend(error)
            except ValueError as error:
                raise ServiceError(
                    f"{self.url} answers with something else than JSON: is it a terrafuse service? "
                    "Check the address"
                ) from error

    @contextmanager
    def _opened(
        self,
        method: str,
        target: str,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        size: int = 0,
    ) -> Iterator[HTTPResponse]:
        """The answer to a request.

        Raises:
            ServiceError: It is a refusal, or there is none.
        """
        make = HTTPSConnection if self._is_tls else HTTPConnection
        with closing(make(self._host, self._port, timeout=self.timeout)) as connection:
            sent = {"User-Agent": f"terrafuse/{VERSION}", **(headers or {})}
            if self._token:
                sent["Authorization"] = f"Bearer {self._token}"
            if body is not None and not isinstance(body, bytes):
                sent |= {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
            try:
                with suppress(BrokenPipeError, ConnectionResetError):  # refused before the end
                    connection.request(method, self._prefix + target, body, sent)
                answer = connection.getresponse()
            except (OSError, HTTPException) as error:
                raise ServiceAwayError(
                    f"{self.url} cannot be reached: {cut(error) or type(error).__name__}. Check "
                    "that the service runs and the address is right"
                ) from error
            if answer.status >= 300:
                raise _refusal(answer, self.url)
            yield answer


class ServiceAwayError(ServiceError):
    """A service that does not answer, and may later."""


#: Errors that are none of the disk.
_NETWORK = (ServiceError, ConnectionError, TimeoutError)


@dataclass
class _Patience:
    """Waits between tries, longer each time, until the patience is used up."""

    seconds: float
    _until: float = field(init=False)
    _pause: float = field(init=False)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._until = time.monotonic() + self.seconds
        self._pause = 0.2

    def spend(self, error: Exception) -> None:
        """Wait before the next try, or give up.

        Raises:
            ServiceError: The patience is used up, or waiting does not help.
        """
        if isinstance(error, ServiceError) and error.status not in (None, 429, 502, 503, 504):
            raise error
        wait = max(self._pause, getattr(error, "retry_after", None) or 0)
        if time.monotonic() + wait > self._until:
            if isinstance(error, ServiceError):
                raise error
            raise ServiceAwayError(
                f"the connection broke again and again: {cut(error)}. Check that the service runs, "
                "and call this again: it goes on where it was"
            ) from error
        time.sleep(wait)
        self._pause = min(2 * self._pause, 10.0)


class _Hashing:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(size)
        self.digest.update(block)
        return block


def _refusal(answer: HTTPResponse, url: str) -> ServiceError:
    """The error of an answer, with the service's own message."""
    with suppress(OSError, HTTPException, ValueError, TypeError, KeyError, RecursionError):
        message = str(json.loads(answer.read(_MOST_JSON))["error"])
        return _error(cut(message, 2000), answer)
    if 300 <= answer.status < 400:
        place = cut(answer.headers.get("Location", "elsewhere"))
        return _error(f"{url} leads to {place}, which is not followed. Give that address", answer)
    return _error(f"{url} answers {answer.status} {cut(answer.reason)}", answer)


def _error(message: str, answer: HTTPResponse) -> ServiceError:
    wait = answer.headers.get("Retry-After", "")
    seconds = min(float(wait), _LONGEST_WAIT) if wait.isascii() and wait.isdigit() else None
    return ServiceError(message, answer.status, seconds)


def _parse_events(answer: HTTPResponse) -> Iterator[tuple[str, str, str]]:
    """Yield id, kind and data of server-sent events."""
    number, kind, data = "", "", list[str]()
    for raw in answer:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                yield number, kind, "\n".join(data)
            kind, data = "", []
        elif key == "id":
            number = value
        elif key == "event":
            kind = value
        elif key == "data":
            data.append(value)


def _plain(name: str) -> str:
    """A name that a file can have here: the service cannot choose another folder."""
    if (
        name in ("", ".", "..")
        or PurePosixPath(name).name != name
        or PureWindowsPath(name).name != name
    ):
        raise ServiceError(f"the service names a result '{cut(name)}', which is no file name")
    return name


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, ServiceError):
            raise
        raise OutputError(
            f"'{path}' cannot be written: {write_failure(error, path.parent)}"
        ) from error


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
