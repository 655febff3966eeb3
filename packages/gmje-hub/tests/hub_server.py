"""A small server that speaks the Hub's HTTP interface, for tests only: real requests of the real client.

Repositories with commits, branches and private ones, uploads of small files in the commit and of large ones by LFS,
``resolve`` with ETag and X-Repo-Commit; faults are injected by :attr:`Hub.faults`.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_THRESHOLD = 4096


@dataclass
class Blob:
    content: bytes
    lfs: bool

    @property
    def etag(self) -> str:
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob]) -> str:
        parent = self.branches.get(branch, "")
        tree = "".join(f"{name} {blob.etag}\n" for name, blob in sorted(files.items()))
        sha = hashlib.sha1(f"{parent}\n{len(self.commits)}\n{tree}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


@dataclass
class Fault:
    """What happens to a request: a status, or the connection breaking after so many bytes of the body.

    Args:
        method: HTTP method.
        path: Regular expression that the path matches.
        status: Answered instead of the real answer.
        cut: Bytes of the real answer's body that are sent before the connection breaks.
        before: Called first.
        times: How often.
    """

    method: str
    path: str
    status: int | None = None
    cut: int | None = None
    before: Callable[[], None] | None = None
    times: int = 10**9


def card_problem(card: str) -> str | None:
    """What the Hub's rules for the metadata of a card would object to."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if found is None:
        return "no metadata between two lines of ---"
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return f"not YAML: {error}"
    for key, kind in (("library_name", str), ("tags", list)):
        if not isinstance(data.get(key), kind):
            return f"{key} must be a {kind.__name__}"
    if data.get("license", "mit") not in ("apache-2.0", "mit", "other"):
        return "an unknown license"
    if data.get("pipeline_tag", "image-feature-extraction") != "image-feature-extraction":
        return "an unknown pipeline_tag"
    if not all(isinstance(tag, str) for tag in data["tags"]):
        return "tags must be strings"
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str) or not model.get("results"):
            return "every model-index needs a name and results"
        for result in model["results"]:
            task, dataset, metrics = result.get("task", {}), result.get("dataset", {}), result.get("metrics", [])
            if not isinstance(task.get("type"), str) or not all(
                isinstance(dataset.get(k), str) for k in ("type", "name")
            ):
                return "every result needs task.type, dataset.type and dataset.name"
            if not metrics or not all(isinstance(m.get("type"), str) and m.get("value") is not None for m in metrics):
                return "every metric needs a type and a value"
    return None


