"""Run folders on the hub: fetched with checksums, pushed in one commit, never with pickles."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from terrafuse.config.base import STORED_CONFIG
from terrafuse.config.paths import exists
from terrafuse.errors import (
    ChecksumError,
    ConfigError,
    OutputError,
    WeightsError,
    WeightsNotFoundError,
    cut,
    write_failure,
)
from terrafuse.version import VERSION
from terrafuse.weights.card import write_card
from terrafuse.weights.digests import digest
from terrafuse.weights.hub import (
    hub_address,
    hub_or_cache,
    hub_state,
    plain_where_nobody_looks,
    why_not,
)
from terrafuse.weights.run_info import METRICS_JSON, MODEL_JSON, STATE_FILE, read_run_info
from terrafuse.weights.saved_model import read_state
from terrafuse.writing import is_trace, partial_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: Files of a run folder that are pushed and fetched. Pictures and pages show the imagery of the
#: training, which is not the run's to give away; `last.ckpt` and `best.pt` are pickles.
RUN_FILES = (
    STATE_FILE,
    MODEL_JSON,
    STORED_CONFIG,
    "calibration.json",
    METRICS_JSON,
    "metrics_*.json",
    "evidence.npz",
    "evidence_*.npz",
    "synergy.json",
    "synergy_*.json",
    "log.csv",
)
#: The model card.
CARD = "README.md"
#: Digests of all other files, in the form of the program `sha256sum`.
SUMS = "SHA256SUMS"

_PREFIX = re.compile(r"(hf:/{1,2}|hub:)")  # a `Path` has one slash where there were two
_PART = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([^\s@]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_LONGEST_NAME = 96
_PATH = re.compile(r"(?:/|~|[A-Za-z]:[\\/])")


@dataclass(frozen=True)
class HubRun:
    """Name of a run on the hub.

    Args:
        repository: "owner/name".
        revision: Branch, tag or commit; None = the newest.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str | Path) -> HubRun:
        """Read "hf://owner/name@revision", or "hub:owner/name".

        Raises:
            ConfigError: It is not of this form.
        """
        found = _NAME.fullmatch(_PREFIX.sub("", str(text), count=1))
        if found is None or len(found[1]) > _LONGEST_NAME or re.search(r"--|\.\.", found[1]):
            raise ConfigError(
                f"'{cut(text)}' does not name a run on the hub. Write hf://owner/name, or "
                "hf://owner/name@revision; both names are of letters, digits, '-', '_' and '.'"
            )
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class PushedRun:
    """A run as it lies on the hub.

    Args:
        repository: "owner/name".
        commit: Its revision, for good.
        url: Page of the repository.
        files: Names of its files.
        left_out: Names of what is in the folder and was not pushed.
        shortened: Files in which paths of this machine were shortened.
        bytes: Size of the files.
    """

    repository: str
    commit: str
    url: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    shortened: tuple[str, ...]
    bytes: int

    def __str__(self) -> str:
        return str(HubRun(self.repository, self.commit))


def is_on_hub(run: str | Path) -> bool:
    """Tell whether a run is named as one on the hub."""
    return _PREFIX.match(str(run)) is not None and not exists(run)


def run_folder(run: str | Path) -> Path:
    """Return the folder of a run, and fetch it if it lies on the hub.

    Args:
        run: A folder, or "hf://owner/name@revision".

    Raises:
        ConfigError: No name of a run on the hub.
        WeightsNotFoundError: It cannot be fetched, or is no run.
        ChecksumError: A file is not the one that was pushed.
    """
    return fetch_run(HubRun.parse(run)) if is_on_hub(run) else Path(run)


# Fetching


def fetch_run(name: HubRun) -> Path:
    """Fetch a run into a folder of its commit among the files of huggingface_hub.

    A folder of a commit appears whole and checked, or not at all; it may be written to, as
    evaluations do. Without the hub, what was fetched before is taken.

    Raises:
        WeightsNotFoundError: It cannot be fetched, or is no run.
        ChecksumError: A file is not the one that was pushed.
        OutputError: The folder cannot be written.
    """
    if name.revision and _COMMIT.fullmatch(name.revision):
        folder = _place(name.repository, name.revision)
        if folder.is_dir():
            return folder
    # Slow to import and needed only here.
    from huggingface_hub import snapshot_download

    state, wanted = "offline", [*RUN_FILES, CARD, SUMS]
    try:
        with hub_or_cache() as state, plain_where_nobody_looks():
            snapshot = Path(
                snapshot_download(name.repository, revision=name.revision, allow_patterns=wanted)
            )
            folder = _place(name.repository, snapshot.name)
            if not folder.is_dir():
                _take(name, snapshot, folder)
    except (WeightsError, OutputError):
        raise
    except Exception as error:  # the hub's errors come from several libraries
        raise WeightsNotFoundError(_not_fetched(name, state, error)) from error
    if state == "unreachable" and name.revision != snapshot.name:
        warnings.warn(
            f"{hub_address()} cannot be reached: '{name}' is the one fetched before, commit "
            f"{snapshot.name}",
            stacklevel=3,
        )
    return folder


