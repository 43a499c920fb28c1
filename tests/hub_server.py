"""A stand-in for the Hugging Face Hub on the loopback address, for the unmodified clients: reading,
publishing, and faults on demand.

Point HF_ENDPOINT at `server.url` and set HF_HUB_DISABLE_XET=1 before any Hugging Face library is
imported: use a process of its own.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "hf_" + "StandInTokenForTests" + "x" * 14
REPOSITORY = r"(?P<kind>datasets/|)(?P<id>[^/]+/[^/]+)"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """Commits, each a table of paths and contents, and the names of some of them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], reference: str = "main") -> str:
        """The files of the reference with these in their place, as a new commit."""
        everything = {**self.at(reference), **files}
        listing = "".join(
            f"{path} {sha256(content)}\n" for path, content in sorted(everything.items())
        )
        name = hashlib.sha1(f"{len(self.commits)} {listing}".encode()).hexdigest()
        self.commits[name], self.references[reference] = everything, name
        return name

    def at(self, revision: str) -> dict[str, bytes]:
        return self.commits.get(self.references.get(revision, revision), {})


@dataclass
class Fault:
    """What happens to the next `times` requests whose line matches: a status, a connection cut
    after some bytes, or silence.
    """

    pattern: str
    status: int = 0
    cut: int = 0
    stall: float = 0.0
    times: int = 1


