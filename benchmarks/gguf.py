"""GGUF files as they are: size, fidelity and speed of each type and level.

    python -m benchmarks.gguf                  # every type, half an hour; node and npm for the peer
    python -m benchmarks.gguf types=Q4_1,Q4_K  # some of them, three minutes a type

The legacy types are made of the default model's own weights (its file is Q4_1); K-quants, whose blocks of 256
do not fit its rows of 576, are random valid blocks of a model of as many weights. Fidelity is against the
file's own weights in fp32, on 1,024 tokens of the project's text.

Beside our speeds stand those of node-llama-cpp on the same file, in turn, in a process of its own, with as
many threads as there are cores. They are not llama.cpp's own: see `benchmarks/_node.py`.
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
from slmflow.compose import compose
from slmflow.config import Level
from slmflow.errors import SlmflowError
from slmflow.files import size_under, write_json
from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.workflow.closure import ROOT

LEGACY = ("Q4_1", "Q4_0", "Q5_0", "Q5_1", "Q8_0", "F16")
K_QUANTS = ("Q4_K", "Q5_K", "Q6_K", "Q4_K_M")
"""The last is Q4_K with Q6_K for attention's values, the feed-forward's way down, and the embedding."""
WINDOW, WINDOWS, PROMPT, NEW, REPEATS = 256, 4, 64, 64, 5
KL_GOAL = {Level.exact: 1e-5, Level.precise: 1e-3, Level.fast: 1e-2}


def make_file(kind: str, path: Path, default: Path) -> None:
    """A file of one type: the default model's weights anew, or random K-quants."""
    from tests.gguf_maker import Sizes, write_gguf

    if kind in K_QUANTS:
        sizes = Sizes(1024, 2816, 16, 8, 64, 12, 2048)
        write_gguf(path, kinds=_k_m if kind == "Q4_K_M" else kind, sizes=sizes)
    elif kind == "Q4_1":
        os.link(default, path)
    else:
        _requantised(default, path, kind)


def _k_m(name: str) -> str:
    return "Q6_K" if any(part in name for part in ("attn_v", "ffn_down", "token_embd")) else "Q4_K"


def _requantised(source: Path, path: Path, kind: str) -> None:
    """The same model with its matrices in another type, its metadata as they are."""
    import gguf
    from gguf.quants import dequantize, quantize

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            types = field.types
            writer.add_key_value(field.name, field.contents(), types[0], sub_type=types[-1])
    wanted = gguf.GGMLQuantizationType[kind]
    for tensor in reader.tensors:
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, quantize(values, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def job(task: str, folder: Path) -> dict[str, Any]:
    """What a process of its own does: the Hugging Face folder with its reference, or one level."""
    from slmflow.models.slm_runtime.tokenizer import TextTokenizer
    from slmflow.quality.fidelity import kl_divergence, log_softmax, top1_agreement
    from slmflow.text import shipped_text

    if task == "reference":
        from slmflow.quality.reference import reference_logits
        from slmflow.sources.huggingface import make_huggingface

        make_huggingface(folder / "source", folder / "huggingface")
        ids = TextTokenizer(folder / "huggingface").encode(shipped_text())
        windows = [ids[i * WINDOW : (i + 1) * WINDOW] for i in range(WINDOWS)]
        found = [log_softmax(logits) for logits in reference_logits(folder / "huggingface", windows)]
        np.save(folder / "reference.npy", np.stack(found))
        write_json(folder / "windows.json", windows)
        return {}
    from slmflow.export import Codes, export_folder
    from slmflow.models.slm_runtime.generate import GenerateEngine

    onnx = folder / task
    if not onnx.is_dir():
        config = compose(export="gguf_cpu", overrides=f"export.level={task}").config.export
        began = time.perf_counter()
        export_folder(
            config, folder / "huggingface", onnx, folder / "scratch", Codes("gguf", folder / "source")
        )
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "export_memory": most_resident(), "size": size_under(onnx)}
    began = time.perf_counter()
    engine = GenerateEngine(onnx)
    load = time.perf_counter() - began
    windows, reference = json.loads((folder / "windows.json").read_text()), np.load(folder / "reference.npy")
    prefill, decode = [], []
    for _ in range(REPEATS + 1):
        began, times = time.perf_counter(), []
        cache = engine.open(PROMPT + NEW)
        logits = engine.prefill(cache, windows[0][:PROMPT])
        times.append(time.perf_counter())
        for _ in range(NEW - 1):
            logits = engine.decode([cache], [int(logits.argmax())])[0]
            times.append(time.perf_counter())
        engine.close(cache)
        prefill.append(PROMPT / (times[0] - began))
        decode.append((len(times) - 1) / (times[-1] - times[0]))
    candidate = [log_softmax(engine.score(window)) for window in windows]
    pairs = list(zip(reference, candidate, strict=True))
    return {
        "load": load,
        "prefill": statistics.median(prefill[1:]),
        "decode": statistics.median(decode[1:]),
        "kl": float(np.mean([kl_divergence(theirs, ours).mean() for theirs, ours in pairs])),
        "top1": float(np.mean([top1_agreement(theirs, ours).mean() for theirs, ours in pairs])),
        "memory": most_resident(),
    }


