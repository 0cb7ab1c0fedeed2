"""The packaged models as they are served: speed of one and of many, waiting, memory, and what they need.

    python -m benchmarks.serving                  # nine to fifteen minutes; node and npm for a peer
    python -m benchmarks.serving exports=int8_cpu # one of them, four to seven minutes; llama=no: no peer

The default model. Everything runs with as many threads as there are physical cores, through the server that
`python -m slmflow.serving` starts; the bare loop of the same engine runs in turn with it, in this process.
The clients share the machine with the server. node-llama-cpp's speed is not llama.cpp's own: see
`benchmarks/_node.py`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Row, _node, row, run
from benchmarks._clients import Server, chat, inter_token, random_clients, timed_health
from benchmarks.gguf import most_resident
from slmflow.compose import compose
from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.text import shipped_text
from slmflow.workflow.closure import ROOT

EXPORTS = ("int8_cpu", "int4_cpu", "gguf_cpu")
ENGINES = ("generate", "continuous")
NEW, REPEATS, CLIENTS, LONG = 128, 5, 8, 1000
SECONDS = 12.0
QUIET = 0.1
"""Seconds after which onnxruntime's threads in one process no longer spin, before another is measured."""
QUESTION = [{"role": "user", "content": "Write a long story about a ferry in the fog."}]


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def make_models(exports: list[str], folder: Path) -> dict[str, str]:
    """Export and log every variant and the pipeline; URIs by name."""
    import mlflow

    from slmflow.export import Codes, export_folder
    from slmflow.packaging.onnx_model import log_onnx_model
    from slmflow.packaging.pipeline_model import log_pipeline_model
    from slmflow.sources import take
    from slmflow.sources.huggingface import make_huggingface

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("serving", artifact_location=f"{folder}/mlruns")
    mlflow.set_experiment("serving")
    taken = take(compose(model="smollm2_135m").config.model.source, folder / "source")
    make_huggingface(taken.folder, folder / "huggingface")
    uris = {}
    for export in exports:
        config = compose(model="smollm2_135m", export=export, overrides="package.tracing=false").config
        codes = Codes("gguf", taken.folder) if export.startswith("gguf") else None
        onnx, scratch = folder / export, folder / f"scratch-{export}"
        export_folder(config.export, folder / "huggingface", onnx, scratch, codes)
        with mlflow.start_run():
            uris[export] = log_onnx_model(onnx, "smollm2-135m", config.package, scratch, {}, engines=ENGINES)
    (folder / "scratch-pipeline").mkdir()
    with mlflow.start_run():
        uris["pipeline"] = log_pipeline_model(
            folder / "huggingface", "smollm2-135m", folder / "scratch-pipeline", {}
        )
    return {name: f"models:/{model_id}" for name, model_id in uris.items()}


def job(uri: str, kind: str) -> dict[str, float]:
    """In a process of its own: from nothing to the first token, the speed after it, and memory."""
    from slmflow.quality.candidates import load

    began = time.perf_counter()
    candidate = load(kind, uri)
    ids = candidate.encode(shipped_text())[:64]
    candidate.token_times(ids, 1)
    first = time.perf_counter() - began
    speeds = []
    for _ in range(3):
        times = candidate.token_times(ids, 64)
        speeds.append(63 / (times[-1] - times[0]))
    return {"first": first, "decode": median(speeds), "memory": most_resident()}


def in_process(uri: str, kind: str, folder: Path) -> dict[str, float]:
    """A job's answer."""
    command = [sys.executable, "-m", "benchmarks.serving", "job", uri, kind]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def bare_loop(engine: Any, ids: list[int], new: int) -> None:
    """Nothing but the engine: read the prompt, then the most probable token `new` times."""
    cache = engine.open(len(ids) + new)
    logits = engine.prefill(cache, ids)
    for _ in range(new - 1):
        logits = engine.decode([cache], [int(logits.argmax())])[0]
    engine.close(cache)


