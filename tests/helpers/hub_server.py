"""A hub on loopback that speaks the protocol of huggingface_hub, and fails as told to.

Endpoints of models that `snapshot_download`, `hf_hub_download` and `create_commit` use: facts and
trees of revisions, files with ranges (large ones behind a redirect to another host, as on the hub),
and making repositories and commits with the upload of large files (LFS). Storage by chunks (Xet)
is not spoken; libraries fall back without it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from loopback import serving_by

TOKEN = "hf_of_the_test"
#: Files that begin so are stored as large ones, as `.gitattributes` of the hub says.
_LARGE = (".safetensors", ".pt", ".pth", ".bin", ".npz")


@dataclass
class Repository:
    """A repository: its commits from the first on, as id, title and files; and names of some.

    Args:
        private: Whether it is shown to the token only.
        gated: Whether its files are given to nobody who has not asked.
    """

    private: bool = False
    gated: bool = False
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], title: str = "") -> str:
        """Add a commit of whole content; return its id."""
        content = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())
        text = json.dumps([len(self.commits), title, content])
        id = hashlib.sha1(text.encode()).hexdigest()
        self.commits.append((id, title, dict(files)))
        return id

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit id and files of a branch, tag or commit; None where there is none."""
        if revision == "main" and self.commits:
            revision = self.commits[-1][0]
        revision = self.tags.get(revision, revision)
        return next(((id, files) for id, _, files in self.commits if id == revision), None)


