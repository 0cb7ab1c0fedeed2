"""What a driver says at its end: a table of the candidates, and the commands that come next."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import mlflow

from slmflow.errors import SlmflowError
from slmflow.workflow import runs

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.compose import Composition

COLUMNS = ("candidate", "size", "KL", "top-1", "tokens/s", "gate", "registered")


def finish(parent: Run, composition: Composition) -> None:
    """Print and keep the table of whatever the children left, and the next commands."""
    children = runs.children(parent)
    register = next((run for run in children if run.data.tags.get(runs.STEP_TAG) == "register"), None)
    try:
        outcome = runs.json_artifact(register, "gate.json") if register is not None else None
    except SlmflowError:
        outcome = None  # register failed before it judged
    evaluations = [
        runs.json_artifact(run, "evaluation.json")
        for run in children
        if run.data.tags.get(runs.STEP_TAG) == "evaluate" and run.info.status == "FINISHED"
    ]
    if evaluations:
        rows = table_rows(evaluations, outcome)
        mlflow.log_text(markdown(rows), "report.md")
        print_table(rows)
    if outcome and outcome["registered"]:
        print("\n".join(next_commands(outcome["registered"])), flush=True)


def table_rows(evaluations: list[dict[str, Any]], outcome: dict[str, Any] | None) -> list[tuple[str, ...]]:
    """One row of text a candidate, in the order of COLUMNS."""
    rows: list[tuple[str, ...]] = []
    for evaluation in evaluations:
        candidate, fidelity = evaluation["candidate"], evaluation["fidelity"]
        verdict = outcome["verdicts"][candidate] if outcome else None
        version = outcome["registered"].get(candidate) if outcome else None
        rows.append(
            (
                f"{candidate} {evaluation['precision']}",
                f"{evaluation['cost']['size_bytes'] / 1e6:.0f} MB",
                f"{fidelity['kl_mean']:.2g}" if fidelity else "not measured",
                f"{fidelity['top1_agreement']:.3f}" if fidelity else "not measured",
                f"{evaluation['cost']['decode_tokens_per_second']:.1f}",
                "not judged" if verdict is None else verdict["word"],
                registered_text(version),
            )
        )
    return rows


def registered_text(version: dict[str, Any] | None) -> str:
    """`name v3 @champion`, or a dash."""
    if version is None:
        return "–"
    alias = f" @{version['alias']}" if version["alias"] else ""
    return f"{version['name']} v{version['version']}{alias}"


def markdown(rows: list[tuple[str, ...]]) -> str:
    """The table as Markdown."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def print_table(rows: list[tuple[str, ...]]) -> None:
    """The table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # Without a terminal the width is a guess that would wrap the names.
    Console(width=None if console.is_terminal else 120).print(table)


def next_commands(registered: dict[str, dict[str, Any]]) -> list[str]:
    """The exact commands that open the UI, load the model, chat with it and serve it."""
    version = registered.get("onnx") or next(iter(registered.values()))
    model = f"models:/{version['name']}"
    model += f"@{version['alias']}" if version["alias"] else f"/{version['version']}"
    store = runs.store_name()
    load = f'import mlflow; model = mlflow.pyfunc.load_model("{model}")'
    chat = '{"messages": [{"role": "user", "content": "Hello! Who are you?"}], "max_tokens": 64}'
    ui = f"mlflow ui --port 5000 --backend-store-uri {shlex.quote(store)}   # then http://127.0.0.1:5000"
    if "://" in store and store.startswith(("http", "databricks")):
        ui = f"# the runs are at {store}"
    setup = [f"export MLFLOW_TRACKING_URI={shlex.quote(store)}"]
    if sys.prefix != sys.base_prefix:
        setup.insert(0, f". {sys.prefix}/bin/activate")
    commands = [
        *setup,
        ui,
        f'python -c \'{load}; print(model.predict({{"prompt": "Once upon a time"}})[0])\'',
        f'python -c \'{load}; print(model.predict({chat})[0]["choices"][0]["message"]["content"])\'',
        f"mlflow models serve -m {model} --env-manager local -p 5001   # then POST to /invocations",
    ]
    return ["Next:", *(f"  {command}" for command in commands)]
