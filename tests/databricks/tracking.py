"""Experiments, runs and LoggedModels: MLflow's own server, with the places and refusals of a workspace."""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tests.databricks.rest import Answer, Request, absent, invalid
from tests.free_port import free_port

ROOT = "dbfs:/databricks/mlflow-tracking"


class Tracking:
    def __init__(self, folder: Path) -> None:
        self.uri = f"http://127.0.0.1:{free_port()}"
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--port", self.uri.rpartition(":")[2]]
        command += ["--backend-store-uri", f"sqlite:///{folder}/tracking.db", "--workers", "1"]
        command += ["--default-artifact-root", ROOT, "--no-serve-artifacts"]
        with (folder / "tracking.log").open("w") as log:
            self.server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        for _ in range(240):
            assert self.server.poll() is None, "the tracking server ended"
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.25)
        raise AssertionError("the tracking server did not come up")

    def close(self) -> None:
        self.server.terminate()
        self.server.wait(30)

    def forward(self, request: Request) -> Answer:
        if request.path.endswith("/experiments/create"):
            name = request.body["name"]
            if not name.startswith("/"):
                raise invalid(
                    f"Got an invalid experiment name '{name}'. An absolute path within the Databricks workspace "
                    "is expected, e.g. '/Users/<some-username>/my-experiment'."
                )
            if not re.match(r"/(Users/[^/]+|Shared)/[^/]+$", name):
                raise absent(f"Workspace directory '{name.rpartition('/')[0]}' not found.")
        if str(request.body.get("experiment_id")) == "0":  # MLflow's own server has one of this id
            raise absent("Node ID 0 does not exist.")
        query = f"?{urllib.parse.urlencode(request.query, doseq=True)}" if request.query else ""
        headers = {name: request.headers[name] for name in ("content-type",) if name in request.headers}
        asked = urllib.request.Request(
            f"{self.uri}{request.path}{query}", request.raw or None, headers, method=request.method
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        text = re.sub(
            rf"{ROOT}/(\w+)/models/(m-\w+)/artifacts", rf"{ROOT}/\1/logged_models/\2", content.decode()
        )
        kind = "application/json" if _is_json(text) else "text/plain"
        return Answer(status, text.encode(), {"Content-Type": kind, "x-databricks-org-id": "4711"})

    def routes(self) -> list:
        paths = r"/api/(?:2\.0|3\.0)/mlflow/(?!unity-catalog).*"
        return [(method, paths, self.forward) for method in ("GET", "POST", "PATCH", "DELETE")]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
