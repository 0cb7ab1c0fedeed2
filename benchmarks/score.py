"""Rows a second of `-e score`: beside row-by-row `predict`, on Spark, and with more processes.

    python -m benchmarks.score               # two minutes; twelve without VNNI
    python -m benchmarks.score spark=no      # without Java

The default model as int8, short prompts, 32 new tokens a row; Spark's own cost by a tiny model. Both sides of
a ratio run in turn in this session; loading is left out where it says so.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Row, row, run
from benchmarks.serving import make_models
from slmflow.compose import compose
from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.scoring import embedded
from slmflow.scoring.recipe import Recipe
from slmflow.scoring.table import Table
from slmflow.scoring.work import Work

NEW_TOKENS, ROWS, ALONE, REPEATS = 32, 128, 16, 3
TINY_ROWS = 4000
MACHINES = 100
WORDS = "Name a colour of the sky and say why the sea often has it too"


def prompts(count: int) -> list[str]:
    """Of six to twelve words."""
    words, dice = WORDS.split(), np.random.default_rng(1)
    return [" ".join(dice.choice(words, size=dice.integers(6, 13))) for _ in range(count)]


def row_by_row(texts: list[str]) -> int:
    """In a model's process: a call of `predict` a row, as a loop in a notebook does."""
    import pandas as pd

    for text in texts:
        embedded._model.predict(pd.DataFrame([{"prompt": text, "max_tokens": NEW_TOKENS}]))
    return len(texts)


def requests(texts: list[str]) -> list[str]:
    """As the embedded engine asks them."""
    recipe = Recipe("prompt", fields={"max_tokens": NEW_TOKENS})
    return [recipe.request_of({"prompt": text}) for text in texts]


def beside_predict(uri: str) -> list[Row]:
    """The same loaded model, asked both ways in turn."""
    context = multiprocessing.get_context("spawn")
    batched, alone = [], []
    texts = prompts(ROWS)
    with ProcessPoolExecutor(1, context, embedded.load, (uri, physical_cores())) as pool:
        pool.submit(embedded.ask, requests(texts[:8])).result()  # the first call allocates
        for _ in range(REPEATS):
            began = time.perf_counter()
            pool.submit(embedded.ask, requests(texts)).result()
            batched.append(ROWS / (time.perf_counter() - began))
            began = time.perf_counter()
            pool.submit(row_by_row, texts[:ALONE]).result()
            alone.append(ALONE / (time.perf_counter() - began))
    rate, base = float(np.median(batched)), float(np.median(alone))
    return [row("embedded, peer: row-by-row predict, both loaded", rate, "rows/s", base, at_least=3.0)]


def begun(folder: Path, count: int, tokens: int, rows: int) -> Work:
    """A scoring whose requests are made."""
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts(count)))
    work = Work(folder / "out.jsonl")
    table = Table(source)
    work.folder.mkdir()
    work.begin(table.rows(), Recipe("prompt", fields={"max_tokens": tokens}), "", rows, 1, {})
    return work


def seconds(work: Work, engine: Any) -> float:
    """Of answering everything, loading included."""
    began = time.perf_counter()
    for _ in engine:
        pass
    spent = time.perf_counter() - began
    work.close()
    return spent


def growth(uri: str, folder: Path) -> list[Row]:
    """Two processes of a thread beside one of two, loading included."""
    rates = {}
    for processes in (1, 2):
        work = begun(folder, 2 * ROWS, NEW_TOKENS, 64)
        rates[processes] = 2 * ROWS / seconds(work, embedded.score(work, uri, processes))
    return [row("two processes, peer: one, the same cores", rates[2], "rows/s", rates[1])]


def spark_cost(folder: Path) -> list[Row]:
    """A tiny model, so that what is left is Spark's: start, and time a row."""
    import mlflow

    from slmflow.export import export_folder
    from slmflow.packaging.onnx_model import log_onnx_model
    from slmflow.scoring import spark
    from slmflow.sources import take

    config = compose(model="tiny_phi3", export="fp32_cpu").config
    taken = take(config.model.source, folder / "tiny")
    export_folder(config.export, taken.folder, folder / "tiny-onnx", folder / "tiny-scratch", None)
    with mlflow.start_run():
        uri = (
            f"models:/{log_onnx_model(folder / 'tiny-onnx', 'tiny', config.package, folder / 'tiny-log', {})}"
        )
    settings = compose(overrides="score.engine=spark \"score.master='local[1]'\"").config.score
    spent: dict[str, list[float]] = {"embedded": [], "spark": []}
    for count in (1, TINY_ROWS):
        work = begun(folder, count, 1, 500)
        spent["embedded"].append(seconds(work, embedded.score(work, uri, 1)))
        work = begun(folder, count, 1, 500)
        spent["spark"].append(seconds(work, spark.score(work, uri, settings)))
    each = {name: 1000 * (last - first) / (TINY_ROWS - 1) for name, (first, last) in spent.items()}
    return [
        row("Spark, one row: start and load, peer: embedded", spent["spark"][0], "s", spent["embedded"][0]),
        row("Spark, each further row (tiny model), peer: embedded", each["spark"], "ms", each["embedded"]),
    ]


def model_of_machines(rows: list[Row]) -> list[Row]:
    """A model and no measurement: machines like this one, each at the embedded rate, Spark's costs added."""
    found = {one.name: one for one in rows}
    rate = found["embedded, peer: row-by-row predict, both loaded"].value
    start = found["Spark, one row: start and load, peer: embedded"].value
    more = found["Spark, each further row (tiny model), peer: embedded"]
    each = 1 / rate + max(0.0, more.value - (more.peer or 0.0)) / 1000
    table = 1_000_000
    hours = (start + table * each / MACHINES) / 3600
    return [row(f"MODEL: a million rows on {MACHINES} machines, peer: one", hours, "h", table / rate / 3600)]


def measure(words: dict[str, str]) -> list[Row]:
    """Everything, or without Spark."""
    with tempfile.TemporaryDirectory(prefix="slmflow-bench-") as scratch:
        folder = Path(scratch)
        uri = make_models(["int8_cpu"], folder)["int8_cpu"]
        rows = beside_predict(uri)
        rows += growth(uri, folder)
        if words.get("spark") != "no":
            rows += spark_cost(folder)
            rows += model_of_machines(rows)
    return rows


if __name__ == "__main__":
    run("score", measure, ["spark"])
