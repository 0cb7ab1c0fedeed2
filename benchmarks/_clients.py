"""Clients of the server under measurement, in threads: plain HTTP, streams read as they come."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slmflow.workflow.closure import ROOT

SETTLE = 3.0
"""Seconds after which random clients are out of step with each other."""


class Server:
    """`python -m slmflow.serving` on a free port, for the length of a `with` block."""

    def __init__(self, uri: str, engine: str, folder: Path) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }
        command = [sys.executable, "-m", "slmflow.serving", f"model_uri={uri}", "port=0", f"engine={engine}"]
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found.group(1))
                break
        else:
            raise RuntimeError("the server ended before it listened")
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    def __enter__(self) -> Server:
        """Wait until a model is ready."""
        deadline = time.monotonic() + 120
        while self.get("/health") != 200:
            if time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError("the server is not ready after 120 s")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def connection(self) -> http.client.HTTPConnection:
        """One of its own for each request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def get(self, path: str) -> int:
        """The status of a GET."""
        connection = self.connection()
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer; raises RuntimeError for an error."""
        connection = self.connection()
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        said = json.loads(response.read())
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {said}")
        return dict(said)


@dataclass
class Times:
    """When the tokens of one stream came, on the monotonic clock."""

    began: float
    tokens: list[float] = field(default_factory=list)
    text: str = ""

    @property
    def first_token(self) -> float:
        """Seconds to the first."""
        return self.tokens[0] - self.began

    @property
    def gaps(self) -> list[float]:
        """Seconds between neighbours."""
        return [float(gap) for gap in np.diff(self.tokens)]


def chat(server: Server, body: dict[str, Any]) -> Times:
    """Stream one answer."""
    connection = server.connection()
    times = Times(time.perf_counter())
    connection.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": True}))
    response = connection.getresponse()
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        said = json.loads(line[6:])
        if "error" in said:
            raise RuntimeError(said["error"])
        if said["choices"] and said["choices"][0]["delta"].get("content"):
            times.tokens.append(time.perf_counter())
            times.text += said["choices"][0]["delta"]["content"]
    connection.close()
    return times


@dataclass(frozen=True)
class Load:
    """What several clients saw together."""

    speed: float
    """Tokens a second of all of them."""
    inter_token_p95: float
    """Seconds."""


def random_clients(server: Server, clients: int, words: list[str], seconds: float, new: int) -> Load:
    """Clients that ask one after the other, with short pauses, prompts of up to about 100 words.

    What is counted is the time between `SETTLE` and the end: how they start and stop is not.
    """
    seen: list[Times] = []
    began = time.perf_counter()
    end = began + SETTLE + seconds

    def work(number: int) -> None:
        chance = random.Random(number)  # noqa: S311  (pauses, not secrets)
        while time.perf_counter() < end:
            if clients > 1:
                time.sleep(chance.uniform(0, 0.3))
            start, count = chance.randrange(len(words) - 100), chance.randrange(8, 80)
            text = "Go on with this story: " + " ".join(words[start : start + count])
            body = {"messages": [{"role": "user", "content": text}], "max_tokens": new, "ignore_eos": True}
            seen.append(chat(server, body))

    in_threads(work, clients)
    counted = [token for times in seen for token in times.tokens if began + SETTLE <= token <= end]
    gaps = [gap for times in seen for gap in times.gaps]
    return Load(len(counted) / seconds, float(np.quantile(gaps, 0.95)))


def inter_token(server: Server, clients: int, new: int) -> list[float]:
    """Seconds between tokens once all clients have their first, until the first of them ends."""
    seen: list[Times] = [Times(0.0)] * clients

    def work(number: int) -> None:
        text = f"Write a long story about {number + 2} ferries in the fog."
        seen[number] = chat(server, {"messages": [{"role": "user", "content": text}], "max_tokens": new})

    in_threads(work, clients)
    start, end = max(times.tokens[0] for times in seen), min(times.tokens[-1] for times in seen)
    return [
        later - earlier
        for times in seen
        for earlier, later in zip(times.tokens, times.tokens[1:], strict=False)
        if earlier >= start and later <= end
    ]


def timed_health(server: Server, body: dict[str, Any]) -> list[float]:
    """Seconds of each `/health` while a request runs."""
    asked = threading.Thread(target=server.post, args=("/v1/chat/completions", body))
    asked.start()
    seconds = []
    while asked.is_alive():
        began = time.perf_counter()
        server.get("/health")
        seconds.append(time.perf_counter() - began)
        time.sleep(0.01)
    return seconds


def in_threads(work: Any, count: int) -> None:
    """Run `work(number)` that many times at once."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
