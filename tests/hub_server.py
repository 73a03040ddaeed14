"""A model hub on this machine: serves folders as repositories over the parts of the hub's interface that clients use.

    with HubServer() as server:
        commit = server.add("owner/name", folder)
        server.fail("/resolve/", 500)              # the next such request fails
        ... HF_ENDPOINT=server.url ...
        server.requests                            # what was asked, in order

It answers as the public hub does: paged file lists with `Link` headers, 401 for what a caller without a token may not
know of, `X-Error-Code`, git and LFS entity tags, redirects of large files to another path, ranges, and HEAD.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from patience import WAIT

LFS_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".msgpack", ".onnx", ".pb")
TOKEN = "hf_test"


@dataclass(frozen=True)
class Blob:
    """A file's content; LFS files are known by SHA-256, others by git's SHA-1 of the blob."""

    content: bytes
    lfs: bool

    @property
    def git_id(self) -> str:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        stored = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_id


@dataclass
class Repository:
    """Commits by id, each a mapping of paths to blobs, and the names (branches, tags) of some of them.

    private: hidden from those without the token. gated: listed for all, files only with the token.
    """

    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit_of(self, revision: str) -> str | None:
        commit = self.refs.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Fault:
    """What happens to requests whose path holds `pattern`, `times` times.

    A status instead of the answer, a delay before it, a cut of the body after some bytes, one byte of the body changed,
    or no attention to ranges.
    """

    pattern: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    corrupt: int | None = None
    whole: bool = False
    method: str | None = None


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]


class HubServer:
    """Listens on a free port of the loopback interface while its `with` block runs.

    page_size  entries in one page of a file list
    """

    def __init__(self, page_size: int = 1000) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[Asked] = []
        self.page_size = page_size
        self.changes: list[tuple[str, Callable[[Answer], Answer]]] = []
        self.pace: tuple[int, float] | None = None  # bodies come in pieces of so many bytes, so many seconds apart
        self.sent = 0  # bytes of large files, piece by piece, since `allow`
        self.allowed: float = math.inf
        self.round = 0
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients that go away are what some tests are about
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # Another host name, as a CDN has: clients keep their token from it.
        self.cdn_url = f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(
        self,
        name: str,
        files: Path | dict[str, bytes],
        *,
        revision: str = "main",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Commits a folder, or a mapping of paths to contents, under a branch or tag; returns the commit's id."""
        if isinstance(files, Path):
            files = {
                path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*") if path.is_file()
            }
        blobs = {path: Blob(content, path.endswith(LFS_SUFFIXES)) for path, content in sorted(files.items())}
        repository = self.repositories.setdefault(name, Repository())
        repository.private, repository.gated = private, gated
        told = json.dumps([name, *([path, blob.etag] for path, blob in blobs.items())])
        commit = hashlib.sha1(told.encode()).hexdigest()
        repository.commits[commit] = blobs
        repository.refs[revision] = commit
        return commit

    def fail(self, pattern: str, status: int, *, times: int = 1, method: str | None = None, **headers: str) -> None:
        """The next `times` requests whose path matches the regular expression get this status.

        Keywords are headers, with underscores for hyphens.
        """
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.faults.append(Fault(pattern, times, status=status, headers=named, method=method))

    def cut(self, pattern: str, after: int, *, times: int = 1) -> None:
        """The next matching downloads lose their connection after this many bytes."""
        self.faults.append(Fault(pattern, times, cut=after, method="GET"))

    def corrupt(self, pattern: str, at: int, *, times: int = 1) -> None:
        """The next matching downloads have the byte at this place of their body changed."""
        self.faults.append(Fault(pattern, times, corrupt=at, method="GET"))

    def send_whole(self, pattern: str, *, times: int = 1) -> None:
        """The next matching downloads come from their first byte, whatever range is asked for."""
        self.faults.append(Fault(pattern, times, whole=True, method="GET"))

    def slow(self, pattern: str, seconds: float, *, times: int = 1) -> None:
        """The next matching requests are answered late."""
        self.faults.append(Fault(pattern, times, delay=seconds))

    def allow(self, size: float) -> None:
        """From now on no more of large files is sent than this, and nothing of those that were begun before."""
        with self.lock:
            self.sent, self.allowed = 0, size
            self.round += 1

    def hold(self, pattern: str, after: int, go: threading.Event) -> None:
        """Every matching body stops after this many bytes until `go` is set."""

        def held(answer: Answer) -> Answer:
            def pieces() -> Iterator[bytes]:
                yield answer.body[:after]
                go.wait(WAIT)
                yield answer.body[after:]

            return Answer(answer.status, b"", {**answer.headers, "Content-Length": str(len(answer.body))}, pieces())

        self.alter(pattern, held)

    def alter(self, pattern: str, change: Callable[[Answer], Answer]) -> None:
        """Every answer to a request whose path matches is what `change` makes of it: for hubs that lie."""
        self.changes.append((pattern, change))

    def paths(self, method: str = "GET") -> list[str]:
        """The paths asked for with a method, in order."""
        return [asked.path for asked in self.requests if asked.method == method]

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method in (None, method) and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None


