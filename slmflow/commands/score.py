r"""Answer every row of a table with a registered model: text, finish_reason, tokens, or the row's error.

    mlflow run . -e score --env-manager local -P input=questions.jsonl -P output=answers.parquet \
        -P model_uri=models:/smollm2-135m-onnx@champion

Tiny, offline, after `mlflow run . -P model=tiny_phi3`:

    echo '{"prompt": "Once upon a time"}' > /tmp/in.jsonl
    mlflow run . -e score --env-manager local -P model_uri=models:/tiny-phi3-onnx@champion \
        -P input=/tmp/in.jsonl -P output=/tmp/out.jsonl

Settings are parameters too: `-P score.max_tokens=64`. Interrupted, the same command goes on where it stopped.
In a notebook or job that has a Spark session:
`from slmflow.commands import score; score.run(["input=table:…", "output=…"])`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError, exit_status, first_line
from slmflow.words import read_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slmflow.config import Config
    from slmflow.scoring.recipe import Recipe
    from slmflow.scoring.table import Table
    from slmflow.scoring.work import Work
    from slmflow.serving.follow import ModelUri, Target

PARAMETERS = ("model_uri", "input", "output", "overrides")
SPARK_SLOTS = 8
"""Tasks at a time that a short table is divided for, before there is a cluster to ask."""


def run(argv: list[str]) -> int:
    """Score, and log the totals; returns 1 where no row of several was answered.

    Raises SlmflowError for what cannot be, before a model is loaded.
    """
    from slmflow.compose import compose
    from slmflow.scoring.output import output_kind
    from slmflow.scoring.recipe import recipe_of
    from slmflow.scoring.record import log, totals_of
    from slmflow.scoring.spark import is_wanted
    from slmflow.scoring.work import Work
    from slmflow.serving.follow import ModelUri
    from slmflow.workflow.command import command_run

    given = read_words("score", argv, PARAMETERS)
    words = given.declared
    for name in ("input", "output"):
        if not words.get(name):
            raise SlmflowError(f"{name} is not given: -P input=<a table> -P output=<a file>")
    config = compose(overrides=given.overrides).config
    recipe = recipe_of(config.score)
    output = Path(words["output"]).expanduser().absolute()
    output_kind(output)
    work = Work(output)
    if output.exists() and not work.folder.exists():
        raise SlmflowError(f"output={output}: is there already; give another, or delete it")
    by_spark = is_wanted(words["input"], config.score)
    if by_spark and set(str(output)) & set("[]{}*?"):
        raise SlmflowError(f"output={output}: Spark takes [ ] {{ }} * ? for patterns: give another name")
    uri = ModelUri(words.get("model_uri") or f"models:/{config.model.name}-onnx@champion")
    with _in_one_line(output), work.claimed():
        target = _target(uri, work)
        _refuse_other_models(target)
        table, key = _table(words["input"], output, config, work)
        key |= {"model": target.uri, "request": repr(recipe), "prefix": config.score.prefix}
        if work.key:
            work.check(key)
            print(f"  goes on: {len(work.pending())} of {len(work.parts())} partitions are left", flush=True)
        else:
            _begin(work, table, recipe, key, config, by_spark)
        with command_run("score"):
            began = time.monotonic()
            asked = _finish(output, table, work, key, _engine(work, target, config, by_spark))
            totals = totals_of(work)
            totals["seconds"] = time.monotonic() - began
            totals["rows_per_second"] = asked / totals["seconds"]
            place = words["input"] if key["input"] == words["input"] else str(table.path)
            log(place, key["digest"], output, target.uri, totals)
            work.close()
    print(
        f"  {totals['rows']:,.0f} rows to {output}, {totals['errors']:,.0f} of them errors; "
        f"{totals['rows_per_second']:.1f} rows/s"
    )
    if totals["rows"] and totals["errors"] == totals["rows"]:
        print("slmflow score: no row was answered; see the column error", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _in_one_line(output: Path) -> Iterator[None]:
    """A disk that is full, a place that cannot be written, a file that is damaged."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise SlmflowError(f"{first_line(error)}; the same command goes on where it stopped") from None
    except OSError as error:
        from slmflow.tracking import problem_of

        if problem_of(error) or error.errno is None:
            raise
        place = error.filename or output
        raise SlmflowError(f"{place}: {error.strerror}; the same command goes on where it stopped") from None