def most_resident() -> int:
    """Bytes that this process had at most; `ru_maxrss` would count what its parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def in_process(task: str, folder: Path) -> dict[str, Any]:
    """A job's answer, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gguf", "job", task, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def node_llama_cpp(node: Path, folder: Path) -> dict[str, float]:
    """node-llama-cpp's speeds on the same file."""
    windows = json.loads((folder / "windows.json").read_text())
    request = {
        "model": str(next((folder / "source").glob("*.gguf"))),
        "threads": physical_cores(),
        "prompt": windows[0][:PROMPT],
        "newTokens": NEW,
        "repeats": REPEATS,
    }
    found = _node.ask("llama_cpp", request, node)
    return {name: statistics.median(found[name]) for name in ("prefill", "decode")}


def measure_type(kind: str, folder: Path, node: Path | None, default: Path) -> list[Row]:
    """Every level of one type."""
    (folder / "source").mkdir(parents=True)
    path = folder / "source" / "model.gguf"
    make_file(kind, path, default)
    in_process("reference", folder)
    rows = []
    for level in Level:
        exported = in_process(level.value, folder)
        ours = in_process(level.value, folder)
        theirs = node_llama_cpp(node, folder) if node else {}
        name = f"{kind} {level.value}"
        rows += [
            row(f"{name}: folder", exported["size"] / 1e6, "MB", path.stat().st_size / 1e6, at_most=1.5),
            row(f"{name}: KL divergence", ours["kl"], "nats", at_most=KL_GOAL[level]),
            row(f"{name}: top-1 agreement", ours["top1"], ""),
            row(f"{name}: decode, peer: node-llama-cpp", ours["decode"], "tok/s", theirs.get("decode")),
            row(
                f"{name}: prefill of {PROMPT}, peer: node-llama-cpp",
                ours["prefill"],
                "tok/s",
                theirs.get("prefill"),
            ),
            row(f"{name}: load", ours["load"], "s"),
            row(f"{name}: memory served", ours["memory"] / 1e6, "MB"),
            row(f"{name}: export", exported["seconds"], "s"),
            row(f"{name}: memory of the export", exported["export_memory"] / 1e6, "MB"),
        ]
        print("\n".join(f"{it.name} {it.value:.4g} {it.peer or ''}" for it in rows[-9:]), file=sys.stderr)
    return rows


def measure(words: dict[str, str]) -> list[Row]:
    """The types that are named, all by default."""
    from slmflow.sources import take

    kinds = words["types"].split(",") if "types" in words else [*LEGACY, *K_QUANTS]
    if unknown := [kind for kind in kinds if kind not in (*LEGACY, *K_QUANTS)]:
        raise SlmflowError(f"types={','.join(unknown)}: choose among {', '.join((*LEGACY, *K_QUANTS))}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as name:
        scratch = Path(name)
        node = scratch if _node.there() else None
        if node:
            _node.install(node)
        taken = take(compose(model="smollm2_135m").config.model.source, scratch / "default")
        default = next(taken.folder.glob("*.gguf"))
        for kind in kinds:
            rows += measure_type(kind, scratch / kind, node, default)
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        print(json.dumps(job(sys.argv[2], Path(sys.argv[3]))))
    else:
        run("gguf", measure, ["types"])
