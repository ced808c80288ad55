"""Rasters that users send: `POST /api/uploads?name=`, the file itself as body."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from terrafuse.errors import DataError, OutputError, cut, write_failure
from terrafuse.web.access.tokens import User
from terrafuse.web.access.users import current_user, require
from terrafuse.web.refusals import Refusal
from terrafuse.web.service.messages import Upload
from terrafuse.web.service.rasters import KINDS, Limits, check_raster
from terrafuse.writing import partial_folder

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
PREFIX = "upload:"
_RASTER, _RECORD = "raster", "upload.json"
_BUFFER = 1 << 20
_HOUR = 3600.0


@dataclass
class Uploads:
    """Rasters that were sent, each in a folder of its own, by user.

    Names that users give become part of a record, never of a path.

    Args:
        folder: Of all; made if need be.
        most_bytes: Of one upload.
        quota_bytes: Of all uploads of a user.
        keep_hours: Since an upload was sent, or last named in a job.
        spare_bytes: Of the disk, left for what else is written there.
        limits: Of rasters.
        clock: Seconds since 1970.
    """

    folder: Path
    most_bytes: int = 2 << 30
    quota_bytes: int = 20 << 30
    keep_hours: float = 72.0
    spare_bytes: int = 1 << 30
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.time
    _arriving: Counter[str] = field(default_factory=Counter, init=False)

    def path(self, user: User, spec: str) -> Path:
        """Return the raster that `upload:ID` names, and keep it for longer.

        Raises:
            DataError: The user has no such upload.
        """
        raster = self._find(user, spec.removeprefix(PREFIX)) / _RASTER
        now = self.clock()
        os.utime(raster, (now, now))
        return raster

    def get(self, user: User, id: str) -> Upload:
        """The record of an upload.

        Raises:
            DataError: The user has no such upload.
        """
        return Upload.model_validate_json((self._find(user, id) / _RECORD).read_bytes())

    def listed(self, user: User) -> tuple[Upload, ...]:
        """The user's uploads, oldest first."""
        found = sorted(self._rasters(self._home(user)), key=lambda path: path.stat().st_mtime)
        return tuple(self.get(user, path.parent.name) for path in found)

    def remove(self, user: User, id: str) -> None:
        """Remove an upload.

        Raises:
            DataError: The user has no such upload.
        """
        shutil.rmtree(self._find(user, id), ignore_errors=True)

    def expire(self, in_use: Container[str] = ()) -> int:
        """Remove uploads that nobody has named for long; returns how many.

        Args:
            in_use: Ids that jobs need which have not ended.
        """
        oldest = self.clock() - self.keep_hours * _HOUR
        count = 0
        homes = list(self.folder.iterdir()) if self.folder.is_dir() else []
        for home in homes:
            for raster in self._rasters(home):
                if raster.parent.name not in in_use and raster.stat().st_mtime < oldest:
                    shutil.rmtree(raster.parent, ignore_errors=True)
                    count += 1
        return count

    async def take(self, user: User, name: str, body: AsyncIterator[bytes]) -> Upload:
        """Take an upload: written beside, checked, then moved to its place.

        Raises:
            Refusal: It is too long, or beyond the user's quota.
            DataError: It is no raster that is taken.
            OutputError: It cannot be written.
        """
        id = secrets.token_hex(16)
        home = self._home(user)
        used = await run_in_threadpool(self._used, home)
        try:
            with partial_folder(home, id) as partial, self._counting(user) as count:
                inner = partial / id
                inner.mkdir()
                free = shutil.disk_usage(partial).free - self.spare_bytes
                room = min(self.most_bytes, self._room(user, used), free)
                refusal = self._refuse(room, free)
                size, digest = await _write(inner / _RASTER, body, count, room, refusal)
                await run_in_threadpool(check_raster, inner / _RASTER, name, self.limits)
                upload = Upload(id=id, name=name, bytes=size, sha256=digest)
                record = json.dumps(upload.model_dump(), ensure_ascii=False)
                (inner / _RECORD).write_text(record, encoding="utf-8")
                inner.rename(home / id)
        except DataError:  # some are also OSErrors
            raise
        except OSError as error:
            raise OutputError(
                f"the upload cannot be kept: {write_failure(error, self.folder)}"
            ) from error
        finally:
            with suppress(OSError):  # there are others in it
                home.rmdir()
        return upload

    @contextmanager
    def _counting(self, user: User) -> Iterator[Callable[[int], None]]:
        """Count what arrives, so that uploads at the same time share the quota."""
        counted = 0

        def count(size: int) -> None:
            nonlocal counted
            counted += size
            self._arriving[user.name] += size

        try:
            yield count
        finally:
            self._arriving[user.name] -= counted
            self._arriving += Counter()  # forget those at 0

    def _room(self, user: User, used: int) -> int:
        return self.quota_bytes - used - self._arriving[user.name]

    def _refuse(self, room: int, free: int) -> Refusal:
        if room >= self.most_bytes:
            return Refusal(413, f"an upload may have {self.most_bytes:,} bytes. Send less")
        if room == free:
            return Refusal(
                413,
                f"the service's disk has room for {max(free, 0):,} more bytes. Ask whoever runs it "
                "to make room, or send less",
            )
        return Refusal(
            413,
            f"there is room for {max(room, 0):,} more bytes of uploads of yours. Remove some "
            "(DELETE /api/uploads/ID), or send less",
        )

    def _home(self, user: User) -> Path:
        # A hash: file systems that fold case would give two users one folder.
        return self.folder / hashlib.sha256(user.name.encode()).hexdigest()[:32]

    def _find(self, user: User, id: str) -> Path:
        folder = self._home(user) / id if _ID.fullmatch(id) else None
        if folder is None or not (folder / _RECORD).is_file():
            raise UnknownUploadError(
                f"there is no upload '{cut(id)}' of {user.name}: uploads that no job names are "
                f"kept for {self.keep_hours:g} hours. Send the raster again"
            )
        return folder

    @staticmethod
    def _rasters(home: Path) -> list[Path]:
        return [path for path in home.glob(f"*/{_RASTER}") if _ID.fullmatch(path.parent.name)]

    def _used(self, home: Path) -> int:
        return sum(path.stat().st_size for path in self._rasters(home))