@dataclass
class Hub:
    """What a hub holds, how it fails, and what it was asked.

    Args:
        breaks: File → how many of its answers end halfway; -1 = all.
        instead: File → what is sent in its place, under the right name and digest.
        writers: Owners in whose name the token may write.
        requests: Method, path and range of each request.
        leaked: Paths on the other host that were asked for with a token.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    instead: dict[str, bytes] = field(default_factory=dict)
    writers: tuple[str, ...] = ("owner",)
    address: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def repository(self, name: str) -> Repository:
        """The repository of a name, new if need be."""
        return self.repositories.setdefault(name, Repository())

    def files_of(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision."""
        found = self.repositories[name].at(revision)
        assert found is not None
        return found[1]

    def asked(self, method: str, part: str) -> list[tuple[str, str, str]]:
        """Requests whose path holds a text."""
        return [r for r in self.requests if r[0] == method and part in r[1]]


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Serve a hub without repositories."""
    about = Hub()

    class Handler(_Handler):
        hub = about

    with serving_by(Handler) as address:
        about.address = f"http://{address}"
        yield about


def use_hub(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point huggingface_hub to a hub and a cache of its own, as `HF_ENDPOINT`, `HF_HOME` … do."""
    import huggingface_hub.constants as constants
    import huggingface_hub.utils._cache_assets as assets

    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(cache / "assets"))
    monkeypatch.setattr(assets, "HF_ASSETS_CACHE", str(cache / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def do_POST(self) -> None:
        path, content = self._note(), self._body()
        if path == "api/validate-yaml":
            return self._json(200, {"errors": [], "warnings": []})
        if path == "api/repos/create":
            return self._create(json.loads(content))
        for end, answer in _WRITES.items():
            name, mark, _ = path.removeprefix("api/models/").partition(end)
            if mark:
                return self._writing(name, lambda a=answer, n=name: a(self, n, content))
        return self._json(404, {"error": f"no endpoint {path}"})

    def do_PUT(self) -> None:
        path, content = self._note(), self._body()
        digest = path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != digest:
            return self._json(400, {"error": "other content than was said"})
        self.hub.blobs[digest] = content
        return self._json(200, {})

    # Reading

    def _get(self, *, body: bool) -> None:
        path = self._note()
        if path.startswith("cdn/"):
            if "Authorization" in self.headers:
                self.hub.leaked.append(path)
            _, digest, name = path.split("/", 2)
            return self._file(self.hub.blobs[digest], digest, name, {}, body=body)
        api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None or (repository.private and not self._is_known()):
            return self._refuse_repository(body=body)
        kind, revision = (*parts[2:4], "main")[:2] if len(parts) > 3 else ("revision", "main")
        found = repository.at(unquote(revision))
        if found is None:
            text = f"Invalid rev id: {revision}"
            return self._error(404, "RevisionNotFound", text, body=body)
        if repository.gated and (kind != "revision" or not api):
            return self._error(403, "GatedRepo", "Access to it is restricted", body=body)
        if api:
            return self._facts("/".join(parts[:2]), kind, repository, *found)
        return self._resolve(found[0], found[1], unquote("/".join(parts[4:])), body=body)

    def _facts(
        self, name: str, kind: str, repository: Repository, commit: str, files: dict[str, bytes]
    ) -> None:
        if kind == "tree":
            return self._json(200, [_entry(path, data) for path, data in sorted(files.items())])
        facts = {
            "id": name, "modelId": name, "sha": commit, "private": repository.private,
            "siblings": [{"rfilename": path} for path in sorted(files)], "tags": [],
        }  # fmt: skip
        return self._json(200, facts)

    def _resolve(self, commit: str, files: dict[str, bytes], path: str, *, body: bool) -> None:
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            return self._error(404, "EntryNotFound", "Entry not found", headers, body=body)
        data, entry = files[path], _entry(path, files[path])
        if "lfs" not in entry:
            return self._file(data, entry["oid"], path, headers, body=body)
        digest = entry["lfs"]["oid"]
        self.hub.blobs[digest] = data
        port = self.hub.address.rpartition(":")[2]
        headers |= {
            "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{digest}"',
            "Location": f"http://localhost:{port}/cdn/{digest}/{path}",
        }
        return self._send(302, b"", headers, body=body)

    def _file(
        self, data: bytes, tag: str, path: str, headers: dict[str, str], *, body: bool
    ) -> None:
        data = self.hub.instead.get(path, data)
        headers = {"ETag": f'"{tag}"', "Accept-Ranges": "bytes", **headers}
        status, start = 200, 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status = 206
        left = self.hub.breaks.get(path, 0)
        breaks = body and left != 0
        if breaks:
            self.hub.breaks[path] = left - 1 if left > 0 else left
        self._send(status, data[start:], headers, body=body, breaks=breaks)

    # Writing

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _writing(self, name: str, answer: Callable[[], None]) -> None:
        if not self._is_known():
            return self._refuse_repository(body=True)
        if name not in self.hub.repositories:
            return self._error(404, "RepoNotFound", "Repository not found")
        if name.partition("/")[0] not in self.hub.writers:
            return self._error(403, "", "Forbidden: pass a token that may write to this repository")
        return answer()

    def _create(self, asked: dict[str, Any]) -> None:
        if not self._is_known():
            given = "Authorization" in self.headers
            said = "Invalid credentials in Authorization header" if given else "Invalid username"
            return self._error(401, "", said)
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] not in self.hub.writers:
            said = f"You don't have the rights to create a model under '{asked['organization']}'"
            return self._error(403, "", said)
        if name in self.hub.repositories:
            url = f"{self.hub.address}/{name}"
            return self._json(409, {"error": "You already created this model repo", "url": url})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private=bool(private))
        self.hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "")
        return self._json(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def _preupload(self, name: str, content: bytes) -> None:
        there = self.hub.files_of(name)
        answers = []
        for file in json.loads(content)["files"]:
            path = file["path"]
            known = _entry(path, there[path]) if path in there else {}
            mode = "lfs" if path.endswith(_LARGE) else "regular"
            oid = known.get("lfs", known).get("oid")
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json(200, {"files": answers})

    def _batch(self, name: str, content: bytes) -> None:
        found = []
        for item in json.loads(content)["objects"]:
            href = f"{self.hub.address}/lfs/{item['oid']}"
            verify = f"{self.hub.address}/{name}.git/info/lfs/verify"
            actions = {"upload": {"href": href}, "verify": {"href": verify}}
            is_there = item["oid"] in self.hub.blobs
            found.append({**item} if is_there else {**item, "actions": actions})
        self._json(200, {"transfer": "basic", "objects": found})

    def _verify(self, name: str, content: bytes) -> None:
        said = json.loads(content)
        size = len(self.hub.blobs.get(said["oid"], b""))
        self._json(200 if size == said["size"] else 422, {})

    def _commit(self, name: str, content: bytes) -> None:
        files = dict(self.hub.files_of(name))
        title = ""
        for line in content.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                assert key == "deletedFile", key
                del files[value["path"]]
        id = self.hub.repositories[name].commit(files, title)
        url = f"{self.hub.address}/{name}/commit/{id}"
        self._json(200, {"commitUrl": url, "commitOid": id, "success": True})

    # Answers

    def _note(self) -> str:
        path = urlsplit(self.path).path.lstrip("/")
        self.hub.requests.append((self.command, unquote(path), self.headers.get("Range", "")))
        return path

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _refuse_repository(self, *, body: bool) -> None:
        """What the hub says of a repository that is not there: the same as of a private one."""
        if self._is_known():
            return self._error(404, "RepoNotFound", "Repository not found", body=body)
        return self._error(401, "RepoNotFound", "Invalid username or password.", body=body)

    def _error(
        self,
        status: int,
        code: str,
        said: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: bool = True,
    ) -> None:
        told = {"X-Error-Message": said} | ({"X-Error-Code": code} if code else {})
        content = json.dumps({"error": said}).encode()
        self._send(status, content, {**told, **(headers or {})}, body=body)

    def _json(self, status: int, values: Any) -> None:
        headers = {"Content-Type": "application/json"}
        self._send(status, json.dumps(values).encode(), headers, body=True)

    def _send(
        self,
        status: int,
        content: bytes,
        headers: Mapping[str, str],
        *,
        body: bool,
        breaks: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if breaks:
            content, self.close_connection = content[: len(content) // 2], True
        if body:
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True


_WRITES: dict[str, Callable[[_Handler, str, bytes], None]] = {
    "/preupload/": _Handler._preupload,
    "/commit/": _Handler._commit,
    ".git/info/lfs/objects/batch": _Handler._batch,
    ".git/info/lfs/verify": _Handler._verify,
}


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as trees of the hub list it."""
    if not path.endswith(_LARGE):
        return {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
    digest = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n"
    lfs = {"oid": digest, "size": len(data), "pointerSize": len(pointer)}
    oid = _blob(pointer.encode())
    return {"type": "file", "path": path, "size": len(data), "oid": oid, "lfs": lfs}


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
