"""A `python` whose processes begin with their libraries imported: forks of one process that has imported them.

    subprocess.run([warm.python(), "-m", "steps.fetch", …])    # at its work at once, where `python` takes seconds

For `-m` of one of MODULES, for SCRIPTS, and for a process of multiprocessing, it asks the server below for a fork and
stands for it: it hands its words, environment, folder and files on, passes signals to it, and ends as it ends; when it is killed,
the fork is. For all else it is the ordinary interpreter. A fork's sys.executable is the same program, so that what
`mlflow run` starts, and what that starts, are forks too. A fork loads our code from its folder, and has memory and
modules of its own. What it does not show is the start of an interpreter: which libraries are imported, how long that
takes, and what they read of the environment meanwhile (where one of COLD is another there is no fork). Where there are
no process descriptors (no Linux), it is the ordinary interpreter altogether.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import multiprocessing
import os
import runpy
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from importlib import import_module
from pathlib import Path

MODULES = ("mlflow.", "steps.", "slmflow.", "tests.", "uvicorn.")
SCRIPTS = ("driver.py", "run_step.py")
SPAWN = "from multiprocessing.spawn import"
COLD = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TORCH_", "DO_NOT_TRACK", "PYTHONHASHSEED", "JAVA_", "SPARK_")
LIBRARIES = (
    "mlflow.cli", "mlflow.genai", "mlflow.projects.backend.local", "mlflow.pyfunc", "mlflow.transformers",
    "mlflow.store.artifact.mlflow_artifacts_repo", "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.rest_store", "mlflow.store.tracking.sqlalchemy_store", "alembic.command", "databricks.sdk",
    "fsspec", "git", "hydra", "jsonschema", "llguidance", "mlflow.utils.requirements_utils", "onnx", "onnx_ir",
    "onnxruntime", "onnxruntime_genai", "pandas", "peft", "psutil", "pyarrow.parquet", "rich.table", "safetensors.torch",
    "scipy.stats", "tokenizers", "torch",
    "transformers.models.auto.modeling_auto", "transformers.models.phi3.modeling_phi3", "transformers.pipelines",
)  # fmt: skip
"""Imported once; nothing of ours is, as a fork may run another checkout."""
LAUNCHER = Path(__file__).with_name("warm_python.py")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@functools.cache
def python() -> str:
    """The path of the program; its server starts with the first call and ends with this process."""
    if not hasattr(os, "pidfd_open"):
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="slmflow-warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program, address = folder / "python", str(folder / "socket")
    settings = {
        "python": sys.executable, "server": address, "modules": MODULES, "scripts": SCRIPTS, "spawn": SPAWN,
        "cold": COLD,
        "variables": {name: value for name, value in os.environ.items() if name.startswith(COLD)},
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    program.write_text(f"#!{sys.executable} -IS\n{LAUNCHER.read_text()}")
    program.chmod(0o755)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(address)
    listening.listen(64)  # who asks before the libraries are imported, waits
    with listening, (folder / "log").open("ab") as log:
        # Its standard input is a pipe of ours: when that ends, however we end, so does it.
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(listening.fileno()), str(program)],
            cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=log, stderr=log,
            pass_fds=[listening.fileno()], start_new_session=True,
        )  # fmt: skip

    def end() -> None:
        server.kill()
        server.wait()

    atexit.register(end)
    return str(program)


def fork_of(pid: int) -> int:
    """The process that a program of this session stands for; itself where it stands for none."""
    found = Path(python()).parent / str(pid)
    return int(found.read_text()) if found.exists() else pid


class Server:
    """Forks for whom asks, and tells each how its fork has ended."""

    def __init__(self, listening: socket.socket, program: str) -> None:
        self.listening, self.program = listening, program
        self.selector = selectors.DefaultSelector()
        self.forks: dict[int, tuple[int, socket.socket, int]] = {}
        """By its process descriptor: its number, the connection of its launcher, and the launcher's number."""
        self.selector.register(listening, selectors.EVENT_READ, self.accept)
        self.selector.register(0, selectors.EVENT_READ, self.end)

    def serve(self) -> None:
        """Until standard input is closed."""
        while True:
            for key, _ in self.selector.select():
                key.data(key.fd)

    def end(self, _: int) -> None:
        """The tests have ended: nothing stays."""
        for pid, _, _ in self.forks.values():
            kill(pid)
        os._exit(0)

    def accept(self, _: int) -> None:
        """Fork for a launcher, unless it is killed meanwhile."""
        launcher, _ = self.listening.accept()
        with contextlib.suppress(OSError):
            self.fork_for(launcher)

    def fork_for(self, launcher: socket.socket) -> None:
        """Fork, tell the launcher of whom, and look after both."""
        head, files, _, _ = socket.recv_fds(launcher, 8, 250)
        request = launcher.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        if not request:
            launcher.close()
            return
        credentials = launcher.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        stands = struct.unpack("3i", credentials)[0]
        pid = os.fork()
        if pid == 0:
            self.listening.close()
            self.selector.close()
            for pidfd, (_, other, _) in self.forks.items():
                os.close(pidfd)
                other.close()
            launcher.close()
            os.setpgid(0, 0)
            become(json.loads(request), files, self.program, stands)
        for file in files:
            os.close(file)
        with contextlib.suppress(PermissionError, ProcessLookupError):  # whoever of the two is first
            os.setpgid(pid, pid)
        Path(self.program).with_name(str(stands)).write_text(str(pid))
        pidfd = os.pidfd_open(pid)
        self.forks[pidfd] = pid, launcher, stands
        self.selector.register(pidfd, selectors.EVENT_READ, self.reap)
        self.selector.register(launcher, selectors.EVENT_READ, lambda _: self.gone(pidfd, pid))
        launcher.sendall(pid.to_bytes(8, "big"))

    def reap(self, pidfd: int) -> None:
        """A fork has ended: tell its launcher."""
        self.selector.unregister(pidfd)
        os.close(pidfd)
        pid, launcher, stands = self.forks.pop(pidfd)
        Path(self.program).with_name(str(stands)).unlink()
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(KeyError):
            self.selector.unregister(launcher)
        with contextlib.suppress(OSError):
            launcher.sendall(status.to_bytes(8, "big"))
        launcher.close()

    def gone(self, pidfd: int, pid: int) -> None:
        """A launcher was killed: so is its fork, unless it has ended in the same moment."""
        found, launcher, _ = self.forks.get(pidfd, (0, None, 0))
        if found == pid:
            self.selector.unregister(launcher)
            kill(pid)