def _target(uri: ModelUri, work: Work) -> Target:
    """The version that a scoring began with, where an alias has moved since."""
    from slmflow.serving.follow import ModelUri

    target = uri.resolve()
    held = work.key.get("model", "")
    if held == target.uri or not uri.moves or not held.startswith(f"models:/{target.name}/"):
        return target
    print(f"  goes on with {held}, with which it began; {uri.uri} is {target.uri} now", flush=True)
    return ModelUri(held).resolve()


def _table(name: str, output: Path, config: Config, work: Work) -> tuple[Table, dict[str, str]]:
    """The rows, and what they are called in the key."""
    from slmflow.scoring.spark import NAMED, snapshot
    from slmflow.scoring.table import Table

    if name.startswith(NAMED):
        path = work.folder / "table"
        if work.key:
            work.check({**work.key, "input": name})
        else:
            snapshot(name, config.score, path)
        table = Table(path)
        return table, {"input": name, "digest": table.digest()}
    table = Table(Path(name).expanduser().absolute())
    if output in table.files or output.parent == table.path:
        raise SlmflowError(f"output={output}: is in the input: give another place")
    return table, {"input": "a file", "digest": table.digest()}


def _begin(
    work: Work, table: Table, recipe: Recipe, key: dict[str, str], config: Config, by_spark: bool
) -> None:
    from tqdm import tqdm

    from slmflow.scoring.embedded import processes_of

    processes = SPARK_SLOTS if by_spark else processes_of(config.score.processes)
    rows = tqdm(table.rows(), unit="row", desc="read", delay=2)
    work.begin(rows, recipe, config.score.prefix, config.score.rows, processes, key)
    _refuse_changed(table, key)


def _refuse_changed(table: Table, key: dict[str, str], output: Path | None = None) -> None:
    """Raise SlmflowError where answers would be put beside other rows than were asked."""
    if table.digest() == key["digest"]:
        return
    if output is not None:
        output.unlink()
    raise SlmflowError(
        f"input={table.path}: was changed while it was scored: bring the earlier content back and run again, "
        "or give another output"
    )


def _refuse_other_models(target: Target) -> None:
    """Raise SlmflowError for a model that cannot report on rows: a pipeline, or one packaged before."""
    from mlflow.models import Model

    # Not by get_model_info, which asks the tracking server for a LoggedModel that another store may have.
    signature = Model.load(target.uri).signature
    params = signature.params if signature else None
    if params is None or "requests" not in [one.name for one in params.params]:
        raise SlmflowError(
            f"model_uri={target.uri}: reports on no rows; score takes an ONNX model packaged by this version"
        )


def _finish(output: Path, table: Table, work: Work, key: dict[str, str], engine: Iterator[int]) -> int:
    """Answer what is pending and write the output, unless that was done; returns how many rows were asked."""
    from slmflow.scoring.output import write

    if work.has_written(output):
        return 0
    if output.exists():
        raise SlmflowError(f"output={output}: is there already; give another, or delete it")
    asked = _answer(work, engine)
    _refuse_changed(table, key)
    write(output, table, work.reports(), work.columns, key["prefix"], work.note_written)
    _refuse_changed(table, key, output)
    return asked


def _answer(work: Work, engine: Iterator[int]) -> int:
    """Answer what is pending, with a bar; returns how many rows."""
    from tqdm import tqdm

    left = sum(len(work.read_requests(part)) for part in work.pending())
    if not left:
        return 0
    with tqdm(total=work.rows, initial=work.rows - left, unit="row", desc="score") as bar:
        for rows in engine:
            bar.update(rows)
    return left


def _engine(work: Work, target: Target, config: Config, by_spark: bool) -> Iterator[int]:
    if by_spark:
        from slmflow.scoring.spark import score as score_by_spark

        return score_by_spark(work, target.uri, config.score)
    from slmflow.scoring.embedded import score

    return score(work, target.uri, config.score.processes)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(
        exit_status(
            "score", lambda: run(sys.argv[1:]), "interrupted; the same command goes on where it stopped"
        )
    )
