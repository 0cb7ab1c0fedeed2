"""A Hugging Face hub on loopback, with the API's real shapes: commits, ETags, LFS, ranges, faults."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.free_port import POLL_SECONDS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS = (".safetensors", ".bin", ".onnx", ".data")


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """One repository at one commit, and the faults it shows."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main", "v1.0", COMMIT)
    gated: bool = False
    drop_once: set[str] = field(default_factory=set)
    """Files whose first transfer breaks off in the middle."""
    damaged: set[str] = field(default_factory=set)
    """Files that arrive with another byte than the commit says."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range of every request, in order."""
    tokens: set[str | None] = field(default_factory=set)

    def etag(self, name: str) -> str:
        content = self.files[name]
        return hashlib.sha256(content).hexdigest() if name.endswith(LFS) else blob_id(content)

    def sibling(self, name: str, blobs: bool) -> dict:
        if not blobs:
            return {"rfilename": name}
        content = self.files[name]
        entry = {"rfilename": name, "size": len(content), "blobId": blob_id(content)}
        if name.endswith(LFS):
            entry["lfs"] = {"sha256": self.etag(name), "size": len(content), "pointerSize": 134}
        return entry


def repo_of(folder: Path, prefix: str = "", **faults) -> Repo:
    files = {
        prefix + p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    return Repo({**files, ".gitattributes": b"*.safetensors filter=lfs\n"}, **faults)


@contextmanager
def hub(**repos: Repo):
    """Serve `org__name=Repo(...)` as org/name; yields the endpoint's URL."""
    by_name = {name.replace("__", "/"): repo for name, repo in repos.items()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a body waits 0.04 s for the word that the headers came

        def log_message(self, *args):
            pass

        def answer(self, status, headers=None, body=b""):
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def fail(self, status, code, message):
            body = json.dumps({"error": message}).encode()
            self.answer(status, {"X-Error-Code": code, "X-Error-Message": message}, body)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            url = urlsplit(self.path)
            parts = [unquote(part) for part in url.path.strip("/").split("/")]
            is_api = parts[:2] == ["api", "models"]
            name = "/".join(parts[2:4] if is_api else parts[0:2])
            repo = by_name.get(name)
            if repo is None:
                return self.fail(404, "RepoNotFound", "Repository not found")
            repo.requests.append((self.command, url.path, self.headers.get("Range")))
            repo.tokens.add(self.headers.get("Authorization"))
            is_signed = parts[2:3] == ["storage"]  # the address itself is the permission there
            if repo.gated and not is_signed and not self.headers.get("Authorization"):
                return self.fail(401, "GatedRepo", f"Access to model {name} is restricted")
            if is_api and parts[4:5] == ["tree"]:
                return self.tree(repo, parts[5])
            if is_api:
                return self.info(repo, name, parts[5] if len(parts) > 5 else "main", parse_qs(url.query))
            if parts[2] == "resolve":
                return self.file(repo, name, parts[3], "/".join(parts[4:]))
            if parts[2] == "storage":  # where a hub sends the client for large files
                return self.content(repo, "/".join(parts[3:]), {})
            return self.fail(404, "EntryNotFound", "Entry not found")

        def info(self, repo, name, revision, query):
            if revision not in repo.revisions:
                return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            blobs = query.get("blobs", ["false"])[0].lower() == "true"
            siblings = [repo.sibling(file, blobs) for file in sorted(repo.files)]
            body = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings}
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

        def tree(self, repo, revision):
            if revision not in repo.revisions:
                return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            body = []
            for file in sorted(repo.files):
                entry = repo.sibling(file, blobs=True)
                found = {"type": "file", "path": file, "oid": entry["blobId"], "size": entry["size"]}
                if lfs := entry.get("lfs"):
                    found["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 134}
                body.append(found)
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

        def file(self, repo, name, revision, file):
            if revision not in repo.revisions or file not in repo.files:
                return self.fail(404, "EntryNotFound", "Entry not found")
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{repo.etag(file)}"', "Accept-Ranges": "bytes"}
            if not file.endswith(LFS):
                return self.content(repo, file, headers)
            size = str(len(repo.files[file]))
            location = f"http://localhost:{self.server.server_address[1]}/{name}/storage/{file}"
            linked = {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": size, "Location": location}
            return self.answer(302, {**headers, **linked})

        def content(self, repo, file, headers):
            content = repo.files[file]
            if file in repo.damaged:
                content = content[:-1] + bytes([content[-1] ^ 1])
            status, wanted = 200, self.headers.get("Range")
            if wanted and self.command == "GET":
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                content, status = content[start:], 206
            if file in repo.drop_once and self.command == "GET":
                repo.drop_once.discard(file)
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.close_connection = True
                return self.connection.close()
            return self.answer(status, headers, content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=[POLL_SECONDS], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