class Hub:
    """The state of a server, and the server."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.tokens = {"good": True, "reader": False}  # whether it may write
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.agents: list[str] = []  # what the requests say of the program that makes them
        self.lock = threading.RLock()
        self.connections: list[socket.socket] = []
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, repo_id: str, files: dict[str, bytes], *, private: bool = False, branch: str = "main") -> str:
        """Commit files as if they had been pushed."""
        repo = self.repos.setdefault(repo_id, Repo(private))
        old = repo.commits.get(repo.branches.get(branch, ""), {})
        blobs = {name: Blob(content, len(content) > LFS_THRESHOLD) for name, content in files.items()}
        return repo.commit(branch, {**old, **blobs})

    def fail(self, method: str, path: str, **what: Any) -> Fault:
        """Let requests fail from now on; see :class:`Fault`."""
        self.faults.append(Fault(method, path, **what))
        return self.faults[-1]

    def head(self, repo_id: str, branch: str = "main") -> str:
        return self.repos[repo_id].branches[branch]

    def close(self) -> None:
        """Stop, and break the connections that clients keep open."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def setup(self) -> None:
        super().setup()
        self.state.connections.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        hub = self.state
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        with hub.lock:
            hub.requests.append((self.command, path))
            hub.agents.append(self.headers.get("User-Agent") or "")
            fault = next(
                (f for f in hub.faults if f.times > 0 and f.method == self.command and re.search(f.path, path)), None
            )
            if fault is not None:
                fault.times -= 1
        self.cut = fault.cut if fault else None
        if fault and fault.before:
            fault.before()
        if fault and fault.status:
            self._json({"error": "injected"}, fault.status)
            return
        with hub.lock:
            self._route(path, query, body)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        hub = self.state
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            self._json({"error": "no"}, 401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return
        may_read, may_write = token in hub.tokens, hub.tokens.get(token, False)
        if path == "/api/whoami-v2":
            self._json({"name": token, "type": "user", "orgs": []}, 200 if may_read else 401)
            return
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            if not may_write:
                self._json({"error": "no"}, 403, {"X-Error-Message": "no right to write"})
                return
            exists = name in hub.repos
            if not exists:
                repo = hub.repos[name] = Repo(wanted.get("visibility") == "private")
                repo.commit("main", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)})
            self._json({"url": f"{hub.url}/{name}"}, 409 if exists else 200)
            return
        if path == "/api/validate-yaml":
            problem = card_problem(json.loads(body)["content"])
            self._json({"errors": [{"message": problem}] if problem else [], "warnings": []}, 400 if problem else 200)
            return
        if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            right = hashlib.sha256(body).hexdigest() == found[1]
            if right:
                hub.lfs[found[1]] = body
            self._json({}, 200 if right else 400)
            return
        found = re.match(r"(?:/api/models)?/([\w.-]+/[\w.-]+?)(?:\.git)?(/.*)?$", path)
        repo = hub.repos.get(found[1]) if found else None
        if found is None or repo is None or (repo.private and not may_read):
            self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
            return
        self._repository(found[1], repo, found[2] or "", body, may_write)

    def _repository(self, name: str, repo: Repo, rest: str, body: bytes, may_write: bool) -> None:
        hub = self.state
        if self.command in ("POST", "PUT") and not may_write:
            self._json({"error": "no"}, 403, {"X-Error-Message": "no right to write"})
        elif rest == "" or (found := re.fullmatch(r"/revision/(.+)", rest)):
            sha = repo.find(found[1] if rest else "main")
            if sha is None:
                self._json({"error": "Invalid rev"}, 404, {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [
                {"rfilename": n, "size": len(b.content), "blobId": b.etag} for n, b in repo.commits[sha].items()
            ]
            self._json({"id": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []})
        elif found := re.fullmatch(r"/branch/(.+)", rest):
            exists = found[1] in repo.branches
            repo.branches.setdefault(found[1], repo.branches["main"])
            self._json({}, 409 if exists else 200)
        elif re.fullmatch(r"/preupload/.+", rest):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["size"] > LFS_THRESHOLD else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            self._json({"files": modes})
        elif rest == "/info/lfs/objects/batch":
            objects = [
                {
                    "oid": o["oid"],
                    "size": o["size"],
                    **({} if o["oid"] in hub.lfs else {"actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}),
                }
                for o in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/commit/(.+)", rest):
            self._commit(name, repo, found[1], body)
        elif found := re.fullmatch(r"/resolve/([^/]+)/(.+)", rest):
            self._resolve(repo, found[1], found[2])
        else:
            self._json({"error": f"no route {rest}"}, 404)

    def _commit(self, name: str, repo: Repo, branch: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        parent = next(line["value"].get("parentCommit") for line in lines if line["key"] == "header")
        if parent is not None and repo.branches.get(branch) != parent:
            self._json({"error": "A commit has happened since."}, 412)
            return
        files = dict(repo.commits[repo.branches[branch]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.state.lfs:
                    self._json({"error": "missing LFS object"}, 400)
                    return
                files[value["path"]] = Blob(self.state.lfs[value["oid"]], True)
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        sha = repo.commit(branch, files)
        url = f"{self.state.url}/{name}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, "pullRequestUrl": None})

    def _resolve(self, repo: Repo, revision: str, path: str) -> None:
        sha = repo.find(revision)
        if sha is None:
            self._json({"error": "Invalid rev"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        blob = repo.commits[sha].get(path)
        if blob is None:
            self._json({"error": "no entry"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
            return
        linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))} if blob.lfs else {}
        self._send(200, blob.content, {"ETag": f'"{blob.etag}"', "X-Repo-Commit": sha, **linked})

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut is None:
            self.wfile.write(content)
        else:
            self.wfile.write(content[: self.cut])
            self.wfile.flush()
            self.close_connection = True