def _not_fetched(name: HubRun, state: str, error: BaseException) -> str:
    if state == "reached":
        return (
            f"'{name}' cannot be fetched: {why_not(error, name.repository)}. Check the name, and "
            "run the same again; what came whole is kept"
        )
    why = "HF_HUB_OFFLINE is set" if state == "offline" else f"{hub_address()} cannot be reached"
    return (
        f"'{name}' is not wholly on this machine, and {why}. Fetch it where there is a network, or "
        "copy the run's folder here and give its path"
    )


def _place(repository: str, commit: str) -> Path:
    """Folder of a commit; its parents are made."""
    from huggingface_hub import cached_assets_path

    return Path(cached_assets_path("terrafuse", namespace=repository, subfolder="runs")) / commit


def _take(name: HubRun, snapshot: Path, folder: Path) -> None:
    """Check the files of a fetched revision, and make the folder of them."""
    sums = _read_sums(name, snapshot)
    for file, expected in sums.items():
        _check(name, snapshot, file, expected)
    if not (snapshot / MODEL_JSON).is_file():
        raise WeightsNotFoundError(
            f"'{name}' is no run of terrafuse: it holds no {MODEL_JSON}. Name a repository that "
            "'terrafuse push' made"
        )
    files = list(sums) or _of_run(path.name for path in snapshot.iterdir())
    if (snapshot / CARD).is_file():
        files.append(CARD)
    try:
        with partial_folder(folder.parent, folder.name) as partial:
            whole = partial / folder.name
            whole.mkdir()
            for file in files:
                _copy((snapshot / file).resolve(), whole / file)
            whole.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was first
            raise OutputError(
                f"'{folder}' cannot be written: {write_failure(error, folder.parent)}"
            ) from error


def _read_sums(name: HubRun, snapshot: Path) -> dict[str, str]:
    """Digests by file; none where the run was brought there by other means."""
    path = snapshot / SUMS
    if not path.is_file():
        if (snapshot / MODEL_JSON).is_file():
            warnings.warn(
                f"'{name}' holds no {SUMS} as pushed runs do: of its files only {STATE_FILE} is "
                "compared with a digest",
                stacklevel=5,
            )
        return {}
    found = map(_LINE.fullmatch, path.read_text(encoding="utf-8", errors="replace").splitlines())
    sums = {line[2]: line[1] for line in found if line is not None}
    return {file: sums[file] for file in _of_run(sums)}


def _check(name: HubRun, snapshot: Path, file: str, expected: str) -> None:
    """Compare a file with its digest; one that differs is fetched again.

    Raises:
        ChecksumError: It is not the one that was pushed, again.
    """
    from huggingface_hub import hf_hub_download

    path = snapshot / file
    if path.is_file() and digest(path) == expected:
        return
    hf_hub_download(name.repository, file, revision=snapshot.name, force_download=True)
    found = digest(path)
    if found != expected:
        raise ChecksumError(
            f"'{file}' of '{name}' is not the file that was pushed: SHA-256 is {found}, {SUMS} "
            f"says {expected}, although it was fetched twice. Its owner has to push the run again; "
            "name an earlier revision until then"
        )


def _of_run(names: Iterable[str]) -> list[str]:
    """Names that a run folder may hold, sorted; none of another folder."""
    return sorted(
        name
        for name in names
        if "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in RUN_FILES)
    )