class UnknownUploadError(DataError, LookupError):
    """An upload that its user does not have."""


async def _write(
    path: Path,
    body: AsyncIterator[bytes],
    count: Callable[[int], None],
    room: int,
    too_much: Refusal,
) -> tuple[int, str]:
    """Write a body; returns its length and SHA-256."""
    digest, size, waiting = hashlib.sha256(), 0, bytearray()
    with path.open("xb") as file:

        def write() -> None:
            digest.update(waiting)
            file.write(waiting)

        async for chunk in body:
            size += len(chunk)
            count(len(chunk))
            if size > room:
                raise too_much
            waiting += chunk
            if len(waiting) >= _BUFFER:
                await run_in_threadpool(write)
                waiting.clear()
        await run_in_threadpool(write)
    return size, digest.hexdigest()


_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


def uploads_router(uploads: Uploads) -> APIRouter:
    """Routes to send, list and remove rasters."""
    router = APIRouter(prefix="/api/uploads", tags=["uploads"])

    @router.post(
        "",
        status_code=201,
        openapi_extra={"requestBody": _BODY},
        summary="Send a raster",
        description=f"The file itself is the body: {KINDS}. `upload:ID` names it in a job.",
    )
    async def send(
        request: Request,
        response: Response,
        user: Annotated[User, Depends(current_user)],
        name: Annotated[str, Query(max_length=200)] = "raster",
    ) -> Upload:
        require(user, "upload")
        upload = await uploads.take(user, cut(name, 200), request.stream())
        response.headers["location"] = f"/api/uploads/{upload.id}"
        return upload

    @router.get("", summary="Rasters that were sent")
    def listed(user: Annotated[User, Depends(current_user)]) -> list[Upload]:
        return list(uploads.listed(user))

    @router.get("/{id}", summary="Show one that was sent")
    def show(id: str, user: Annotated[User, Depends(current_user)]) -> Upload:
        with _found():
            return uploads.get(user, id)

    @router.delete("/{id}", status_code=204, summary="Remove one")
    def remove(id: str, user: Annotated[User, Depends(current_user)]) -> None:
        with _found():
            uploads.remove(user, id)

    return router


@contextmanager
def _found() -> Iterator[None]:
    try:
        yield
    except UnknownUploadError as error:
        raise Refusal(404, str(error)) from error