def one_client(export: str, uri: str, engine: str, server: Server) -> tuple[list[Row], float]:
    """The bare loop, `predict`, and HTTP, in turn; and the tokens/s of HTTP."""
    import mlflow

    model = mlflow.pyfunc.load_model(uri, model_config={"engine": engine})
    runtime = model.unwrap_python_model().runtime
    body = {"messages": QUESTION, "max_tokens": NEW}
    ids = runtime.tokenizer.encode_chat(QUESTION)
    bare, predict, http, streamed = [], [], [], []
    for _ in range(REPEATS + 1):
        # Reading the prompt anew each time is what the bare loop does too.
        fresh = {**body, "deterministic": True}
        time.sleep(QUIET)
        began = time.perf_counter()
        tokens = model.predict(fresh)[0]["usage"]["completion_tokens"]
        predict.append(tokens / (time.perf_counter() - began))
        began = time.perf_counter()
        runtime.scheduler.call(lambda one, count=tokens: bare_loop(one, ids, count))
        bare.append(tokens / (time.perf_counter() - began))
        time.sleep(QUIET)
        began = time.perf_counter()
        tokens = server.post("/v1/chat/completions", fresh)["usage"]["completion_tokens"]
        http.append(tokens / (time.perf_counter() - began))
        times = chat(server, fresh)
        streamed.append((len(times.tokens)) / (times.tokens[-1] - times.began))
    runtime.close()
    name = f"{export} {engine}"
    base = median(bare[1:])
    return [
        row(f"{name}: bare loop", base, "tok/s"),
        row(f"{name}: predict", median(predict[1:]), "tok/s", base, at_least=0.95),
        row(f"{name}: HTTP", median(http[1:]), "tok/s", base, at_least=0.90),
        row(f"{name}: HTTP streamed", median(streamed[1:]), "tok/s", base, at_least=0.90),
    ], base


def many_clients(name: str, server: Server) -> list[Row]:
    """Eight that come and go, beside one."""
    words = shipped_text().split()
    alone = random_clients(server, 1, words, SECONDS, NEW)
    together = random_clients(server, CLIENTS, words, SECONDS, NEW)
    gaps, gaps_alone = inter_token(server, CLIENTS, NEW), inter_token(server, 1, NEW)
    steady, single = (float(np.quantile(found, 0.95)) for found in (gaps, gaps_alone))
    return [
        row(
            f"{name}: {CLIENTS} clients, decoding alone",
            CLIENTS / float(np.mean(gaps)),
            "tok/s",
            1 / float(np.mean(gaps_alone)),
        ),
        row(f"{name}: {CLIENTS} clients", together.speed, "tok/s", alone.speed, at_least=2.5),
        row(f"{name}: inter-token p95, {CLIENTS} clients", steady * 1e3, "ms", single * 1e3, at_most=3),
        row(
            f"{name}: inter-token p95, prompts between",
            together.inter_token_p95 * 1e3,
            "ms",
            single * 1e3,
            at_most=8,
        ),
    ]


