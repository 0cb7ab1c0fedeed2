"""What an evaluation costs beside the passes that it needs, and whether its perplexity is llama.cpp's.

    python -m benchmarks.evaluate          # a quarter of an hour; node and npm for llama.cpp's perplexity
    python -m benchmarks.evaluate llama=no # without it

The default model, as int8 and as the pipeline. Both sides of a ratio run in turn in this process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import Row, _node, row, run
from benchmarks.serving import make_models
from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.text import shipped_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from slmflow.quality.candidates import Candidate
    from slmflow.quality.items import Items
    from slmflow.quality.windows import Window

WINDOWS, SIZE, REPEATS = 5, 512, 3


def timed(work: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def fidelity_cost(kind: str, uri: str, windows: list[Window], logs: np.ndarray[Any, Any]) -> list[Row]:
    """The measures of one candidate beside its bare passes; and the same twice."""
    from slmflow.quality.candidates import load
    from slmflow.quality.evaluation import DECODED, Reference, greedy_answers, measure_fidelity
    from slmflow.quality.journal import Journal

    candidate = load(kind, uri)
    window = windows[0]
    greedy = greedy_answers(candidate, windows)
    bare, whole, found = [], [], []

    def passes() -> None:
        for one in windows:
            candidate.logprobs(one.ids)
        candidate.decode_logprobs(window.ids[: window.scored.start + DECODED], window.scored.start)
        greedy_answers(candidate, windows)

    def measures() -> None:
        journal = Journal(f"benchmark-{kind}")
        found.append(measure_fidelity(candidate, windows, Reference(logs, greedy), journal)[0])
        journal.close()

    for _ in range(REPEATS):
        bare.append(timed(passes))
        whole.append(timed(measures))
    differing = sum(found[0][name] != again[name] for again in found[1:] for name in found[0])
    seconds, base = float(np.median(whole)), float(np.median(bare))
    return [
        row(f"{kind}: fidelity, peer: its passes", seconds, "s", base, at_most=1.2),
        row(f"{kind}: figures that differ between {REPEATS} evaluations", differing, "figures", at_most=0),
    ]


def tasks_cost(kind: str, uri: str) -> list[Row]:
    """Seconds for the shipped items, and rows that differ the second time."""
    from slmflow.quality.asking import measure_tasks
    from slmflow.quality.candidates import load
    from slmflow.quality.items import read_items

    candidate, items = load(kind, uri), read_items("shipped")
    rows, seconds = [], []
    for _ in range(2 if kind == "onnx" else 1):
        with tempfile.TemporaryDirectory() as name:
            began = time.perf_counter()
            rows.append(measure_tasks(candidate, items, Path(name) / "items.jsonl"))
            seconds.append(time.perf_counter() - began)
    made = [row(f"{kind}: {len(rows[0])} task items", seconds[0], "s"), choices_cost(kind, candidate, items)]
    if len(rows) > 1:
        differing = sum(a != b for a, b in zip(*rows, strict=True))
        made.append(row(f"{kind}: task rows that differ the second time", differing, "rows", at_most=0))
    return made


def choices_cost(kind: str, candidate: Candidate, items: Items) -> Row:
    """Multiple choice as it is asked, beside a pass over each prompt with each choice."""
    from slmflow.quality.asking import log_likelihoods

    asked = [
        (item.prompt, [f" {choice}" for choice in item.fields["choices"]])
        for item in items.rows
        if item.kind == "multiple_choice"
    ]
    texts = [candidate.encode(prompt + choice) for prompt, choices in asked for choice in choices]
    base = timed(lambda: [candidate.logprobs(ids) for ids in texts])
    seconds = timed(lambda: log_likelihoods(candidate, asked))
    return row(f"{kind}: {len(texts)} choices, peer: a pass over each", seconds, "s", base, at_most=0.67)


def reference_cost(huggingface: Path, windows: list[Window], place: Path) -> Row:
    """Keeping the reference beside computing it."""
    from slmflow.quality.reference import reference_logits, scored_logprobs

    def passes() -> None:
        for _ in reference_logits(huggingface, [window.ids for window in windows]):
            pass

    base = timed(passes)
    seconds = timed(lambda: scored_logprobs(huggingface, windows, place))
    return row("reference, peer: its passes", seconds, "s", base, at_most=1.2)


def llama_perplexity(folder: Path, windows: list[Window], ours: float) -> Row:
    """Perplexity of the default model's file, ours from its weights in fp32, theirs as llama.cpp computes."""
    _node.install(folder)
    request = {
        "model": str(next((folder / "source").rglob("*.gguf"))),
        "threads": physical_cores(),
        "windows": [{"ids": window.ids, "start": window.scored.start} for window in windows],
    }
    found = _node.ask("llama_logprobs", request, folder)["logprobs"]
    theirs = float(np.exp(-np.concatenate(found).mean()))
    print(f"perplexity: ours {ours:.4f}, llama.cpp's {theirs:.4f}", file=sys.stderr)
    return row("perplexity, distance to llama.cpp's", 100 * abs(ours / theirs - 1), "%", at_most=1)


def measure(words: dict[str, str]) -> list[Row]:
    """Everything, llama.cpp's perplexity where it is wanted and npm is there."""
    from slmflow.models.slm_runtime.tokenizer import TextTokenizer
    from slmflow.quality.windows import windows_of

    llama = words.get("llama") != "no" and _node.there()
    with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as name:
        folder = Path(name)
        uris = make_models(["int8_cpu"], folder)
        tokenizer = TextTokenizer(folder / "huggingface")
        windows = windows_of(tokenizer.encode(shipped_text()), SIZE, WINDOWS, tokenizer.encode(""))
        place = folder / "logprobs.npy"
        rows = [reference_cost(folder / "huggingface", windows, place)]
        logs = np.load(place, mmap_mode="r")
        targets = np.concatenate([window.targets for window in windows])
        ours = float(np.exp(-logs[np.arange(len(targets)), targets].astype(np.float64).mean()))
        if llama:
            rows.append(llama_perplexity(folder, windows, ours))
        for kind, uri in (("onnx", uris["int8_cpu"]), ("pipeline", uris["pipeline"])):
            rows += fidelity_cost(kind, uri, windows, logs)
            rows += tasks_cost(kind, uri)
    return rows


if __name__ == "__main__":
    run("evaluate", measure, ["llama"])
