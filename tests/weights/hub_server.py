"""Serves repositories of models on this machine: the few routes of a hub that huggingface_hub needs to fetch and to upload files."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

MAIN = "main"


class Hub(ThreadingHTTPServer):
    """Holds repositories: id -> revision -> file name -> content; `requests` lists what it was asked for, `tokens` who asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated = set[str]()
        self.refusal = 0  # HTTP status with which it refuses to create anything
        self.requests, self.tokens = list[str](), set[str | None]()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def fetched(self) -> set[str]:
        """Returns the names of the files that were sent."""
        return {path.rpartition("/")[2] for path in self.requests if "/resolve/" in path}


def commit_of(files: dict[str, bytes]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        self.server.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create" and self.server.refusal:
            self._send(self.server.refusal, b"{}")
        elif path == "/api/repos/create":
            fields = json.loads(body)
            name = "/".join(filter(None, (fields.get("organization"), fields["name"])))
            self.server.repositories.setdefault(name, {MAIN: {}})
            self._json({"url": f"{self.server.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.startswith("/api/models/"):
            self._repository(path.removeprefix("/api/models/"), body)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        else:
            self._missing("EntryNotFound")

    def _repository(self, path: str, body: bytes) -> None:
        found = re.fullmatch(r"([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/([^/]+))?", path)
        revisions = self._revisions(found[1]) if found else None
        if found is None or revisions is None:
            return
        name, action, revision = found[1], found[2], found[3] or MAIN
        files = revisions.get(revision) or next((value for value in revisions.values() if commit_of(value) == revision), None)
        if files is None and action != "commit":
            if revision == MAIN:
                files = {}
            else:
                self._missing("RevisionNotFound")
                return
        files = {} if files is None else files
        if action == "tree":
            self._json([_entry(file, content) for file, content in files.items()])
        elif action == "preupload":
            self._json(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]}
            )
        elif action == "commit":
            rows = [json.loads(line) for line in body.splitlines()]
            revisions[revision] = {
                **files,
                **{row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in rows if row["key"] == "file"},
            }
            commit = commit_of(revisions[revision])
            self._json(
                {"success": True, "commitOid": commit, "commitUrl": f"{self.server.address}/{name}/commit/{commit}", "hookOutput": ""}
            )
        else:
            siblings = [{"rfilename": file} for file in files]
            self._json({"id": name, "modelId": name, "sha": commit_of(files), "private": False, "tags": [], "siblings": siblings})

    def _file(self, name: str, revision: str, file: str) -> None:
        revisions = self._revisions(name)
        if revisions is None:
            return
        files = revisions.get(revision) or next((value for value in revisions.values() if commit_of(value) == revision), {})
        if file not in files:
            self._missing("EntryNotFound")
            return
        headers = {"X-Repo-Commit": commit_of(files), "ETag": f'"{_digest(files[file])}"'}
        self._send(200, files[file], headers, kind="application/octet-stream")

    def _revisions(self, name: str) -> dict[str, dict[str, bytes]] | None:
        """Returns the revisions of a repository, or answers that there is none."""
        if name in self.server.gated:
            self._missing("GatedRepo", 403)
        elif name not in self.server.repositories:
            self._missing("RepoNotFound")
        else:
            return self.server.repositories[name]
        return None

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode())

    def _missing(self, code: str, status: int = 404) -> None:
        self._send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, kind: str = "application/json") -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """Runs a hub until the end of the block."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