@dataclass
class Answer:
    """An HTTP answer. `pieces` is a body without a Content-Length, sent piece by piece until the client has gone."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes] | None = None


def error(status: int, code: str | None, message: str, **headers: str) -> Answer:
    named = {"X-Error-Message": message, **headers}
    if code is not None:
        named["X-Error-Code"] = code
    return Answer(status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json", **named})


def as_json(values: object, **headers: str) -> Answer:
    return Answer(200, json.dumps(values).encode(), {"Content-Type": "application/json", **headers})


@dataclass(frozen=True)
class Call:
    """A request, parsed: the path's pieces, the query, and whether it carries the token."""

    server: HubServer
    match: re.Match[str]
    query: dict[str, str]
    token: str | None

    def repository(self) -> Repository | Answer:
        name = f"{self.match['owner']}/{self.match['name']}"
        found = self.server.repositories.get(name)
        if self.token not in (None, TOKEN):
            return error(401, None, "Invalid credentials in Authorization header")
        if found is None or (found.private and self.token != TOKEN):
            if self.token is None:
                return error(401, None, "Invalid username or password.")
            return error(404, "RepoNotFound", "Repository not found")
        return found

    def commit(self, repository: Repository) -> str | Answer:
        revision = unquote(self.match["revision"] or "main")
        commit = repository.commit_of(revision)
        return error(404, "RevisionNotFound", f"Invalid rev id: {revision}") if commit is None else commit


def model_info(call: Call) -> Answer:
    """GET /api/models/owner/name[/revision/REVISION]."""
    repository = call.repository()
    if isinstance(repository, Answer):
        return repository
    commit = call.commit(repository)
    if isinstance(commit, Answer):
        return commit
    name = f"{call.match['owner']}/{call.match['name']}"
    return as_json(
        {
            "_id": "0" * 24,
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "tags": ["diffusers"],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in repository.commits[commit]],
        }
    )


def tree(call: Call) -> Answer:
    """GET /api/models/owner/name/tree/REVISION?recursive=...&cursor=..., in pages; `Link: <...>; rel="next"`."""
    repository = call.repository()
    if isinstance(repository, Answer):
        return repository
    commit = call.commit(repository)
    if isinstance(commit, Answer):
        return commit
    entries: dict[str, dict] = {}
    recursive = call.query.get("recursive", "false").lower() == "true"
    for path, blob in repository.commits[commit].items():
        folders = [path[:i] for i, char in enumerate(path) if char == "/"]
        for folder in folders:
            entries.setdefault(folder, {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder})
        if recursive or not folders:
            entry = {"type": "file", "oid": blob.git_id, "size": len(blob.content), "path": path}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
            entries[path] = entry
    listed = [entries[path] for path in sorted(entries) if recursive or "/" not in path]
    start = int(call.query.get("cursor", "0"))
    stop = start + call.server.page_size
    headers = {}
    if stop < len(listed):
        query = "&".join(f"{key}={quote(value)}" for key, value in {**call.query, "cursor": str(stop)}.items())
        headers["Link"] = f'<{call.server.url}{call.match[0]}?{query}>; rel="next"'
    return as_json(listed[start:stop], **headers)


