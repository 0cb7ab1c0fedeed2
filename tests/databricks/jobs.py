"""Jobs of a workspace: tasks in the order of their needs, each a process in a clean folder."""

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests import warm
from tests.databricks.rest import Request, invalid

COMPUTES = ("new_cluster", "existing_cluster_id", "environment_key", "job_cluster_key")
ENDED = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
RUNTIME = Path(__file__).parent / "runtime"
"""What stands for the runtime's own `dbruntime`: credentials that belong to one process."""
AS_TASK = 'export STAND_IN_TASK=$$; exec "$@"'
RSYNC = '#!/bin/bash\n# The runtime has rsync; this machine need not.\nexec cp -n "${@: -2:1}" "${@: -1}"/\n'


class Jobs:
    def __init__(self, folder: Path, environment: dict[str, str], secrets: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        """Of a client: how it reaches the workspace."""
        self.secrets = secrets
        self.jobs: dict[int, dict] = {}
        self.tokens: dict[str, int] = {}
        self.dying: list[str] = []
        self.without_libraries: list[str] = []
        self.url = ""
        self.lock = threading.RLock()
        tools = folder / "bin"
        tools.mkdir(parents=True)
        (tools / "rsync").write_text(RSYNC)
        (tools / "rsync").chmod(stat.S_IRWXU)

    # -- submission ------------------------------------------------------------------------------------------
    def submit(self, request: Request) -> dict:
        body = request.body
        if "tasks" not in body:  # the form of Jobs 2.0, which MLflow still speaks
            single = {name: body[name] for name in body if name not in ("run_name", "idempotency_token")}
            body = {**body, "tasks": [{"task_key": "main", **single}]}
        with self.lock:
            token = body.get("idempotency_token")
            if token and token in self.tokens:
                return {"run_id": self.tokens[token]}
            if len(token or "") > 64:
                raise invalid("idempotency_token is longer than 64 characters")
            self.check(body)
            run_id = 1000 + 100 * len(self.jobs)
            tasks = {
                task["task_key"]: {
                    "task": task,
                    "state": {"life_cycle_state": "PENDING"},
                    "run_id": run_id + n,
                }
                for n, task in enumerate(body["tasks"], 1)
            }
            pending = {"life_cycle_state": "PENDING"}
            self.jobs[run_id] = {"body": body, "state": pending, "seen": 0, "tasks": tasks}
            if token:
                self.tokens[token] = run_id
        return {"run_id": run_id}

    def check(self, body: dict) -> None:
        """Refuse what the service refuses."""
        environments = [one["environment_key"] for one in body.get("environments", [])]
        clusters = [one["job_cluster_key"] for one in body.get("job_clusters", [])]
        keys = [task["task_key"] for task in body["tasks"]]
        for task in body["tasks"]:
            computes = [name for name in COMPUTES if name in task]
            if len(computes) != 1:
                raise invalid(f"Task {task['task_key']}: exactly one compute is needed")
            if "environment_key" in task and (
                task["environment_key"] not in environments or "libraries" in task
            ):
                raise invalid(f"Task {task['task_key']}: its environment is not defined")
            if "job_cluster_key" in task and task["job_cluster_key"] not in clusters:
                raise invalid(f"Task {task['task_key']}: its job cluster is not defined")
            if "new_cluster" in task and "spark_version" not in task["new_cluster"]:
                raise invalid("Missing required field: settings.new_cluster.spark_version")
            for need in task.get("depends_on", []):
                if need["task_key"] not in keys:
                    raise invalid(f"Task {task['task_key']} depends on an unknown task {need['task_key']}")

    # -- execution -------------------------------------------------------------------------------------------
    def environment_of(self, task: dict, home: Path) -> dict[str, str]:
        """What a cluster's process has: the runtime's own, and the cluster's variables; nothing of the test's."""
        home.mkdir(parents=True, exist_ok=True)
        variables = task.get("new_cluster", {}).get("spark_env_vars", {})
        resolved = {
            name: re.sub(r"\{\{secrets/([^/]+/[^}]+)\}\}", lambda found: self.secrets[found[1]], value)
            for name, value in variables.items()
        }
        kept = ("SLMFLOW_LOCKS", "PIP_FIND_LINKS", "PIP_CERT")
        reach = dict(self.environment)
        if "spark_python_task" in task:  # a shell's task: by what road it gets them is MLflow's affair
            host, token = reach.pop("DATABRICKS_HOST"), reach.pop("DATABRICKS_TOKEN")
            own = {"PYTHONPATH": str(RUNTIME), "STAND_IN_HOST": host, "STAND_IN_TOKEN": token}
            reach = {name: value for name, value in reach.items() if not name.startswith("MLFLOW_")} | own
        return {
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(home),
            "DATABRICKS_RUNTIME_VERSION": "15.4",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **reach,
            **{name: os.environ[name] for name in kept if name in os.environ},
            **resolved,
            **task.get("shell_command_task", {}).get("env_vars", {}),
        }

    def here(self, word: str, run_id: int) -> str:
        """A word with the paths of a cluster as they are on this machine."""
        machine = self.folder / "clusters" / str(run_id) / "databricks"
        places = {"/Workspace/": self.folder / "Workspace", "/dbfs/": self.folder / "dbfs"}
        places["/databricks/mlflow/"] = machine
        for path, place in places.items():
            word = re.sub(rf"(?<![\w./-]){path}", f"{place}/", word)
        return word

    def start(self, job: dict, one: dict) -> None:
        task, run_id = one["task"], one["run_id"]
        if task["task_key"] in self.without_libraries:
            self.without_libraries.remove(task["task_key"])
            one["error"] = f"Library installation failed on the cluster of run {run_id}"
            self.end(one, "INTERNAL_ERROR", "FAILED", f"run failed with error message: {one['error']}")
            return
        clean = self.folder / "clusters" / str(run_id)
        environment = self.environment_of(task, clean)
        if "spark_python_task" in task:
            spark = task["spark_python_task"]
            words = [warm.python(), spark["python_file"], *spark.get("parameters", [])]
        else:
            words = task["shell_command_task"]["command"]
        parameters = {p["name"]: p["default"] for p in job["body"].get("parameters", [])}
        words = [
            re.sub(r"\{\{job\.parameters\.(\w+)\}\}", lambda f: parameters[f[1]], word) for word in words
        ]
        with (clean / "log").open("ab") as log:
            one["process"] = subprocess.Popen(
                ["/bin/sh", "-c", AS_TASK, "sh", *(self.here(word, run_id) for word in words)], cwd=clean, env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        one["state"] = {"life_cycle_state": "RUNNING", "state_message": "In run"}
        one["dies"] = task["task_key"] in self.dying
        if one["dies"]:
            self.dying.remove(task["task_key"])

    def look_at_task(self, job: dict, one: dict) -> None:
        state = one["state"]["life_cycle_state"]
        if state == "PENDING" and job["seen"] > 1:
            needs = [job["tasks"][need["task_key"]]["state"] for need in one["task"].get("depends_on", [])]
            if any(need.get("result_state") not in (None, "SUCCESS") for need in needs):
                one["state"] = {"life_cycle_state": "TERMINATED", "result_state": "UPSTREAM_FAILED"}
            elif all(need.get("result_state") == "SUCCESS" for need in needs):
                self.start(job, one)
        elif state == "RUNNING" and one["dies"]:
            os.killpg(one["process"].pid, signal.SIGKILL)
            one["process"].wait()
            self.end(
                one, "INTERNAL_ERROR", "FAILED", "Could not reach driver of cluster: the instance was lost"
            )
        elif state in ("RUNNING", "TERMINATING") and (status := one["process"].poll()) is not None:
            if state == "TERMINATING":
                self.end(one, "TERMINATED", "CANCELED", "Run cancelled.")
            elif status == 0:
                self.end(one, "TERMINATED", "SUCCESS", "")
            else:
                one["error"] = f"SystemExit: {status}"
                one["error_trace"] = f"SystemExit                Traceback\n{one['error']}"
                self.end(one, "TERMINATED", "FAILED", "Workload failed, see run output for details")

    def end(self, one: dict, state: str, result: str, message: str) -> None:
        one["attempts"] = one.get("attempts", 0) + 1
        if result == "FAILED" and one["attempts"] <= one["task"].get("max_retries", 0):
            one["state"] = {"life_cycle_state": "PENDING"}
            return
        one["state"] = {"life_cycle_state": state, "result_state": result, "state_message": message}

    def look(self, run_id: int) -> dict:
        """A job goes on when it is looked at, as far as its processes have."""
        job = self.jobs[run_id]
        with self.lock:
            job["seen"] += 1
            for one in job["tasks"].values():
                self.look_at_task(job, one)
            states = [one["state"] for one in job["tasks"].values()]
            if all(state["life_cycle_state"] in ENDED for state in states):
                job["state"] = next((s for s in states if s.get("result_state") != "SUCCESS"), states[0])
            elif any(state["life_cycle_state"] != "PENDING" for state in states):
                going = [s for s in states if s["life_cycle_state"] not in ENDED]
                job["state"] = {"life_cycle_state": going[0]["life_cycle_state"]}
        return job

    # -- the rest of the interface ---------------------------------------------------------------------------
    def get(self, request: Request) -> dict:
        run_id = int(request.body["run_id"])
        if run_id not in self.jobs:
            raise invalid(f"Run {run_id} does not exist.")
        job = self.look(run_id)
        tasks = [
            {**one["task"], "run_id": one["run_id"], "state": one["state"]} for one in job["tasks"].values()
        ]
        page = f"{self.url}/#job/run/{run_id}"
        return {"run_id": run_id, "job_id": 7, "state": job["state"], "tasks": tasks, "run_page_url": page}

    def log(self, run_id: int) -> str:
        log = self.folder / "clusters" / str(run_id) / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def output(self, request: Request) -> dict:
        run_id = int(request.body["run_id"])
        (one,) = [t for job in self.jobs.values() for t in job["tasks"].values() if t["run_id"] == run_id]
        errors = {name: one[name] for name in ("error", "error_trace") if name in one}
        logs = {"logs": self.log(run_id), "logs_truncated": False} if "process" in one else {}
        return {**logs, **errors, "metadata": {"run_id": run_id, "state": one["state"]}}

    def cancel(self, request: Request) -> dict:
        self.stop(int(request.body["run_id"]))
        return {}

    def stop(self, run_id: int) -> None:
        with self.lock:
            for one in self.jobs[run_id]["tasks"].values():
                if one["state"]["life_cycle_state"] == "PENDING":
                    self.end(one, "TERMINATED", "CANCELED", "Run cancelled.")
                elif one["state"]["life_cycle_state"] == "RUNNING":
                    one["state"] = {"life_cycle_state": "TERMINATING"}
                    os.kill(one["process"].pid, signal.SIGTERM)
                    threading.Thread(target=self._kill_later, args=(one["process"],), daemon=True).start()

    def _kill_later(self, process: subprocess.Popen) -> None:
        for _ in range(300):
            if process.poll() is not None:
                return
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        for job in self.jobs.values():
            for one in job["tasks"].values():
                process = one.get("process")
                if process is not None and process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def routes(self) -> list:
        runs = r"/api/2\.[0-2]/jobs/runs"
        return [
            ("POST", f"{runs}/submit", self.submit),
            ("GET", f"{runs}/get", self.get),
            ("GET", f"{runs}/get-output", self.output),
            ("POST", f"{runs}/cancel", self.cancel),
        ]