class HubServer:
    """The server, running in a thread. `log` holds the line of each request."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = defaultdict(Repository)
        self.uploads: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, kind: str, name: str, files: dict[str, bytes], **how: bool) -> str:
        """A repository with these files; its commit."""
        repository = self.repositories[kind, name]
        repository.__dict__.update(how)
        return repository.commit(files)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _handle(self):
        path, _, _ = self.path.partition("?")
        line = f"{self.command} {path}"
        self.hub.log.append(line + (f" {self.headers['Range']}" if self.headers["Range"] else ""))
        self.fault = next(
            (f for f in self.hub.faults if f.times and re.search(f.pattern, line)), Fault("")
        )
        self.fault.times -= 1
        if self.fault.stall:
            time.sleep(self.fault.stall)
        body = self._body()
        if self.fault.status:
            return self._answer(self.fault.status, {"error": "a fault on demand"})
        for pattern, method in self.ROUTES:
            if match := re.fullmatch(pattern, path):
                return method(
                    self, body, **{k: unquote(v or "") for k, v in match.groupdict().items()}
                )
        return self._answer(404, {"error": f"the stand-in has no {line}"})

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": len(content),
            **(headers or {}),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            if self.fault.cut:
                self.wfile.write(content[: self.fault.cut])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _user(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(
        self, kind: str, name: str, revision: str, reading: bool = False
    ) -> Repository | None:
        """The repository, or None after a refusal."""
        key = ("dataset" if kind.startswith("dataset") else "model", name)
        if self.headers.get("Authorization") and not self._user():
            return self._refuse(401, "Invalid token")
        if key not in self.hub.repositories or (
            self.hub.repositories[key].private and not self._user()
        ):
            return self._refuse(404 if self._user() else 401, "RepoNotFound")
        repository = self.hub.repositories[key]
        if repository.gated and reading and not self._user():
            return self._refuse(401, "GatedRepo")
        if (revision or "main") not in repository.references and revision not in repository.commits:
            return self._refuse(404, "RevisionNotFound")
        return repository

    def resolve(self, body, kind, id, revision, file):
        """The content of one file, or a part of it."""
        if (repository := self._repository(kind, id, revision, reading=True)) is None:
            return None
        commit = repository.references.get(revision, revision)
        content = repository.at(revision).get(file)
        if content is None:
            return self._answer(
                404, {"error": "none"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            )
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{sha256(content)}"',
            "Accept-Ranges": "bytes",
        }
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            return self._answer(206, content[start : last + 1], headers)
        return self._answer(200, content, headers)

    def information(self, body, kind, id, revision):
        """What the Hub says of a repository."""
        if (repository := self._repository(kind, id, revision)) is None:
            return None
        files = repository.at(revision or "main")
        state = {
            "id": id,
            "sha": repository.references.get(revision or "main", revision),
            "private": repository.private,
        }
        siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
        return self._answer(
            200,
            {**state, "gated": repository.gated, "tags": [], "downloads": 0, "siblings": siblings},
        )

    def tree(self, body, kind, id, revision, folder):
        """The files of a folder, and the folders in it; with `recursive` all files below it."""
        if (repository := self._repository(kind, id, revision)) is None:
            return None
        entries, inside = [], f"{folder}/" if folder else ""
        for path, content in repository.at(revision).items():
            if not path.startswith(inside):
                continue
            deeper = path.removeprefix(inside).rpartition("/")[0].partition("/")[0]
            if deeper and "recursive=true" not in self.path.lower():
                entry = {"type": "directory", "path": inside + deeper, "oid": ""}
                entries += [entry] if entry not in entries else []
                continue
            large = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(
                {
                    "type": "file",
                    "path": path,
                    "size": len(content),
                    "oid": sha256(content)[:40],
                    "lfs": large,
                }
            )
        return self._answer(200, entries) if entries else self._refuse(404, "EntryNotFound")

    def whoami(self, body):
        """Whose the token is."""
        if not self._user():
            return self._refuse(401, "Invalid token")
        access = {"displayName": "test", "role": "write"}
        return self._answer(
            200,
            {
                "type": "user",
                "name": "tester",
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": access},
            },
        )

    def create(self, body):
        """A new repository."""
        asked = json.loads(body)
        kind, name = (
            asked.get("type") or "model",
            f"{asked.get('organization') or 'tester'}/{asked['name']}",
        )
        if not self._user():
            return self._refuse(401, "Invalid token")
        url = {"url": f"{self.hub.url}/{name}", "name": name, "id": "0"}
        if (kind, name) in self.hub.repositories:
            return self._answer(409, {"error": "exists", **url})
        private = asked.get("private", asked.get("visibility") == "private")
        self.hub.add(kind, name, {}, private=bool(private))
        return self._answer(200, url)

    def preupload(self, body, kind, id, revision):
        """Which files come with the commit, and which before it."""
        files = json.loads(body)["files"]
        modes = ["lfs" if f["path"].endswith(".safetensors") else "regular" for f in files]
        answer = [
            {"path": f["path"], "uploadMode": m, "shouldIgnore": False}
            for f, m in zip(files, modes, strict=True)
        ]
        return self._answer(200, {"files": answer})

    def batch(self, body, kind, id):
        """Where large files are to be sent."""
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.url}/upload/{wanted['oid']}"}
            objects.append(
                {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": upload}}
            )
        return self._answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, body, oid):
        """A large file."""
        if sha256(body) != oid:
            return self._answer(400, {"error": "another checksum"})
        self.hub.uploads[oid] = body
        return self._answer(200, {})

    def commit(self, body, kind, id, revision):
        """New files of a repository."""
        if not self._user():
            return self._refuse(401, "Invalid token")
        if (repository := self._repository(kind, id, revision)) is None:
            return None
        files = {}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.hub.uploads[line["value"]["oid"]]
        name = repository.commit(files, revision)
        return self._answer(
            200,
            {"success": True, "commitOid": name, "commitUrl": f"{self.hub.url}/{id}/commit/{name}"},
        )

    def fine(self, body, **_):
        """Nothing to object to."""
        return self._answer(200, {"errors": [], "warnings": []})

    API = r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)"
    ROUTES = (
        (r"/", fine),
        (rf"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", resolve),
        (rf"{API}(?:/revision/(?P<revision>[^/]+))?", information),
        (rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", tree),
        (r"/api/whoami-v2", whoami),
        (r"/api/repos/create", create),
        (r"/api/validate-yaml", fine),
        (rf"{API}/preupload/(?P<revision>[^/]+)", preupload),
        (rf"{API}/commit/(?P<revision>[^/]+)", commit),
        (rf"/{REPOSITORY}\.git/info/lfs/objects/batch", batch),
        (r"/upload/(?P<oid>[0-9a-f]{64})", upload),
    )