def kill(pid: int) -> None:
    """Kill a fork and what is of its group, as a signal to the launcher's group would have done."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def become(request: dict, files: list[int], program: str, stands: int) -> None:
    """Be the process that was asked for, for which another one stands."""
    status = 1
    try:
        arrange(files, request["files"])
        os.chdir(request["folder"])
        os.umask(request["umask"])
        own = {str(stands): str(os.getpid())}  # for whoever gave a process its own number to know itself by
        os.environ.clear()
        os.environ.update({name: own.get(value, value) for name, value in request["environment"].items()})
        for number in SIGNALS:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if number in request["ignored"] else usual)
        if os.environ.get("PYTHONUNBUFFERED"):
            sys.stdout.reconfigure(write_through=True)
        sys.executable = program
        multiprocessing.set_executable(program)
        status = run(*request["words"])
    finally:
        os._exit(status)


def arrange(files: list[int], numbers: list[int]) -> None:
    """Give files the numbers that they had."""
    highest = max([*files, *numbers]) + 1
    moved = [os.dup2(file, highest + at) for at, file in enumerate(files)]
    for file in files:
        os.close(file)
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def run(how: str, *words: str) -> int:
    """Run a module (-m), code (-c) or a script as Python does; returns the exit status."""
    status = 0
    more = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    place = {"-m": os.getcwd(), "-c": ""}.get(how, os.path.dirname(os.path.abspath(how)))
    sys.path[:1] = [place, *more]
    sys.argv = list(words) if how == "-m" else [how, *words[how == "-c" :]]
    try:
        if how == "-m":
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        elif how == "-c":
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(words[0], vars(sys.modules["__main__"]))
        else:
            runpy.run_path(how, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return status & 0xFF


if __name__ == "__main__":
    for library in LIBRARIES:
        import_module(library)
    # What MLflow would find out in every process that logs a model: a second's look at all that is installed.
    sys.modules["mlflow.utils.requirements_utils"]._init_modules_to_packages_map()
    gc.collect()
    gc.freeze()
    Server(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]).serve()
