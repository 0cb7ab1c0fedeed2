"""Put finished evaluations side by side: a table, a picture, a recommendation.

    mlflow run . -e compare --env-manager local -P run_ids=<id,id,…>

Tiny, offline (a sweep leaves the same files on its own run):

    mlflow run . --env-manager local -P model=tiny_phi3 -P experiment=compare_quantization

`run_ids` are runs of `evaluate`, of any day and machine, or runs of a driver, which stand for all that they
evaluated. Leaves `comparison.html`, `.json`, `.csv`, `.md` and `.png` on its run. What it recommends passes
the gate, which may be given other limits (`-P gate.min_decode_tokens_per_second=20`).
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError, exit_status
from slmflow.tracking import raise_problem
from slmflow.words import read_words
from slmflow.workflow.command import command_run

if TYPE_CHECKING:
    from mlflow.entities import Run

PARAMETERS = ("run_ids", "overrides")
_ID = re.compile(r"[0-9a-f]{32}")


def run(argv: list[str]) -> int:
    """Compare, and leave the files. Raises SlmflowError for bad words, before any run is made."""
    import mlflow

    from slmflow.compose import compose
    from slmflow.workflow.evaluations import evaluation_of, log_comparison, overrides_of

    words = read_words("compare", argv, PARAMETERS)
    given = words.declared.get("run_ids", "")
    gate = compose(overrides=words.overrides).config.gate
    ids = list(dict.fromkeys(word for word in re.split(r"[\s,]+", given) if word))
    bad = next((word for word in ids if not _ID.fullmatch(word)), None)
    if not ids or bad is not None:
        raise SlmflowError(
            f"run_ids={bad or ''}: give the ids of finished evaluations with commas between, 32 hexadecimal "
            "digits each"
        )
    runs = {run.info.run_id: run for run_id in ids for run in evaluated(run_id)}
    if len(runs) < 2:
        raise SlmflowError(f"run_ids={given}: that is one evaluation; a comparison needs two")
    found = [evaluation_of(run) for run in runs.values()]
    labels = {run_id: overrides_of(run) for run_id, run in runs.items()}
    with command_run("compare"):
        _, table, sentence = log_comparison(found, labels, gate)
        page = mlflow.get_artifact_uri("comparison.html")
        print(f"{table}\n{sentence}\nReport: {page}", flush=True)
    return 0


def evaluated(run_id: str) -> list[Run]:
    """The finished evaluations that an id stands for. Raises SlmflowError for another run."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from slmflow.workflow import runs
    from slmflow.workflow.tags import KIND_TAG, STEP_TAG

    client = MlflowClient()
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"run_ids={run_id}: there is no such run in {runs.store_name()}") from None
    if run.info.lifecycle_stage != "active":
        raise SlmflowError(
            f"run_ids={run_id}: that run was deleted; `mlflow runs restore --run-id {run_id}` brings it back"
        )
    if run.data.tags.get(KIND_TAG) == "driver":
        made = [
            item["run_id"] for item in runs.items_of(run) if item["step"] == "evaluate" and item["run_id"]
        ]
        if not made:
            raise SlmflowError(f"run_ids={run_id}: that driver's run evaluated nothing")
        return [one for step in made for one in evaluated(step)]
    if run.data.tags.get(STEP_TAG) != "evaluate":
        raise SlmflowError(
            f"run_ids={run_id}: that run is no evaluation, and no driver's run: give an `evaluate` child's "
            "id, or that of a `register` run"
        )
    if run.info.status != "FINISHED":
        raise SlmflowError(f"run_ids={run_id}: that evaluation is {run.info.status}, not FINISHED")
    return [run]


if __name__ == "__main__":
    sys.exit(exit_status("compare", lambda: run(sys.argv[1:])))