def long_prompts(name: str, server: Server, context: str) -> list[Row]:
    """`/health` while a long prompt is read, and the second turn after it."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": context}], "max_tokens": 8}
    health = timed_health(server, {**body, "deterministic": True})
    first = chat(server, body)
    said = {"role": "assistant", "content": first.text}
    turn = [*body["messages"], said, {"role": "user", "content": "And then?"}]
    second = chat(server, {**body, "messages": turn})
    p99 = float(np.quantile(health, 0.99)) * 1e3
    return [
        row(f"{name}: /health p99 during {LONG} tokens", p99, "ms", at_most=50),
        row(
            f"{name}: TTFT of a first turn, peer: of the second",
            first.first_token * 1e3,
            "ms",
            second.first_token * 1e3,
            at_least=5,
        ),
    ]


def flips(export: str, uri: str) -> list[Row]:
    """How often batching changes a greedy answer: the share of tokens at which one parts from its twin."""
    import threading

    import mlflow

    runtime = (
        mlflow.pyfunc.load_model(uri, model_config={"engine": "continuous"}).unwrap_python_model().runtime
    )
    sentences = [one for one in shipped_text().split(". ") if len(one) > 40][:48]
    answers: list[dict[bool, str]] = [{} for _ in sentences]

    def ask(at: int, deterministic: bool) -> None:
        body = {"prompt": sentences[at], "max_tokens": 48, "deterministic": deterministic}
        answers[at][deterministic] = runtime.answer(runtime.read(body)).whole()

    for deterministic in (True, False):
        threads = [threading.Thread(target=ask, args=(at, deterministic)) for at in range(len(sentences))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    parted = compared = 0
    for both in answers:
        one, other = (runtime.tokenizer.encode(both[kind]) for kind in (True, False))
        same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        parted += same is not None
        compared += len(one) if same is None else same + 1
    runtime.close()
    return [
        row(f"{export} continuous: greedy tokens that flip in a batch", 100 * parted / compared, "%"),
        row(f"{export} continuous: answers of 48 tokens that part", 100 * parted / len(answers), "%"),
    ]


def bandwidth() -> float:
    """Bytes a second that all cores read from memory together."""
    from concurrent.futures import ThreadPoolExecutor

    arrays = [np.ones(1 << 26, dtype=np.float32) for _ in range(physical_cores())]
    best = 0.0
    with ThreadPoolExecutor(len(arrays)) as pool:
        for _ in range(5):
            began = time.perf_counter()
            list(pool.map(np.max, arrays))
            best = max(best, sum(array.nbytes for array in arrays) / (time.perf_counter() - began))
    return best


def installed_bytes(requirements: list[str]) -> float:
    """Bytes of these distributions here, with all that they need."""
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    seen: dict[str, int] = {}
    wanted = list(requirements)
    while wanted:
        requirement = Requirement(wanted.pop())
        name = requirement.name.lower().replace("_", "-")
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        seen[name] = sum(file.size or 0 for file in found.files or [])
        wanted += found.requires or []
    return float(sum(seen.values()))


def node_llama_cpp(folder: Path) -> float:
    """node-llama-cpp's tokens/s on the default model's own file."""
    from slmflow.models.slm_runtime.tokenizer import TextTokenizer

    _node.install(folder)
    request = {
        "model": str(next((folder / "source").rglob("*.gguf"))),
        "threads": physical_cores(),
        "prompt": TextTokenizer(folder / "huggingface").encode_chat(QUESTION),
        "newTokens": NEW,
        "repeats": REPEATS,
    }
    return median(_node.ask("llama_cpp", request, folder)["decode"])


def measure(words: dict[str, str]) -> list[Row]:
    """The exports that are named, all by default."""
    from slmflow.models.slm_runtime.tokenizer import TextTokenizer
    from slmflow.packaging import pinned
    from slmflow.packaging.onnx_model import requirements
    from slmflow.packaging.pipeline_model import REQUIREMENTS

    exports = words["exports"].split(",") if "exports" in words else list(EXPORTS)
    beside = words.get("llama") != "no" and _node.there()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as name:
        folder = Path(name)
        uris = make_models(exports, folder)
        tokenizer = TextTokenizer(folder / "huggingface")
        context = tokenizer.decode(tokenizer.encode(shipped_text() * 4)[:LONG])
        pipeline = in_process(uris["pipeline"], "pipeline", folder)
        llama = node_llama_cpp(folder) if beside else None
        speed = bandwidth()
        for export in exports:
            loaded = in_process(uris[export], "onnx", folder)
            weights = sum(path.stat().st_size for path in (folder / export).glob("*.data"))
            for engine in ENGINES:
                label = f"{export} {engine}"
                with Server(uris[export], engine, folder) as server:
                    found, base = one_client(export, uris[export], engine, server)
                    rows += found
                    rows.append(row(f"{label}: peer: memory's limit", base, "tok/s", speed / weights))
                    if export != "gguf_cpu" or engine == "continuous":
                        rows += many_clients(label, server)
                    rows += long_prompts(label, server, context)
                print(
                    "\n".join(f"{one.name} {one.value:.4g} {one.ratio}" for one in rows[-10:]),
                    file=sys.stderr,
                )
            goal = {"int8_cpu": 3.0}.get(export)
            rows.append(
                row(
                    f"{export}: decode beside transformers",
                    loaded["decode"],
                    "tok/s",
                    pipeline["decode"],
                    at_least=goal,
                )
            )
            if llama is not None:
                rows.append(row(f"{export}: decode beside node-llama-cpp", loaded["decode"], "tok/s", llama))
            rows += [
                row(f"{export}: load to first token", loaded["first"], "s", pipeline["first"]),
                row(f"{export}: memory", loaded["memory"] / 1e6, "MB", pipeline["memory"] / 1e6),
            ]
            rows += flips(export, uris[export])
    onnx, torch = installed_bytes(requirements("cpu")), installed_bytes(pinned(*REQUIREMENTS))
    rows.append(row("installed, peer: the pipeline's", onnx / 1e6, "MB", torch / 1e6))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        print(json.dumps(job(sys.argv[2], sys.argv[3])))
    else:
        run("serving", measure, ["exports", "llama"])
