"""A front in a process of its own, with the stand-in as its worker; all are ended after the test."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]


def wait_for(found, seconds=15.0):
    """The first true value of a call within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not so after {seconds} seconds")


def has_ended(process: psutil.Process) -> bool:
    """Whether a process that is nobody's child any more has ended; whoever inherited it may be slow to bury it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Front:
    """A running front, as a client sees it."""

    def __init__(self, folder: Path, words: tuple[str, ...], environment: dict[str, str]) -> None:
        self.folder = folder
        self.log_file = folder / "worker.log"
        given = {word.partition("=")[0] for word in words}
        usual = {"model_uri": "models:/echo/1", "port": "0", "worker.log": str(self.log_file)}
        own = [f"{name}={value}" for name, value in usual.items() if name not in given]
        command = [sys.executable, "-m", "tests.serving.front_process", *own, *words]
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("w") as out, self.err.open("w") as err:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
            self.process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, env=environment)
        self.children: list[psutil.Process] = []

    def listen(self) -> "Front":
        def found():
            assert self.process.poll() is None, self.err.read_text()
            lines = self.out.read_text().splitlines()
            return next((line.split()[-1] for line in lines if line.startswith("listening on ")), None)

        self.url = wait_for(found)
        self.client = httpx.Client(base_url=self.url, timeout=20)
        return self

    def ready(self) -> "Front":
        wait_for(lambda: self.client.get("/health").status_code == 200)
        self.children = psutil.Process(self.process.pid).children()
        return self

    def chat(self, prompt, headers=None, **body):
        body = {"messages": [{"role": "user", "content": prompt}], **body}
        return self.client.post("/v1/chat/completions", json=body, headers=headers)

    def stream(self, prompt, **body):
        body = {"messages": [{"role": "user", "content": prompt}], "stream": True, **body}
        return self.client.stream("POST", "/v1/chat/completions", json=body)

    def worker(self) -> tuple[str, int]:
        """The URI and the process id of the worker that answers."""
        uri, pid = self.chat("who").json()["choices"][0]["message"]["content"].split()
        return uri, int(pid)

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def metric(self, name: str) -> float:
        lines = [line for line in self.client.get("/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def end(self, number=signal.SIGTERM, seconds=20) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def clean(self) -> None:
        with contextlib.suppress(psutil.Error):
            self.children += psutil.Process(self.process.pid).children()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        try:
            wait_for(lambda: all(map(has_ended, self.children)), 5)
        except AssertionError:
            for child in self.children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            pytest.fail("a worker outlived its front")


@pytest.fixture
def make_front(tmp_path):
    made = []

    def make(*words: str, listen=True, environment=None) -> Front:
        folder = tmp_path / f"front{len(made)}"
        folder.mkdir()
        made.append(Front(folder, words, environment or {}))
        return made[-1].listen() if listen else made[-1]

    yield make
    for front in made:
        front.clean()


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """One front for the tests that leave it as it was."""
    front = (
        Front(tmp_path_factory.mktemp("front"), ("max_body_mb=0.1", "body_seconds=1"), {}).listen().ready()
    )
    yield front
    front.clean()
