"""A Databricks workspace on loopback: users, workspace files, secrets and jobs, which it really executes.

Shapes are those of the REST reference (workspace/import, workspace/get-status, secrets/get, jobs/runs/submit, get,
get-output, cancel). What cannot be here: the paths of a cluster. A task's file and parameters below /Workspace
are rewritten to the folder that holds the workspace's files; nothing else of the submission is touched.
"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

TOKEN = "stand-in-token"
USER = "founder@example.com"
IMPORT_LIMIT = 10 * 1024 * 1024


class RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.body = status, {"error_code": code, "message": message}


class Workspace:
    """Its files, secrets and job runs, and the faults that it shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets: dict[str, str] = {}
        self.jobs: dict[int, dict] = {}
        self.tokens: dict[str, int] = {}
        self.requests: list[tuple[str, str, dict]] = []
        self.faults: list[list] = []
        self.dying: list[str] = []
        self.url = ""
        self.lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        return {"DATABRICKS_HOST": self.url, "DATABRICKS_TOKEN": TOKEN}

    def fail(self, match: str, status: int | None, times: int = 1, after: bool = False) -> None:
        """The next requests that match get a status, or no answer at all (None); `after` the work was done."""
        self.faults.append([match, status, times, after])

    def kill_next(self, step: str) -> None:
        """The machine of the step's next job is lost soon after its start."""
        self.dying.append(step)

    def submissions(self) -> list[dict]:
        return [body for method, path, body in self.requests if path.endswith("/runs/submit")]

    def fault(self, line: str, after: bool) -> int | bool | None:
        for found in self.faults:
            match, status, times, late = found
            if times and late == after and re.search(match, line):
                found[2] -= 1
                return status
        return False

    # -- workspace files -------------------------------------------------------------------------------------
    def place(self, path: str) -> Path:
        if not path.startswith("/"):
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", f"Path ({path}) doesn't start with '/'")
        return self.folder / "Workspace" / path.removeprefix("/Workspace").lstrip("/")

    def mkdirs(self, body: dict) -> dict:
        self.place(body["path"]).mkdir(parents=True, exist_ok=True)
        return {}

    def import_(self, body: dict) -> dict:
        place = self.place(body["path"])
        content = base64.b64decode(body["content"])
        if len(content) > IMPORT_LIMIT:
            raise RefusedError(
                400, "MAX_NOTEBOOK_SIZE_EXCEEDED", "File size imported is larger than 10485760 bytes"
            )
        if not place.parent.is_dir():
            raise RefusedError(
                404, "RESOURCE_DOES_NOT_EXIST", f"The parent folder ({body['path']}) does not exist."
            )
        if place.exists() and not body.get("overwrite"):
            raise RefusedError(400, "RESOURCE_ALREADY_EXISTS", f"Path ({body['path']}) already exists.")
        place.write_bytes(content)
        return {}

    def get_status(self, query: dict) -> dict:
        place = self.place(query["path"])
        if not place.exists():
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", f"Path ({query['path']}) doesn't exist.")
        if place.is_dir():
            return {"object_type": "DIRECTORY", "path": query["path"], "object_id": 1}
        return {"object_type": "FILE", "path": query["path"], "object_id": 2, "size": place.stat().st_size}

    def secret(self, query: dict) -> dict:
        name = f"{query['scope']}/{query['key']}"
        if name not in self.secrets:
            raise RefusedError(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                f"Failed to get secret {query['key']} for scope {query['scope']}.",
            )
        return {"key": query["key"], "value": base64.b64encode(self.secrets[name].encode()).decode()}

    # -- jobs ------------------------------------------------------------------------------------------------
    def submit(self, body: dict) -> dict:
        with self.lock:
            token = body.get("idempotency_token")
            if token in self.tokens:
                return {"run_id": self.tokens[token]}
            if len(token or "") > 64:
                raise RefusedError(
                    400, "INVALID_PARAMETER_VALUE", "idempotency_token is longer than 64 characters"
                )
            if len(body.get("tasks", [])) != 1:
                raise RefusedError(400, "INVALID_PARAMETER_VALUE", "the stand-in takes one task a submission")
            task = body["tasks"][0]
            computes = [k for k in ("new_cluster", "existing_cluster_id", "environment_key") if k in task]
            if len(computes) != 1:
                raise RefusedError(
                    400, "INVALID_PARAMETER_VALUE", f"Task {task['task_key']}: exactly one compute is needed"
                )
            keys = [one["environment_key"] for one in body.get("environments", [])]
            if "environment_key" in task and (task["environment_key"] not in keys or "libraries" in task):
                raise RefusedError(
                    400, "INVALID_PARAMETER_VALUE", f"Task {task['task_key']}: its environment is not defined"
                )
            if "new_cluster" in task and "spark_version" not in task["new_cluster"]:
                raise RefusedError(
                    400,
                    "INVALID_PARAMETER_VALUE",
                    "Missing required field: settings.new_cluster.spark_version",
                )
            run_id = 1000 + 10 * len(self.jobs)
            self.jobs[run_id] = {
                "body": body,
                "state": {"life_cycle_state": "PENDING"},
                "seen": 0,
                "log": b"",
            }
            self.tokens[token] = run_id
        return {"run_id": run_id}

    def environment_of(self, task: dict, home: Path) -> dict[str, str]:
        """What a cluster's process has: the runtime's own, and the cluster's variables; nothing of the test's."""
        home.mkdir(parents=True)
        variables = task.get("new_cluster", {}).get("spark_env_vars", {})
        resolved = {
            name: re.sub(r"\{\{secrets/([^/]+/[^}]+)\}\}", lambda found: self.secrets[found[1]], value)
            for name, value in variables.items()
        }
        kept = {
            name: os.environ[name]
            for name in ("SLMFLOW_LOCKS", "PIP_FIND_LINKS", "PIP_CERT")
            if name in os.environ
        }
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(home),
            "DATABRICKS_RUNTIME_VERSION": "15.4",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **self.environment,
            **kept,
            **resolved,
        }

    def start(self, run_id: int) -> None:
        job = self.jobs[run_id]
        task = job["body"]["tasks"][0]
        spark = task["spark_python_task"]
        here = str(self.folder / "Workspace")
        words = [
            re.sub(r"^/Workspace(?=/)", here, word) for word in [spark["python_file"], *spark["parameters"]]
        ]
        clean = self.folder / "clusters" / str(run_id)
        environment = self.environment_of(task, clean)
        job["process"] = subprocess.Popen(
            [sys.executable, *words], cwd=clean, env=environment, stdin=subprocess.DEVNULL,
            stdout=(clean / "log").open("wb"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        job["state"] = {"life_cycle_state": "RUNNING", "state_message": "In run"}
        job["dies"] = task["task_key"] in self.dying
        if job["dies"]:
            self.dying.remove(task["task_key"])

    def look(self, run_id: int) -> dict:
        """A job goes on when it is looked at, as far as its process has."""
        job = self.jobs[run_id]
        with self.lock:
            state = job["state"]["life_cycle_state"]
            job["seen"] += 1
            if state == "PENDING" and job["seen"] > 1:
                self.start(run_id)
            elif state == "RUNNING" and job["dies"]:
                os.killpg(job["process"].pid, signal.SIGKILL)
                job["process"].wait()
                job["state"] = {
                    "life_cycle_state": "INTERNAL_ERROR", "result_state": "FAILED",
                    "state_message": "Could not reach driver of cluster: the instance was lost",
                }  # fmt: skip
            elif state in ("RUNNING", "TERMINATING") and (status := job["process"].poll()) is not None:
                result = "CANCELED" if state == "TERMINATING" else "SUCCESS" if status == 0 else "FAILED"
                message = (
                    ""
                    if result == "SUCCESS"
                    else "Run cancelled."
                    if result == "CANCELED"
                    else f"SystemExit: {status}"
                )
                job["state"] = {
                    "life_cycle_state": "TERMINATED",
                    "result_state": result,
                    "state_message": message,
                }
        return job

    def get(self, query: dict) -> dict:
        run_id = int(query["run_id"])
        if run_id not in self.jobs:
            raise RefusedError(400, "INVALID_PARAMETER_VALUE", f"Run {run_id} does not exist.")
        job = self.look(run_id)
        task = {**job["body"]["tasks"][0], "run_id": run_id + 1, "state": job["state"]}
        return {
            "run_id": run_id,
            "state": job["state"],
            "tasks": [task],
            "run_page_url": f"{self.url}/#job/run/{run_id}",
        }

    def output(self, query: dict) -> dict:
        run_id = int(query["run_id"]) - 1
        log = self.folder / "clusters" / str(run_id) / "log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return {
            "logs": text,
            "logs_truncated": False,
            "metadata": {"run_id": run_id + 1, "state": self.jobs[run_id]["state"]},
        }

    def cancel(self, body: dict) -> dict:
        job = self.jobs[body["run_id"]]
        with self.lock:
            if job["state"]["life_cycle_state"] == "PENDING":
                job["state"] = {
                    "life_cycle_state": "TERMINATED",
                    "result_state": "CANCELED",
                    "state_message": "Run cancelled.",
                }
            elif job["state"]["life_cycle_state"] == "RUNNING":
                job["state"] = {"life_cycle_state": "TERMINATING"}
                os.kill(job["process"].pid, signal.SIGTERM)
                threading.Thread(target=self._kill_later, args=(job["process"],), daemon=True).start()
        return {}

    def _kill_later(self, process: subprocess.Popen) -> None:
        for _ in range(300):
            if process.poll() is not None:
                return
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        for job in self.jobs.values():
            process = job.get("process")
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def routes(workspace: Workspace) -> dict:
    me = {"userName": USER, "id": "1", "active": True}
    return {
        ("GET", r"/api/2.0/preview/scim/v2/Me"): lambda _: me,
        ("POST", r"/api/2.0/workspace/mkdirs"): workspace.mkdirs,
        ("POST", r"/api/2.0/workspace/import"): workspace.import_,
        ("GET", r"/api/2.0/workspace/get-status"): workspace.get_status,
        ("GET", r"/api/2.0/secrets/get"): workspace.secret,
        ("POST", r"/api/2.2/jobs/runs/submit"): workspace.submit,
        ("GET", r"/api/2.2/jobs/runs/get"): workspace.get,
        ("GET", r"/api/2.2/jobs/runs/get-output"): workspace.output,
        ("POST", r"/api/2.2/jobs/runs/cancel"): workspace.cancel,
    }


@contextmanager
def databricks(folder: Path):
    """A workspace that lives as long as the block."""
    workspace = Workspace(folder)
    table = routes(workspace)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status: int, body: dict) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(content)

        def respond(self) -> None:
            parts = urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            line = f"{self.command} {parts.path}"
            early = workspace.fault(line, after=False)
            if early is None:  # the connection goes in the middle of the body
                self.rfile.read(size // 2)
                self.close_connection = True
                self.connection.close()
                return
            raw = self.rfile.read(size)
            if early:
                self.answer(early, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "come again"})
                return
            if parts.path == "/.well-known/databricks-config":  # older workspaces have none
                self.answer(404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "no such page"})
                return
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(403, {"error_code": "403", "message": "Invalid access token."})
                return
            body = (
                json.loads(raw) if raw else {name: found[0] for name, found in parse_qs(parts.query).items()}
            )
            workspace.requests.append((self.command, parts.path, body))
            work = table.get((self.command, parts.path))
            try:
                if work is None:
                    raise RefusedError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{line}'")
                result = work(body)
            except RefusedError as refusal:
                self.answer(refusal.status, refusal.body)
                return
            if workspace.fault(line, after=True) is None:
                self.close_connection = True
                self.connection.close()
                return
            self.answer(200, result)

        do_GET = do_POST = respond  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    workspace.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield workspace
    finally:
        server.shutdown()
        server.server_close()
        workspace.close()
