r"""Answer every row of a table with a registered model: text, finish_reason, tokens, or the row's error.

    mlflow run . -e score --env-manager local -P input=questions.jsonl -P output=answers.parquet \
        -P model_uri=models:/smollm2-135m-onnx@champion

Tiny, offline, after `mlflow run . -P model=tiny_phi3`:

    echo '{"prompt": "Once upon a time"}' > /tmp/in.jsonl
    mlflow run . -e score --env-manager local -P model_uri=models:/tiny-phi3-onnx@champion \
        -P input=/tmp/in.jsonl -P output=/tmp/out.jsonl

Settings are `score.*` in overrides. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, exit_status
from slmflow.workflow.shell import parse_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slmflow.config import Config
    from slmflow.scoring.table import Table
    from slmflow.scoring.work import Work
    from slmflow.serving.follow import Target

PARAMETERS = ("model_uri", "input", "output", "overrides")


def run(argv: list[str]) -> int:
    """Score, and log the totals. Raises SlmflowError for what cannot be, before a model is loaded."""
    from slmflow.compose import compose
    from slmflow.scoring.recipe import recipe_of
    from slmflow.scoring.table import output_kind
    from slmflow.scoring.work import Work
    from slmflow.serving.follow import ModelUri
    from slmflow.workflow.command import command_run

    words = parse_words("score", argv, PARAMETERS)
    for name in ("input", "output"):
        if not words.get(name):
            raise SlmflowError(f"{name} is not given: -P input=<a table> -P output=<a file>")
    config = compose(overrides=words.get("overrides", "")).config
    recipe = recipe_of(config.score)
    output = Path(words["output"]).expanduser().absolute()
    output_kind(output)
    if output.exists():
        raise SlmflowError(f"output={output}: is there already; give another, or delete it")
    target = ModelUri(words.get("model_uri") or f"models:/{config.model.name}-onnx@champion").resolve()
    work = Work(output)
    table = _table(words["input"], config, work)
    names = table.columns()
    missing = [name for name in recipe.columns if name not in names]
    if missing:
        raise SlmflowError(
            f"input={table.path}: has no column {missing[0]}; it has {', '.join(names[:12])}: name one by "
            "score.prompt, score.messages or score.template"
        )
    _refuse_collisions(names, config.score.prefix)
    _refuse_other_models(target)
    with command_run("score"):
        key = {
            "input": table.digest(),
            "model": target.uri,
            "request": repr(recipe),
            "rows": config.score.rows,
        }
        if work.begin(table, recipe, config.score.rows, key):
            print(f"  goes on: {len(work.pending())} of {len(work.parts())} partitions are left", flush=True)
        began, asked = time.monotonic(), _answer(work, target, config)
        totals = _write(output, table, work, config.score.prefix)
        totals["seconds"] = time.monotonic() - began
        totals["rows_per_second"] = asked / totals["seconds"]
        _log(table, output, target, totals)
        work.close()
        shutil.rmtree(_snapshot(work), ignore_errors=True)
    print(
        f"  {totals['rows']:,.0f} rows to {output}, {totals['errors']:,.0f} of them errors; "
        f"{totals['rows_per_second']:.1f} rows/s"
    )
    return 0


def _table(name: str, config: Config, work: Work) -> Table:
    from slmflow.config.score import Engine
    from slmflow.scoring.table import Table

    if name.startswith(("table:", "delta:")):
        if config.score.engine is not Engine.spark:
            raise SlmflowError(f"input={name}: is Spark's to read: add score.engine=spark")
        from slmflow.scoring.spark import snapshot

        return Table(snapshot(name, config.score, _snapshot(work)))
    return Table(Path(name).expanduser().absolute())


def _snapshot(work: Work) -> Path:
    return work.folder.with_suffix(".input")


def _refuse_collisions(names: list[str], prefix: str) -> None:
    from slmflow.scoring.work import REPORT

    taken = [f"{prefix}{name}" for name in REPORT if f"{prefix}{name}" in names]
    if taken:
        raise SlmflowError(f"the input has a column {taken[0]} of its own: add score.prefix=answer_")


def _refuse_other_models(target: Target) -> None:
    """Raise SlmflowError for a model that cannot report on rows: a pipeline, or one packaged before."""
    from mlflow.models import get_model_info

    info = get_model_info(target.uri)
    params = info.signature.params if info.signature else None
    if params is None or "requests" not in [one.name for one in params.params]:
        raise SlmflowError(
            f"model_uri={target.uri}: reports on no rows; score takes an ONNX model packaged by this version"
        )


def _answer(work: Work, target: Target, config: Config) -> int:
    """Answer what is pending, with a bar; returns how many rows."""
    from tqdm import tqdm

    from slmflow.config.score import Engine

    pending = work.pending()
    left = sum(len(work.read_requests(part)) for part in pending)
    if not left:
        return 0
    with tqdm(total=work.rows, initial=work.rows - left, unit="row", desc="score") as bar:
        for rows in _engine(work, target, config, Engine.spark):
            bar.update(rows)
    return left


def _engine(work: Work, target: Target, config: Config, spark: Any) -> Iterator[int]:
    if config.score.engine is spark:
        from slmflow.scoring.spark import score as by_spark

        return by_spark(work, target.uri, config.score)
    from slmflow.scoring.embedded import score

    return score(work, target.uri, config.score.processes)


def _write(output: Path, table: Table, work: Work, prefix: str) -> dict[str, float]:
    """The output, row for row; returns the totals."""
    from slmflow.scoring.table import write
    from slmflow.scoring.work import COUNTS, REPORT

    totals: dict[str, float] = dict.fromkeys(("rows", "errors", *COUNTS), 0)

    def rows() -> Iterator[dict[str, Any]]:
        for row, report in zip(table.rows(), work.reports(), strict=True):
            totals["rows"] += 1
            totals["errors"] += report["error"] is not None
            for name in COUNTS:
                totals[name] += report[name] or 0
            yield {**row.values, **{f"{prefix}{name}": report[name] for name in REPORT}}

    columns = table.columns()
    write(output, rows(), [*columns, *(f"{prefix}{name}" for name in REPORT)], _schema(table, output, prefix))
    return totals


def _schema(table: Table, output: Path, prefix: str) -> Any:
    """Of a Parquet output: the input's own types, or text; None for other kinds."""
    if output.suffix.lower() != ".parquet":
        return None
    import pyarrow as pa

    from slmflow.scoring.work import COUNTS, REPORT

    parquet = table.kind == ".parquet"
    fields = list(table.schema()) if parquet else [pa.field(name, pa.string()) for name in table.columns()]
    for name in REPORT:
        fields.append(pa.field(f"{prefix}{name}", pa.int64() if name in COUNTS else pa.string()))
    return pa.schema(fields)


def _log(table: Table, output: Path, target: Target, totals: dict[str, float]) -> None:
    import mlflow
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    from slmflow.files import sha256_of

    warnings.filterwarnings("ignore", "The specified dataset source can be interpreted")
    mlflow.log_params({"model_uri": target.uri, "input": str(table.path), "output": str(output)})
    mlflow.log_metrics(totals)
    for place, digest, context in (
        (table.path, table.digest(), "input"),
        (output, sha256_of(output), "output"),
    ):
        source = resolve_dataset_source(str(place))
        mlflow.log_input(MetaDataset(source, name=place.name, digest=digest[:32]), context=context)


if __name__ == "__main__":
    sys.exit(
        exit_status(
            "score", lambda: run(sys.argv[1:]), "interrupted; the same command goes on where it stopped"
        )
    )
