"""Apache Spark as the engine: the gated model as a UDF, whose tasks keep whole partitions as they finish."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.config.score import Engine
from slmflow.errors import SlmflowError, first_line
from slmflow.scoring import embedded
from slmflow.scoring.keeper import keeper

if TYPE_CHECKING:
    from slmflow.config.score import ScoreConfig
    from slmflow.scoring.work import Work

RESULT = "text string, finish_reason string, prompt_tokens long, completion_tokens long, error string"
"""What `slm_runtime.reports` says of a row, as Spark's type."""
WAVE = 8
"""Partitions for each slot of the cluster in one job: what is shown as progress at a time."""


NAMED = ("table:", "delta:")
"""Inputs that Spark reads by their name."""


def is_wanted(name: str, config: ScoreConfig) -> bool:
    """Whether Spark answers. Raises SlmflowError for an input of Spark's with the embedded engine."""
    if config.engine is Engine.embedded and name.startswith(NAMED):
        raise SlmflowError(f"input={name}: is Spark's to read, and score.engine=embedded: leave that out")
    if config.engine is not Engine.auto:
        return config.engine is Engine.spark
    return name.startswith(NAMED) or bool(config.master) or _has_session()


def _has_session() -> bool:
    if "pyspark" not in sys.modules:
        return False
    from pyspark.sql import SparkSession

    return SparkSession.getActiveSession() is not None


@contextlib.contextmanager
def session(config: ScoreConfig) -> Iterator[Any]:
    """The active session, or one by configuration, which is stopped at the end.

    Raises SlmflowError where Spark is not installed, or its cluster cannot be reached.
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
    try:
        made = builder.getOrCreate()
        made.sparkContext.setLogLevel("ERROR")
    except Exception as error:  # of Java, or of its start
        raise SlmflowError(
            f"score.master={config.master or 'as configured'}: Spark does not start: {told(error)}; it needs "
            "Java (apt-get install default-jre-headless) and a cluster that answers"
        ) from None
    try:
        yield made
    finally:
        made.stop()


def told(error: BaseException) -> str:
    """Of what Java raises, the line that tells."""
    lines = [line.strip() for line in reversed(str(error).splitlines()) if "Error: " in line]
    return lines[0] if lines else first_line(error)


class GaveUpError(Exception):
    """A job of Spark's that failed for good, in Spark's own words."""


def score(work: Work, uri: str, config: ScoreConfig) -> Iterator[int]:
    """Answer every pending partition; yields rows as they are kept. Executors reach the folder.

    A wave that fails is asked again by halves, and the partition that fails alone is answered by the
    embedded engine on the driver, which tells the row at which a process dies.
    Raises SlmflowError where Spark cannot ask the model at all.
    """
    with session(config) as spark:
        pending = work.pending()
        with asking(spark, uri, config, work) as jobs:
            size = WAVE * jobs.slots
            for wave in (pending[start : start + size] for start in range(0, len(pending), size)):
                for part in jobs.fatal(wave):
                    for _ in embedded.score(work, uri, 1, [part]):
                        pass
                for part in wave:
                    asked = work.read_requests(part)
                    if not work.answers(part).exists():
                        if any(row["request"] is not None for row in asked):
                            raise SlmflowError(
                                f"{work.folder}: executors do not write there: give an output in a folder "
                                "that they share"
                            )
                        work.keep(part, [])  # nothing of it could be asked
                    yield len(asked)


@contextlib.contextmanager
def asking(spark: Any, uri: str, config: ScoreConfig, work: Work) -> Iterator[Jobs]:
    """Jobs with partitions as batches; the session's own setting comes back."""
    setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(setting)
    spark.conf.set(setting, str(config.rows))
    try:
        yield Jobs(spark, uri, work)
    finally:
        spark.conf.set(setting, before)


class Jobs:
    """Jobs of one session that ask one model."""

    def __init__(self, spark: Any, uri: str, work: Work) -> None:
        import mlflow

        self._spark, self._uri, self._work = spark, uri, work
        self._keep = keeper(str(work.folder / "answers"))
        self._asked_once = False
        # Each task's process holds a model: on as many cores as Spark gives a task.
        settings = {"tracing": False, "threads": int(spark.conf.get("spark.task.cpus", "1"))}
        self._udf = mlflow.pyfunc.spark_udf(
            spark, uri, result_type=RESULT, env_manager="local", params={"requests": "json"},
            model_config=settings,
        )  # fmt: skip
        self.slots = max(1, spark.sparkContext.defaultParallelism)

    def fatal(self, parts: list[int]) -> list[int]:
        """Keep what can be answered; returns the partitions that no process survives.

        Raises SlmflowError where a row of one letter fails too.
        """
        try:
            self._answer(parts)
        except GaveUpError as error:
            self._check_model(error)
            left = [part for part in parts if not self._work.answers(part).exists()]
            if len(left) < 2:
                return left
            half = len(left) // 2
            return self.fatal(left[:half]) + self.fatal(left[half:])
        return []

    def _answer(self, parts: list[int]) -> None:
        from pyspark.sql import functions

        with _in_its_words():
            asked = self._spark.read.parquet(*(str(self._work.requests(part)) for part in parts))
            # All rows of a partition come to one task, which keeps it; longest first, as they end together.
            spread = asked.filter("request is not null").repartition(min(len(parts), 4 * self.slots), "part")
            ordered = spread.sortWithinPartitions("part", functions.length("request").desc())
            self._reported(ordered).select("part", "index", "report.*").foreachPartition(self._keep)

    def _check_model(self, error: GaveUpError) -> None:
        if self._asked_once:
            return
        rows = [('{"prompt": "a", "max_tokens": 1}',)]
        try:
            with _in_its_words():
                self._reported(self._spark.createDataFrame(rows, "request string")).collect()
        except GaveUpError:
            raise SlmflowError(
                f"model_uri={self._uri}: Spark gave up: {error}; the same command goes on with what is left"
            ) from None
        self._asked_once = True

    def _reported(self, asked: Any) -> Any:
        from pyspark.sql import functions

        prompt = functions.struct(functions.col("request").alias("prompt"))
        return asked.withColumn("report", self._udf(prompt))


@contextlib.contextmanager
def _in_its_words() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise GaveUpError(told(error)) from None


def snapshot(name: str, config: ScoreConfig, folder: Path) -> None:
    """A table of Spark's catalog, or `delta:<path>`, as Parquet files in a new folder.

    Spark writes them, so a table may be larger than the driver's memory; executors reach the folder.
    """
    kind, _, rest = name.partition(":")
    written = folder.with_name(f"{folder.name}.tmp")
    with session(config) as spark:
        try:
            table = spark.read.format("delta").load(rest) if kind == "delta" else spark.table(rest)
            table.write.mode("overwrite").parquet(str(written))
        except Exception as error:  # of Java, in its own words
            raise SlmflowError(f"input={name}: Spark says: {first_line(error)}") from None
    folder.mkdir()
    # Spark's names hold a random part, which would make another digest of the same rows.
    for number, file in enumerate(sorted(written.glob("*.parquet"))):
        file.rename(folder / f"{number:06}.parquet")
    shutil.rmtree(written)
