"""A hub on this machine: folders served over HTTP as huggingface_hub asks for them, and written as it sends them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from recipes_fixtures import Called


class Request(NamedTuple):
    """What was asked for: `begin` and `end` of the range, None for a whole file."""

    method: str
    path: str
    begin: int | None
    end: int | None


class Hub(ThreadingHTTPServer):
    """Folders served as repositories: `repos[id][revision] = (commit, folder)`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, tuple[str, Path]]] = {}
        self.gated: set[str] = set()
        self.home: Path | None = None  # where repositories are made
        self.token = "secret"  # what a writer has to show
        self.blobs: dict[str, bytes] = {}  # by SHA-256, as large files are sent
        self.cut: int | None = None  # the byte of a weight file from which on nothing is given
        self.refused: set[str] = set()  # names of files whose sending fails
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, name: str, method: str = "GET") -> list[Request]:
        return [one for one in self.requests if one.path.endswith(f"/{name}") and one.method == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(send_body=False)

    def do_GET(self) -> None:
        self.answer(send_body=True)

    def answer(self, send_body: bool) -> None:
        url = urlsplit(self.path)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin = int(wanted[1]) if wanted else None
        end = int(wanted[2]) + 1 if wanted and wanted[2] else None
        if not url.query.startswith("cdn"):
            self.server.requests.append(Request(self.command, unquote(url.path), begin, end))
        info = re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)(?:/revision/([^/]+))?", unquote(url.path))
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(url.path))
        known = self.find(info or file)
        if (info or file) and (info or file)[1] in self.server.gated:  # type: ignore[index]
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"}, send_body)
            return
        if known is None:
            missing = (
                "RevisionNotFound" if (info or file) and (info or file)[1] in self.server.repos else "RepoNotFound"
            )  # type: ignore[index]
            self.send(404, b'{"error": "not found"}', {"X-Error-Code": missing}, send_body)
        elif info:
            sizes = "blobs" in parse_qs(url.query)
            self.send(200, json.dumps(facts(info[1], *known, sizes)).encode(), {}, send_body)
        elif file and url.path.endswith(".safetensors") and self.command == "GET" and not url.query:
            self.send(302, b"", {"Location": f"{self.server.url}{self.path}?cdn"}, send_body)  # weights lie elsewhere
        elif file and (path := known[1] / file[3]).is_file():
            data = path.read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Repo-Commit": known[0],
                "Accept-Ranges": "bytes",
            }
            cut = self.server.cut
            if send_body and cut is not None and end is None and path.suffix == ".safetensors":
                if (begin or 0) >= cut:
                    self.send(503, b"", {}, True)
                else:
                    self.send(206 if begin else 200, data[begin or 0 : cut], headers, True, len(data) - (begin or 0))
                    self.close_connection = True
            elif begin is None:
                self.send(200, data, headers, send_body)
            else:
                headers["Content-Range"] = f"bytes {begin}-{min(end or len(data), len(data)) - 1}/{len(data)}"
                self.send(206, data[begin:end], headers, send_body)
        else:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, send_body)

    def do_PUT(self) -> None:
        data = self.body()
        self.server.requests.append(Request("PUT", self.path, None, None))
        oid = self.path.rpartition("/")[2]
        if oid in self.server.refused:
            self.send(400, b"no room", {}, True)
            return
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.blobs[oid] = data
        self.send(200, b"", {"ETag": '"x"'}, True)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        data = self.body()
        self.server.requests.append(Request("POST", path, None, None))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.send(401, b'{"error": "Invalid username or password."}', {}, True)
        elif path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            wanted = json.loads(data)
            self.create("/".join(filter(None, (wanted.get("organization"), wanted["name"]))))
        elif found := re.fullmatch(r"/api/models/(.+)/branch/([^/]+)", path):
            revisions = self.server.repos[found[1]]
            is_new = revisions.setdefault(found[2], revisions["main"]) is None
            self.reply({"new": is_new})
        elif re.fullmatch(r"/api/models/.+/preupload/[^/]+", path):
            modes = {True: "lfs", False: "regular"}
            files = [one["path"] for one in json.loads(data)["files"]]
            self.reply(
                {
                    "files": [
                        {"path": one, "uploadMode": modes[one.endswith(".safetensors")], "shouldIgnore": False}
                        for one in files
                    ]
                }
            )
        elif path.endswith(".git/info/lfs/objects/batch"):
            self.reply({"objects": [self.place_for(one) for one in json.loads(data)["objects"]]})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/([^/]+)", path):
            self.commit(found[1], found[2], [json.loads(line) for line in data.splitlines()])
        else:
            self.send(404, b"", {}, True)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {}, True)

    def create(self, repo: str) -> None:
        if repo in self.server.repos:
            said = {"error": "You already created this model repo", "url": f"{self.server.url}/{repo}"}
            self.send(409, json.dumps(said).encode(), {}, True)
            return
        assert self.server.home
        folder = self.server.home / repo
        folder.mkdir(parents=True)
        self.server.repos[repo] = {"main": ("1" * 40, folder)}
        self.reply({"url": f"{self.server.url}/{repo}", "name": repo})

    def place_for(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Where a large file is sent to; nowhere where it lies already."""
        asked = {"oid": wanted["oid"], "size": wanted["size"]}
        known = wanted["oid"] in self.server.blobs
        return asked if known else {**asked, "actions": {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}}

    def commit(self, repo: str, revision: str, lines: list[dict[str, Any]]) -> None:
        parent, folder = self.server.repos[repo][revision]
        header = lines[0]["value"]
        if header.get("parentCommit", parent) != parent:
            self.send(412, b'{"error": "A commit has happened since"}', {}, True)
            return
        made = hashlib.sha1(json.dumps(lines).encode()).hexdigest()
        target = folder.with_name(f"{folder.name}-{made[:6]}")
        target.mkdir()
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                (target / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                (target / value["path"]).write_bytes(self.server.blobs[value["oid"]])
            else:
                (target / value["path"]).unlink()
        self.server.repos[repo][revision] = self.server.repos[repo][made] = (made, target)
        self.reply({"commitUrl": f"{self.server.url}/{repo}/commit/{made}", "commitOid": made, "success": True})

    def find(self, match: re.Match[str] | None) -> tuple[str, Path] | None:
        return self.server.repos.get(match[1], {}).get(match[2] or "main") if match else None

    def send(
        self, status: int, body: bytes, headers: dict[str, str], send_body: bool, promised: int | None = None
    ) -> None:
        length = len(body) if promised is None else promised
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)


def facts(repo: str, commit: str, folder: Path, sizes: bool) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    siblings = [{"rfilename": str(path.relative_to(folder))} for path in files]
    if sizes:
        siblings = [{**one, "size": path.stat().st_size} for one, path in zip(siblings, files, strict=True)]  # type: ignore[dict-item]
    counts = {"downloads": 0, "likes": 0, "private": False, "tags": []}
    return {"_id": "0", "id": repo, "modelId": repo, "sha": commit, "siblings": siblings, **counts}


@contextmanager
def serving(server: Hub) -> Iterator[Hub]:
    """The server at work."""
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def call_mergec(work: Path, hub: Hub, cache: Path, *arguments: str, **variables: str) -> Called:
    """mergec in a process of its own, with the hub and a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if "OFFLINE" not in name and not name.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", **variables}
    command = [sys.executable, "-m", "mergec", *arguments]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    return Called(done.returncode, done.stdout, done.stderr)
