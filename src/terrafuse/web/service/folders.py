"""A service's folder: one folder per job, of which no request chooses the name.

`jobs/ID/log.txt` is what the job's workers say. `jobs/ID/work-3` is the map that attempt 3 makes;
an attempt begins by giving the folder of the one before its own number, so that whoever still
writes there cannot spoil it. `jobs/ID/results` is that folder once all of it is there.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

from terrafuse.errors import OutputError, write_failure
from terrafuse.prediction.job import UNITS
from terrafuse.web.service.messages import ResultFile
from terrafuse.writing import is_trace, write_json, written_whole

_WORK = re.compile(r"work-(\d+)")
_UNIT = re.compile(r"\d{6,}\.json")
RECORD = "prediction.json"
#: Folder in a map's, with the record as the viewer needs it; what it names is the server's.
VIEW = "view"
MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".json": "application/json",
    ".png": "image/png",
    ".csv": "text/csv",
    ".gpkg": "application/geopackage+sqlite3",
    ".xml": "application/xml",
}


class Folders:
    """The folders of jobs in a service's folder."""

    def __init__(self, data: Path) -> None:
        self.jobs = data.absolute() / "jobs"

    def make(self) -> None:
        """Make what must be there.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            self.jobs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"--data '{self.jobs.parent}' cannot be written: "
                f"{write_failure(error, self.jobs.parent)}"
            ) from error

    @property
    def free_bytes(self) -> int:
        """Disk space that is left."""
        return shutil.disk_usage(self.jobs).free

    def job(self, id: str) -> Path:
        """Folder of a job."""
        return self.jobs / id

    def log(self, id: str) -> Path:
        """What workers have said of a job."""
        return self.job(id) / "log.txt"

    def results(self, id: str) -> Path:
        """The finished map of a job."""
        return self.job(id) / "results"

    def take(self, id: str, attempt: int) -> Path:
        """Folder of an attempt, with what the ones before it have kept."""
        folder = self.job(id)
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"work-{attempt}"
        earlier = {
            int(match[1]): path
            for path in folder.iterdir()
            if (match := _WORK.fullmatch(path.name)) and int(match[1]) < attempt
        }
        for number in sorted(earlier, key=lambda n: (kept_units(earlier[n])[0], n), reverse=True):
            # Somebody who has lost this job may be faster once more; it is the last time.
            with suppress(FileNotFoundError):
                if own.exists():
                    shutil.rmtree(earlier[number], ignore_errors=True)
                else:
                    earlier[number].rename(own)
        own.mkdir(exist_ok=True)
        for lock in own.glob(".*.lock"):  # of the attempt before, which has lost the job
            lock.unlink(missing_ok=True)
        return own

    def give(self, id: str, attempt: int) -> None:
        """Make an attempt's folder the result.

        Raises:
            FileNotFoundError: Another attempt has taken it over.
        """
        self.results(id).parent.mkdir(exist_ok=True)
        (self.job(id) / f"work-{attempt}").rename(self.results(id))

    def drop(self, id: str, attempt: int) -> None:
        """Remove what an attempt has written since another one took over."""
        shutil.rmtree(self.job(id) / f"work-{attempt}", ignore_errors=True)

    def has_results(self, id: str) -> bool:
        """Whether the map is whole."""
        return (self.results(id) / RECORD).is_file()

    def remove(self, id: str) -> None:
        """Remove all files of a job: first from its place, so that nobody finds half of it."""
        aside = self.jobs / f".removed-{id}"
        with suppress(FileNotFoundError):
            self.job(id).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def clear(self) -> None:
        """Remove what was being removed when a process was killed."""
        for path in self.jobs.glob(".removed-*"):
            shutil.rmtree(path, ignore_errors=True)


def kept_units(work: Path) -> tuple[int, int | None]:
    """Work units of a map that are kept, and how many it has (None: not known yet)."""
    try:
        names = [path.name for path in (work / UNITS).iterdir()]
    except OSError:
        return 0, None
    return sum(_UNIT.fullmatch(name) is not None for name in names), _total(work)


def _total(work: Path) -> int | None:
    try:
        found = json.loads((work / UNITS / "job.json").read_text(encoding="utf-8"))
        return int(found["units"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def hide_inputs(folder: Path) -> None:
    """Keep from users where the rasters and the model of a map lie; the viewer needs it.

    The folder `view` in the map's has the whole record, and links to the other files.
    """
    record = folder / RECORD
    values = json.loads(record.read_text(encoding="utf-8"))
    if "inputs" not in values:
        return
    view = folder / VIEW
    view.mkdir(exist_ok=True)
    with written_whole(view / RECORD) as (partial,):
        write_json(partial, values)
    for file in list_results(folder):
        if file.name != RECORD and not (view / file.name).exists():
            (view / file.name).symlink_to(Path("..") / file.name)
    del values["inputs"]
    with written_whole(record) as (partial,):
        write_json(partial, values)


def list_results(folder: Path) -> list[ResultFile]:
    """The files of a finished map, as they may be asked for."""
    return [
        ResultFile(
            name=path.name,
            bytes=path.stat().st_size,
            media_type=MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        )
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.is_symlink() and not is_trace(path)
    ]
