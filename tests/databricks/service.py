"""The stand-in as a service: one address, its rooms behind it, and the faults that it is told to show."""

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.databricks.catalog import Catalog
from tests.databricks.files import Files
from tests.databricks.jobs import Jobs
from tests.databricks.rest import Answer, RefusedError, Request, absent
from tests.databricks.tracking import Tracking
from tests.free_port import POLL_SECONDS

TOKEN = "stand-in-token"
USER = "founder@example.com"


class Workspace:
    """Its rooms, its requests so far, and the faults that it shows."""

    def __init__(self, folder: Path, tracking: Tracking | None) -> None:
        self.folder = folder
        self.url = ""
        self.secrets: dict[str, str] = {}
        self.environment = {"DATABRICKS_HOST": "", "DATABRICKS_TOKEN": TOKEN}
        self.files, self.catalog = Files(folder), Catalog(folder)
        self.runs = Jobs(folder, self.environment, self.secrets)
        self.tracking = tracking
        if tracking is not None:
            self.environment |= {
                "MLFLOW_TRACKING_URI": "databricks",
                "MLFLOW_REGISTRY_URI": "databricks-uc",
            }
        self.requests: list[tuple[str, str, dict]] = []
        self.faults: list[list] = []

    @property
    def jobs(self) -> dict[int, dict]:
        return self.runs.jobs

    def open(self, url: str) -> None:
        self.url = self.files.url = self.runs.url = self.environment["DATABRICKS_HOST"] = url

    def fail(self, match: str, status: int | None, times: int = 1, after: bool = False) -> None:
        """The next requests that match get a status, or no answer at all (None); `after` the work was done."""
        self.faults.append([match, status, times, after])

    def kill_next(self, task: str) -> None:
        """The machine of the task's next run is lost soon after its start."""
        self.runs.dying.append(task)

    def submissions(self) -> list[dict]:
        return [body for method, path, body in self.requests if path.endswith("/runs/submit")]

    def fault(self, line: str, after: bool) -> int | bool | None:
        for found in self.faults:
            match, status, times, late = found
            if times and late == after and re.search(match, line):
                found[2] -= 1
                return status
        return False

    def secret(self, request: Request) -> dict:
        scope, key = request.body["scope"], request.body["key"]
        if f"{scope}/{key}" not in self.secrets:
            raise absent(f"Failed to get secret {key} for scope {scope}.")
        return {"key": key, "value": base64.b64encode(self.secrets[f"{scope}/{key}"].encode()).decode()}

    def routes(self) -> list:
        me = {"userName": USER, "id": "1", "active": True}
        own = [
            ("GET", r"/api/2\.0/preview/scim/v2/Me", lambda _: me),
            ("GET", r"/api/2\.0/secrets/get", self.secret),
        ]
        rooms = [self.files, self.runs]
        if self.tracking is not None:
            rooms += [self.catalog, self.tracking]
        return own + [route for room in rooms for route in room.routes()]

    def respond(self, request: Request) -> Answer:
        for method, pattern, work in self.routes():
            if method == request.method and (found := re.fullmatch(pattern, request.path)):
                request.words = found.groups()
                result = work(request)
                if isinstance(result, Answer):
                    return result
                return Answer(200, json.dumps(result).encode(), {"Content-Type": "application/json"})
        raise RefusedError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{request.method} {request.path}'")

    def close(self) -> None:
        self.runs.close()
        if self.tracking is not None:
            self.tracking.close()


def handler_of(workspace: Workspace) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a body waits 0.04 s for the client's word that the headers came

        def log_message(self, *_):
            pass

        def answer(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(answer.content)))
            if answer.status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            if self.command != "HEAD" and answer.status != 204:
                self.wfile.write(answer.content)

        def refuse(self, status: int, body: dict) -> None:
            self.answer(Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"}))

        def content(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def respond(self) -> None:
            parts = urlsplit(self.path)
            line = f"{self.command} {parts.path}"
            early = workspace.fault(line, after=False)
            if early is None:  # the connection goes in the middle of the body
                self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
                self.hang_up()
                return
            raw = self.content()
            if early == 502:  # of a proxy before the service
                self.answer(Answer(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}))
                return
            if early:
                code = "PERMISSION_DENIED" if early == 403 else "TEMPORARILY_UNAVAILABLE"
                self.refuse(early, {"error_code": code, "message": "come again"})
                return
            if parts.path == "/.well-known/databricks-config":
                self.refuse(200, {"oidc_endpoint": f"{workspace.url}/oidc", "workspace_id": "4711"})
                return
            signed = parts.path.startswith("/signed/")
            if not signed and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.refuse(403, {"error_code": "403", "message": "Invalid access token."})
                return
            query = {
                name: found if len(found) > 1 else found[0] for name, found in parse_qs(parts.query).items()
            }
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, query, raw, headers)
            is_json = "json" in headers.get("content-type", "") and raw
            request.body = json.loads(raw) if is_json else dict(query)
            workspace.requests.append((self.command, parts.path, dict(request.body)))
            try:
                found = workspace.respond(request)
            except RefusedError as refusal:
                self.refuse(refusal.status, refusal.body)
                return
            late = workspace.fault(line, after=True)
            if late is None:
                self.hang_up()
                return
            self.answer(Answer(late, b"<html>") if late else found)

        def hang_up(self) -> None:
            self.close_connection = True
            self.connection.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = respond  # noqa: N815

    return Handler


@contextmanager
def databricks(folder: Path, tracking: bool = False):
    """A workspace that lives as long as the block; `tracking`: with experiments and Unity Catalog."""
    workspace = Workspace(folder, Tracking(folder / "tracking") if tracking else None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(workspace))
    workspace.open(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=[POLL_SECONDS], daemon=True).start()
    try:
        if workspace.tracking is not None:
            workspace.tracking.wait()
        yield workspace
    finally:
        server.shutdown()
        server.server_close()
        workspace.close()
