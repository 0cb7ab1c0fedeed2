"""What an export costs: seconds, memory, bytes; ours beside the stock builder and optimum, one after another.

    python -m benchmarks.export                        # 135 M, 1 B and 3.8 B parameters, an hour and a half
    python -m benchmarks.export sizes=135M             # the default model only, two to five minutes
    python -m benchmarks.export peer=/venv/bin/python  # beside the stock builder of another environment, too

Every export is a process of its own, watched from outside: the most anonymous memory (RssAnon) and the most
resident (VmHWM, which counts the mapped source) that it ever has, and the bytes that it writes. A peer that
passes 20 GB of anonymous memory, or takes twice our time, is stopped and reported so. 1 B and 3.8 B are
random weights in bf16, of Llama's and of Phi-3-mini's dimensions.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import Row, row, run
from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.export.genai import builder_options, described
from slmflow.files import digests_under, read_json, size_under, write_json
from slmflow.workflow.closure import ROOT

LIMIT = 20e9
"""Bytes of anonymous memory at which a peer is stopped, before the machine stops others."""
SHAPES: dict[str, dict[str, Any]] = {
    "1B": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
    },
    "3.8B": {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
    },
}
VARIANTS = {
    "135M": ("fp32_cpu", "int8_cpu", "int4_cpu", "int4_mixed_cpu"),
    "1B": ("int8_cpu", "int4_cpu", "int4_mixed_cpu"),
    "3.8B": ("int4_cpu", "int4_rtn_cpu", "int4_kquant_cpu", "int4_mixed_cpu"),
}


@dataclass(frozen=True)
class Cost:
    """One export, seen from outside."""

    seconds: float
    anonymous: float
    resident: float
    written: float
    size: float
    outcome: str
    """`done`, or why there is no folder."""


def watched(command: list[str], folder: Path, at_most: float = float("inf")) -> Cost:
    """Run an export, for `at_most` seconds, and note the most that its process ever had."""
    began, anonymous, resident, written = time.perf_counter(), 0, 0, 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(command, cwd=folder.parent, env=environment, stdout=log, stderr=log)
        outcome = "done"
        while child.poll() is None:
            with contextlib.suppress(OSError, KeyError, ValueError, IndexError):
                status = Path(f"/proc/{child.pid}/status").read_text()
                fields = dict(line.split(":", 1) for line in status.splitlines())
                anonymous = max(anonymous, int(fields["RssAnon"].split()[0]) * 1024)
                resident = max(resident, int(fields["VmHWM"].split()[0]) * 1024)
                io = dict(line.split(": ") for line in Path(f"/proc/{child.pid}/io").read_text().splitlines())
                written = max(written, int(io["wchar"]))
            if anonymous > LIMIT:
                child.kill()
                outcome = f"stopped at {LIMIT / 1e9:.0f} GB"
            elif time.perf_counter() - began > at_most:
                child.kill()
                outcome = f"stopped after {at_most:.0f} s"
            time.sleep(0.05)
        if child.returncode and outcome == "done":
            log.seek(0)
            outcome = (log.read().strip().splitlines() or ["no output"])[-1][:100]
    seconds = time.perf_counter() - began
    size = size_under(folder) if folder.is_dir() else 0
    return Cost(seconds, anonymous, resident, written, size, outcome)


def ours(export: str, source: Path, folder: Path) -> list[str]:
    """The command of an export by `slmflow.export`, the proofs apart."""
    return [sys.executable, "-m", "benchmarks.export", "job", export, str(source), str(folder)]


def stock(python: str, export: str, source: Path, folder: Path) -> list[str]:
    """The command of the same export by the builder of some environment."""
    config = compose(export=export).config.export
    options = [f"{k}={v}" for k, v in builder_options(config, described(source)).items()]  # type: ignore[arg-type]
    script = str(ROOT / "benchmarks" / "_stock_builder.py")
    return [python, script, str(source), str(folder), config.precision.value, *options]


def job(export: str, source: Path, folder: Path) -> None:
    """What `ours` runs."""
    from slmflow.export import export_folder

    with tempfile.TemporaryDirectory() as scratch:
        export_folder(compose(export=export).config.export, source, folder, Path(scratch))


def random_folder(name: str, folder: Path) -> Path:
    """A bf16 model of random weights in shards, made without holding it."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from slmflow.sources.random_model import config_of_4, save_tokenizer

    folder.mkdir()
    shape = dict(SHAPES[name])
    config = AutoConfig.for_model(
        shape.pop("model_type"),
        vocab_size=32_064,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=4,
        pad_token_id=0,
        **shape,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures, config.dtype = [type(model).__name__], "bfloat16"
    config.save_pretrained(folder)
    write_json(folder / "config.json", config_of_4(read_json(folder / "config.json")))  # for optimum too
    generator = torch.Generator().manual_seed(0)
    for number, (key, parameter) in enumerate(model.state_dict().items()):
        values = torch.ones(parameter.shape, dtype=torch.bfloat16)
        if parameter.dim() > 1:
            values.normal_(0, 0.02, generator=generator)
        save_file({key: values}, folder / f"{number:05d}.safetensors", metadata={"format": "pt"})
    index = {key: f"{number:05d}.safetensors" for number, key in enumerate(model.state_dict())}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    save_tokenizer(folder, 4096)
    return folder


def default_model(folder: Path) -> Path:
    """SmolLM2-135M as `fetch` makes it."""
    from slmflow.sources import take
    from slmflow.sources.huggingface import make_huggingface

    folder.mkdir()
    taken = take(compose(model="smollm2_135m").config.model.source, folder)
    make_huggingface(taken.folder, folder / "huggingface")
    return folder / "huggingface"


def measure_size(size: str, scratch: Path, peers: dict[str, str]) -> list[Row]:
    """Every variant of one model, ours and each peer in turn."""
    source = default_model(scratch / size) if size == "135M" else random_folder(size, scratch / size)
    rows = []
    for export in VARIANTS[size]:
        folder = scratch / "onnx"
        mine = watched(ours(export, source, folder), folder)
        assert mine.outcome == "done", mine.outcome
        digests = _take(folder)
        for name, python in peers.items():
            theirs = watched(stock(python, export, source, folder), folder, 2 * mine.seconds + 60)
            same = theirs.outcome == "done" and _take(folder) == digests
            shutil.rmtree(folder, ignore_errors=True)
            rows += compared(f"{size} {export}", mine, f"{name}, {_outcome(theirs, same)}", theirs)
    if size != "3.8B":
        mine = watched(ours("fp32_cpu", source, folder), folder)
        _take(folder)
        theirs = watched(ours("optimum_fp32", source, folder), folder)
        _take(folder)
        rows += compared(f"{size} fp32_cpu", mine, f"optimum, {theirs.outcome}", theirs)
    return rows


def _take(folder: Path) -> dict[str, str]:
    """The digests of the graph and its weights; the folder is removed."""
    digests = {name: sha for name, sha in digests_under(folder).items() if name.startswith("model.onnx")}
    shutil.rmtree(folder)
    return digests


def _outcome(cost: Cost, same: bool) -> str:
    return cost.outcome if cost.outcome != "done" else "same bytes" if same else "other bytes"


def compared(what: str, mine: Cost, peer: str, theirs: Cost) -> list[Row]:
    """Ours against one peer; a peer without a folder is no peer in time or bytes."""
    large = what.startswith("3.8B")
    done = theirs.outcome == "done"
    name = f"{what} / {peer}"
    return [
        row(
            f"{name}: seconds",
            mine.seconds,
            "s",
            theirs.seconds if done else None,
            1.0 if done and large else None,
        ),
        Row(
            f"{name}: anonymous memory",
            mine.anonymous / 1e9,
            "GB",
            theirs.anonymous / 1e9,
            mine.anonymous / theirs.anonymous,
            "<= 2.5 GB" if large else None,
            not large or mine.anonymous <= 2.5e9,
        ),
        Row(
            f"{name}: resident memory",
            mine.resident / 1e9,
            "GB",
            theirs.resident / 1e9,
            mine.resident / theirs.resident,
            "<= 6 GB" if large else None,
            not large or mine.resident <= 6e9,
        ),
        row(f"{name}: written", mine.written / 1e6, "MB", theirs.written / 1e6 if done else None),
        row(f"{name}: folder", mine.size / 1e6, "MB", theirs.size / 1e6 if done else None),
    ]


def measure(words: dict[str, str]) -> list[Row]:
    """The sizes that are named, all by default."""
    sizes = words.get("sizes", ",".join(VARIANTS)).split(",")
    if unknown := [size for size in sizes if size not in VARIANTS]:
        raise SlmflowError(f"sizes={','.join(unknown)}: choose among {', '.join(VARIANTS)}")
    peers = {"stock builder": sys.executable}
    if "peer" in words:
        peers["newer builder"] = words["peer"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as scratch:
        for size in sizes:
            rows += measure_size(size, Path(scratch), peers)
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        job(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        run("export", measure, ["sizes", "peer"])