def _copy(source: Path, target: Path) -> None:
    """Give a file a second name if its disk allows it, for weights may be large; else copy it.

    Files of a run folder are replaced, never written to, so that the first one stays as it is.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# Pushing


def push_run(
    folder: str | Path,
    to: str,
    *,
    private: bool = False,
    message: str | None = None,
    licence: str | None = None,
) -> PushedRun:
    """Push a run folder to the hub, in one commit, with a model card and digests.

    Files of an earlier push that the folder lacks are removed there. Paths of this machine in JSON
    and YAML are shortened to their last two parts.

    Args:
        to: "hub:owner/name"; the repository is made if need be.
        private: Whether the repository is for its owner only.
        message: Of the commit.
        licence: Identifier of the licence of the weights, as the hub lists them ("cc-by-4.0").

    Raises:
        ConfigError: `to` is no name, or names a revision.
        WeightsError: Not a finished run, or damaged.
        OutputError: The hub cannot be reached, or does not take it.
    """
    folder = Path(folder)
    name = HubRun.parse(to)
    if name.revision is not None:
        raise ConfigError(
            f"'{name}' names a revision, which a push makes anew. Leave '@{name.revision}' out"
        )
    info = read_run_info(folder)
    read_state(folder, info)  # refuses weights that are not those of model.json
    names = _of_run(path.name for path in folder.iterdir() if path.is_file())
    contents: dict[str, bytes | Path] = {}
    shortened = []
    for file in names:
        contents[file] = folder / file
        rewritten = _without_paths(folder / file)
        if rewritten is not None:
            contents[file] = rewritten
            shortened.append(file)
    sums = {file: _digest(content) for file, content in contents.items()}
    card = write_card(
        name.repository, json.loads(_bytes(contents[MODEL_JSON])),
        json.loads(_bytes(contents[METRICS_JSON])) if METRICS_JSON in contents else None,
        yaml.safe_load(_bytes(contents[STORED_CONFIG])) if STORED_CONFIG in contents else {},
        sums, licence=licence, calibrated="calibration.json" in contents,
    )  # fmt: skip
    contents[CARD] = card.encode()
    contents[SUMS] = "".join(f"{value}  {file}\n" for file, value in sums.items()).encode()
    commit = _commit(
        folder, name.repository, contents, private, message or f"Push run '{folder.name}'"
    )
    left_out = (p.name for p in folder.iterdir() if p.name not in names and not is_trace(p))
    return PushedRun(
        name.repository, commit, f"{hub_address()}/{name.repository}", tuple(contents),
        tuple(sorted(left_out)), tuple(shortened), sum(map(_size, contents.values())),
    )  # fmt: skip


def _commit(
    folder: Path,
    repository: str,
    contents: Mapping[str, bytes | Path],
    private: bool,
    message: str,
) -> str:
    """Make the repository and the commit; return its id."""
    from huggingface_hub import HfApi, get_token

    owner, token = repository.partition("/")[0], get_token()
    if hub_state() != "reached":
        raise OutputError(
            f"'{folder}' cannot be pushed: {hub_address()} cannot be reached, or HF_HUB_OFFLINE is "
            "set. Push it where there is a network"
        )
    if token is None:
        raise OutputError(
            f"'{folder}' cannot be pushed to {hub_address()} without a token. Set HF_TOKEN to one "
            f"that may write to '{owner}'; {hub_address()}/settings/tokens makes them"
        )
    hub = HfApi(endpoint=hub_address(), token=token, library_name="terrafuse",
                library_version=VERSION)  # fmt: skip
    try:
        return _push(hub, folder, repository, contents, private, message)
    except OutputError:
        raise
    except Exception as error:  # the hub's errors come from several libraries
        raise OutputError(
            f"'{folder}' cannot be pushed to '{repository}': {why_not(error, repository)}. Nothing "
            "of it is seen there: mend this and push again"
        ) from error


def _push(
    hub: HfApi,
    folder: Path,
    repository: str,
    contents: Mapping[str, bytes | Path],
    private: bool,
    message: str,
) -> str:
    """As `_commit`; errors are those of huggingface_hub."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with plain_where_nobody_looks():
        hub.create_repo(repository, private=private or None, exist_ok=True)
        if private and not hub.model_info(repository).private:
            raise OutputError(
                f"'{repository}' is there already and public, so that '{folder}' was not pushed. "
                "Make it private on its page, or name another one"
            )
        old = set(_of_run(hub.list_repo_files(repository))) - set(contents)
        operations: list[Any] = [CommitOperationDelete(file) for file in sorted(old)]
        operations += [
            CommitOperationAdd(file, content if isinstance(content, bytes) else str(content))
            for file, content in contents.items()
        ]
        return str(hub.create_commit(repository, operations, commit_message=message).oid)


def _without_paths(path: Path) -> bytes | None:
    """Return JSON or YAML with shorter paths; None where there are none, and for other files."""
    readers: dict[str, Callable[[str], Any]] = {".json": json.loads, ".yaml": yaml.safe_load}
    read = readers.get(path.suffix)
    if read is None:
        return None
    values = read(path.read_text(encoding="utf-8"))
    shorter = _shortened(values)
    if shorter == values:
        return None
    if path.suffix == ".json":
        return (json.dumps(shorter, indent=2, ensure_ascii=False) + "\n").encode()
    return yaml.safe_dump(shorter, sort_keys=False, allow_unicode=True).encode()


def _shortened(value: Any) -> Any:
    """The last two parts of paths of this machine: its users and disks are of no use elsewhere."""
    if isinstance(value, Mapping):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    if isinstance(value, str) and _PATH.match(value) and "\n" not in value:
        parts: Sequence[str] = [part for part in re.split(r"[\\/]+", value) if part]
        return "/".join(parts[-2:])
    return value


def _bytes(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _digest(content: bytes | Path) -> str:
    if isinstance(content, Path):
        return digest(content)
    return hashlib.sha256(content).hexdigest()


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
