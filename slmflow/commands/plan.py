"""Say what a run would do, step by step, and why; nothing is launched or written.

    mlflow run . -e plan --env-manager local -P export=int4_cpu

Tiny, offline:

    mlflow run . -e plan --env-manager local -P model=tiny_phi3

With `backend=databricks` it ends with the requests that would be submitted, what is not known yet in angle
brackets. `step` names the entry point that is planned, `register` if it is left out. Exit status 1 where a
step is blocked.
"""

from __future__ import annotations

import json
import os
import sys

from driver import graph
from slmflow.config.backend import DatabricksBackendConfig
from slmflow.errors import SlmflowError, exit_status
from slmflow.sweep import variants
from slmflow.words import CHOICES, read_words
from slmflow.workflow.item import State
from slmflow.workflow.lookup import open_store
from slmflow.workflow.plan import make_plan
from slmflow.workflow.steps import STEPS

PARAMETERS = (*CHOICES, "step")


def run(argv: list[str]) -> int:
    """Print the plan; returns the exit status. Raises SlmflowError for bad words.

    Imports no MLflow where the store is embedded: that alone takes longer than the plan.
    """
    words = read_words("plan", argv, PARAMETERS)
    step = words.declared.get("step") or "register"
    if step not in STEPS:
        raise SlmflowError(f"step={step}: must be one of {', '.join(STEPS)}")
    chosen = variants(**words.choices)
    items = make_plan(step, chosen, open_store(os.environ.get("MLFLOW_EXPERIMENT_ID", "0")), graph)
    for item in items:
        print(item.line)
    backend = chosen[0].composition.config.backend
    if isinstance(backend, DatabricksBackendConfig):
        from slmflow.backends.preview import submissions

        print(json.dumps(submissions(items, backend), indent=2))
    counts = {state: sum(item.state is state for item in items) for state in State}
    print(", ".join(f"{count} {state.value}" for state, count in counts.items() if count))
    return 1 if counts[State.blocked] else 0


if __name__ == "__main__":
    sys.exit(exit_status("plan", lambda: run(sys.argv[1:])))
