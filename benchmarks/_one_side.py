"""A packaged model's speed and memory in a process of its own, for `benchmarks.upgrade`.

    <python> benchmarks/_one_side.py onnx|pipeline FOLDER

Prints one JSON object. Run in either side's environment, it imports nothing of the project, whose code is
another on the other side.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

PROMPT, NEW, REPEATS = 256, 64, 3


def fastest(work: Any) -> float:
    """Seconds of the fastest of some repeats, after one that warms up."""
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def onnx(folder: str) -> tuple[Any, Any]:
    """To read a prompt, and to read one token and go on with NEW."""
    import mlflow

    engine = mlflow.pyfunc.load_model(folder).unwrap_python_model().runtime.engine
    ids = list(range(10, 10 + PROMPT))  # words that the tiny model has too

    def read() -> None:
        cache = engine.open(PROMPT + NEW)
        engine.prefill(cache, ids)
        engine.close(cache)

    def decode() -> None:
        cache = engine.open(PROMPT + NEW)
        token = int(engine.prefill(cache, ids[:1]).argmax())
        for _ in range(NEW):
            token = int(engine.decode([cache], [token])[0].argmax())
        engine.close(cache)

    return read, decode


def pipeline(folder: str) -> tuple[Any, Any]:
    """The same of the transformers pipeline."""
    import mlflow
    import torch

    model = mlflow.transformers.load_model(folder).model
    ids = torch.arange(10, 10 + PROMPT)[None]

    def read() -> None:
        with torch.inference_mode():
            model(ids)

    def decode() -> None:
        with torch.inference_mode():
            said = model(ids[:, :1], use_cache=True)
            for _ in range(NEW):
                token = said.logits[:, -1:].argmax(-1)
                said = model(token, past_key_values=said.past_key_values, use_cache=True)

    return read, decode


if __name__ == "__main__":
    began = time.perf_counter()
    read, decode = {"onnx": onnx, "pipeline": pipeline}[sys.argv[1]](sys.argv[2])
    loaded = time.perf_counter() - began
    figures = {
        "load": loaded,
        "prompt": PROMPT / fastest(read),
        "decode": (NEW + 1) / fastest(decode),
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(figures))