def resolve(call: Call) -> Answer:
    """HEAD or GET /owner/name/resolve/REVISION/PATH: a small file itself, a large one as a redirect to /cdn/."""
    repository = call.repository()
    if isinstance(repository, Answer):
        return repository
    if repository.gated and call.token != TOKEN:
        status = 401 if call.token is None else 403
        return error(status, "GatedRepo", "Access to this model is restricted.")
    commit = call.commit(repository)
    if isinstance(commit, Answer):
        return commit
    blob = repository.commits[commit].get(unquote(call.match["path"]))
    if blob is None:
        return error(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
    headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{blob.git_id}"'}
    if not blob.lfs:
        return Answer(200, blob.content, headers)
    headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    return Answer(302, b"", {**headers, "Location": f"{call.server.cdn_url}/cdn/{blob.sha256}?signature=x"})


def cdn(call: Call) -> Answer:
    """GET /cdn/SHA256: content by its hash, for whoever knows the address."""
    for repository in call.server.repositories.values():
        for blobs in repository.commits.values():
            for blob in blobs.values():
                if blob.sha256 == call.match["sha256"]:
                    return Answer(200, blob.content, {"ETag": f'"{blob.sha256}"', "Accept-Ranges": "bytes"})
    return error(404, "EntryNotFound", "No such object")


_ID = r"(?P<owner>[^/]+)/(?P<name>[^/]+)"
ROUTES: list[tuple[re.Pattern[str], Callable[[Call], Answer]]] = [
    (re.compile(rf"/api/models/{_ID}(?:/revision/(?P<revision>[^/]+))?"), model_info),
    (re.compile(rf"/api/models/{_ID}/tree/(?P<revision>[^/]+)"), tree),
    (re.compile(rf"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"), resolve),
    (re.compile(r"/cdn/(?P<sha256>[0-9a-f]{64})"), cdn),
]


def _range(answer: Answer, asked: str | None) -> Answer:
    """The part that a `Range: bytes=first-[last]` header asks for."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
    if answer.status != 200 or match is None:
        return answer
    size, first = len(answer.body), int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if first >= size:
        return Answer(416, b"", {"Content-Range": f"bytes */{size}"})
    headers = {**answer.headers, "Content-Range": f"bytes {first}-{last}/{size}"}
    return Answer(206, answer.body[first : last + 1], headers)


def _handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path, query = urlsplit(self.path).path, urlsplit(self.path).query
            with server.lock:
                server.requests.append(Asked(self.command, self.path, dict(self.headers.items())))
            fault = server.take_fault(self.command, self.path)
            if fault is not None and fault.delay:
                time.sleep(fault.delay)
            answer = self._routed(path, query) if fault is None or fault.status is None else self._failed(fault)
            same = self.headers.get("If-Range") in (None, answer.headers.get("ETag"))
            if same and (fault is None or not fault.whole):
                answer = _range(answer, self.headers.get("Range"))
            if fault is not None and fault.corrupt is not None and fault.corrupt < len(answer.body):
                changed = bytearray(answer.body)
                changed[fault.corrupt] ^= 0xFF
                answer.body = bytes(changed)
            for pattern, change in server.changes:
                if re.search(pattern, self.path):
                    answer = change(answer)
            try:
                self._send(answer, None if fault is None else fault.cut)
            except OSError:  # the client has gone
                self.close_connection = True

        def _failed(self, fault: Fault) -> Answer:
            return error(fault.status or 500, None, "Fault on demand", **fault.headers)

        def _routed(self, path: str, query: str) -> Answer:
            for pattern, route in ROUTES:
                if match := pattern.fullmatch(path):
                    values = {key: items[-1] for key, items in parse_qs(query).items()}
                    token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
                    return route(Call(server, match, values, token))
            return error(404, None, "Not found")

        def _send(self, answer: Answer, cut: int | None) -> None:
            self.send_response(answer.status)
            for key, value in answer.headers.items():
                self.send_header(key, value)
            if answer.pieces is None and "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if answer.pieces is not None:
                self.close_connection = True
                for piece in answer.pieces:
                    self.wfile.write(piece)
                return
            if "Content-Length" in answer.headers:
                self.close_connection = True
            body = answer.body if cut is None else answer.body[:cut]
            if server.pace is None:
                self.wfile.write(body)
            else:
                (piece, seconds), begun = server.pace, server.round
                for start in range(0, len(body), piece):
                    if self.path.startswith("/cdn/"):
                        while server.sent >= server.allowed and server.round == begun:
                            time.sleep(0.005)
                        with server.lock:
                            if server.round != begun:
                                raise ConnectionAbortedError
                            server.sent += piece
                    self.wfile.write(body[start : start + piece])
                    time.sleep(seconds)
            if cut is not None:
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
