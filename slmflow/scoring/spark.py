"""Apache Spark as the engine: the gated model as a UDF, whose tasks keep whole partitions as they finish."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, first_line

if TYPE_CHECKING:
    from slmflow.config.score import ScoreConfig
    from slmflow.scoring.work import Work

RESULT = "text string, finish_reason string, prompt_tokens long, completion_tokens long, error string"
"""What `slm_runtime.reports` says of a row, as Spark's type."""
WAVE = 8
"""Partitions for each slot of the cluster in one job: what is shown as progress at a time."""


@contextlib.contextmanager
def session(config: ScoreConfig) -> Iterator[Any]:
    """The active session, or one by configuration, which is stopped at the end.

    Raises SlmflowError where Spark is not installed.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise SlmflowError(
            "score.engine=spark: pyspark is not installed: pip install 'pyspark>=4,<5'"
        ) from None
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if (active := SparkSession.getActiveSession()) is not None:
        yield active
        return
    builder = SparkSession.builder.appName("slmflow score")
    if config.master:
        builder = builder.master(config.master)
        if config.master.startswith("local"):  # nothing of it needs to be seen from elsewhere
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
            builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.ui.enabled", "false")
    for name, value in config.spark.items():
        builder = builder.config(name, value)
    made = builder.getOrCreate()
    made.sparkContext.setLogLevel("ERROR")
    try:
        yield made
    finally:
        made.stop()


def score(work: Work, uri: str, config: ScoreConfig) -> Iterator[int]:
    """Answer every pending partition; yields rows as they are kept. Executors reach the folder."""
    with session(config) as spark:
        yield from _score(work, uri, config, spark)


def _score(work: Work, uri: str, config: ScoreConfig, spark: Any) -> Iterator[int]:
    import mlflow
    from pyspark.sql import functions

    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(config.rows))
    udf = mlflow.pyfunc.spark_udf(
        spark, uri, result_type=RESULT, env_manager="local", params={"requests": "json"},
        model_config={"tracing": False},
    )  # fmt: skip
    slots = max(1, spark.sparkContext.defaultParallelism)
    keep = keeper(str(work.folder / "answers"))
    pending = work.pending()
    for start in range(0, len(pending), WAVE * slots):
        wave = pending[start : start + WAVE * slots]
        files = [str(work.requests(part)) for part in wave]
        asked = spark.read.parquet(*files).filter("request is not null")
        # All rows of a partition come to one task, which keeps it.
        spread = asked.repartition(min(len(wave), 4 * slots), "part")
        answered = spread.withColumn(
            "report", udf(functions.struct(functions.col("request").alias("prompt")))
        )
        try:
            answered.select("part", "index", "report.*").foreachPartition(keep)
        except Exception as error:  # of Java, in its own words
            said = next(
                (line for line in reversed(str(error).splitlines()) if "Error: " in line), first_line(error)
            )
            raise SlmflowError(
                f"Spark gave up: {said.strip()}; the same command goes on with what is left"
            ) from None
        for part in wave:
            if not work.answers(part).exists():  # nothing of it could be asked
                work.keep(part, [])
            yield len(work.read_requests(part))


def keeper(folder: str) -> Callable[[Any], None]:
    """What a task does with its rows: a file for each partition, whole or not at all.

    Needs nothing of this package, which executors do not have.
    """

    def keep(rows: Any) -> None:
        import os
        import uuid

        import pyarrow as pa
        import pyarrow.parquet as pq

        parts: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            values = row.asDict()
            parts.setdefault(values.pop("part"), []).append(values)
        counts = {name: pa.int64() for name in ("index", "prompt_tokens", "completion_tokens")}
        for part, found in parts.items():
            names = list(found[0])
            schema = pa.schema([(name, counts.get(name, pa.string())) for name in names])
            table = pa.Table.from_pylist(sorted(found, key=lambda one: one["index"]), schema=schema)
            scratch = os.path.join(folder, f".{part:06}.{uuid.uuid4().hex}.tmp")
            pq.write_table(table, scratch)
            os.replace(scratch, os.path.join(folder, f"{part:06}.parquet"))

    keep.__module__ = "__main__"  # so that it travels by value
    return keep


def snapshot(name: str, config: ScoreConfig, folder: Path) -> Path:
    """A table of Spark's catalog, or `delta:<path>`, as a Parquet file: what a second start goes on with."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "input.parquet"
    if path.exists():
        return path
    kind, _, rest = name.partition(":")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".input.parquet.tmp"
    with session(config) as spark:
        try:
            table = spark.read.format("delta").load(rest) if kind == "delta" else spark.table(rest)
            pq.write_table(pa.Table.from_pandas(table.toPandas(), preserve_index=False), scratch)
        except Exception as error:  # of Java, in its own words
            raise SlmflowError(f"input={name}: Spark says: {first_line(error)}") from None
    scratch.replace(path)
    return path
