"""What a driver says at its end: a table of the candidates, a page, and the commands that come next."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient

from slmflow.artifacts import folder_of, stored_json
from slmflow.errors import SlmflowError
from slmflow.quality.cost import busy
from slmflow.registry.aliases import CHALLENGER, CHAMPION, PREVIOUS, standing
from slmflow.workflow import card, runs
from slmflow.workflow.conclusion import compared, promote_all
from slmflow.workflow.item import Item, State
from slmflow.workflow.picture import picture

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.registry.aliases import Standing

COLUMNS = ("candidate", "size", "KL", "top-1", "tokens", "tasks", "items", "tokens/s", "gate", "registered")
"""`tokens` are those that KL and top-1 are of, `items` those of tasks."""
LOG = "output.log"
"""Artifact of a child run: all that its process wrote."""


def log_of(run: Run) -> Path:
    """Where a child's output goes while it runs: among its artifacts already, where the store is local."""
    folder = folder_of(run.info.artifact_uri)
    return folder / LOG if folder else Path(tempfile.gettempdir()) / f"slmflow-{run.info.run_id}" / LOG


def keep_log(run: Run, log: Path) -> None:
    """Log a finished child's output with its run, where it is not there already."""
    if folder_of(run.info.artifact_uri) is None:
        MlflowClient().log_artifact(run.info.run_id, str(log))


def log_place(run: Run, log: Path) -> str:
    """Where a person finds a child's output."""
    return str(log) if folder_of(run.info.artifact_uri) else f"runs:/{run.info.run_id}/{LOG}"


def finish(parent: Run, items: list[Item], *, whole: bool, notes: tuple[str, ...] = ()) -> None:
    """Print and keep the table of whatever there is, the page, and the next commands.

    Of a sweep that came to its end, `whole`, the recommended candidate is promoted first. Raises what that
    raises, when everything is told.
    """
    problem: Exception | None = None
    done = compared(items, notes)
    try:
        if whole:
            promote_all(done)
    except Exception as error:
        problem = error
    outcomes = {item.name: _json(item, "gate.json") for item in items if item.node.step == "register"}
    if done.recommended:
        _read_aliases([outcome for outcome in outcomes.values() if outcome])
    rows, busy_lines = [], list[str]()
    for item in items:
        if item.node.step != "evaluate" or item.state not in (State.done, State.cached):
            continue
        evaluation = _json(item, "evaluation.json")
        judges = [other for other in items if other.name in outcomes and item.name in other.needs.values()]
        outcome = next((outcomes[judge.name] for judge in judges if outcomes[judge.name]), None)
        if evaluation is not None:
            rows.append(table_row(evaluation, outcome, done.labels.get(item.run_id or "")))
            if why := busy(evaluation):
                busy_lines.append(f"  {item.name}: its speed is of a busy machine: {why}")
    if rows:
        mlflow.log_text(markdown(rows), "report.md")
        print_table(rows)
    print("".join(f"{line}\n" for line in busy_lines), end="")
    if done.said:
        print("\n".join(done.said))
    mlflow.log_text(html(parent, items, rows, busy_lines), "report.html")
    registered = [outcome["registered"] for outcome in outcomes.values() if outcome and outcome["registered"]]
    if problem is not None:
        raise problem
    if registered:
        best = {(one.name, one.version) for one in done.recommended}
        mine = [
            versions
            for versions in registered
            if {(one["name"], one["version"]) for one in versions.values()} <= best
        ]
        print("\n".join(next_commands((mine or registered)[-1])), flush=True)


def _read_aliases(outcomes: list[dict[str, Any]]) -> None:
    """Put the aliases of now into what the register steps said: the end of a sweep has moved them."""
    now: dict[str, Standing] = {}
    for outcome in outcomes:
        for version in outcome["registered"].values():
            place = now.setdefault(version["name"], standing(MlflowClient(), version["name"]))
            held = {place.champion: CHAMPION, place.challenger: CHALLENGER, place.previous: PREVIOUS}
            version["alias"] = held.get(version["version"], "")


def _json(item: Item, name: str) -> dict[str, Any] | None:
    """An artifact of an item's run; None where it has none (a step that failed early)."""
    if item.run_id is None or item.state is State.wait:
        return None
    try:
        run = MlflowClient().get_run(item.run_id)
        value: dict[str, Any] = stored_json(run.info.artifact_uri, name)
    except SlmflowError:
        return None
    return value


def html(parent: Run, items: list[Item], rows: list[tuple[str, ...]], notes: Sequence[str] = ()) -> str:
    """The run on one page: the graph with states, the verdicts, and what was made, reused or not reached."""
    experiment = parent.info.experiment_id
    seconds = {item.name: _seconds(item) for item in items}
    lines: list[tuple[str, ...]] = []
    for item in items:
        link = card.run_link(item.run_id, experiment) if item.run_id else "–"
        spent = seconds[item.name]
        took = "" if spent is None else f"{spent:.1f} s"
        state = f'<span class="{item.state.value}">{item.state.value}</span>'
        lines.append((escape(item.name), state, took, link, escape(item.reason)))
    body = picture(items, seconds)
    if rows:
        cells = [tuple(escape(cell) for cell in row) for row in rows]
        body += "<h2>Candidates</h2>" + card.table(cells, COLUMNS)
        body += "".join(f"<p>{escape(note.strip())}.</p>" for note in notes)
    body += "<h2>Steps</h2>" + card.table(lines, ("step", "state", "time", "run", "why"))
    title = f"{parent.info.run_name or 'slmflow'} · {parent.info.run_id[:12]}"
    return card.page(title, body)


def _seconds(item: Item) -> float | None:
    if item.state is not State.done or item.run_id is None:
        return None
    info = MlflowClient().get_run(item.run_id).info
    return (info.end_time - info.start_time) / 1000 if info.end_time else None


def table_row(
    evaluation: dict[str, Any], outcome: dict[str, Any] | None, label: str | None = None
) -> tuple[str, ...]:
    """A candidate as text, in the order of COLUMNS; `label` is what a sweep calls it."""
    candidate, fidelity, tasks = (evaluation.get(name) for name in ("candidate", "fidelity", "tasks"))
    verdict = outcome["verdicts"][candidate] if outcome else None
    version = outcome["registered"].get(candidate) if outcome else None
    return (
        label or f"{candidate} {evaluation['precision']}",
        f"{evaluation['cost']['size_bytes'] / 1e6:.0f} MB",
        f"{fidelity['kl_mean']:.2g}" if fidelity else "not measured",
        f"{fidelity['top1_agreement']:.3f}" if fidelity else "not measured",
        f"{fidelity['tokens']:,.0f}" if fidelity and "tokens" in fidelity else "–",
        f"{tasks['score']:.3f}" if tasks else "–",
        f"{tasks['items']}" if tasks and "items" in tasks else "–",
        f"{evaluation['cost']['decode_tokens_per_second']:.1f}{' (busy)' if busy(evaluation) else ''}",
        "not judged" if verdict is None else verdict["word"],
        registered_text(version),
    )


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
    table.columns[-1].no_wrap = True  # what people paste
    for row in rows:
        table.add_row(*row)
    # Without a terminal the width is a guess that would wrap the names.
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def next_commands(registered: dict[str, dict[str, Any]]) -> list[str]:
    """The exact commands that open the UI, load the model, chat with it and serve it."""
    version = registered.get("onnx") or next(iter(registered.values()))
    model = f"models:/{version['name']}"
    model += f"@{version['alias']}" if version["alias"] else f"/{version['version']}"
    store = runs.store_name()
    load = f'import mlflow; model = mlflow.pyfunc.load_model("{model}")'
    chat = '{"messages": [{"role": "user", "content": "Hello! Who are you?"}], "max_tokens": 64}'
    ui = f"mlflow ui --port 5000 --backend-store-uri {shlex.quote(store)}   # then http://127.0.0.1:5000"
    if store.startswith(("http", "databricks")):
        place = os.environ.get("DATABRICKS_HOST", store) if store == "databricks" else store
        ui = f"# the runs are at {place}"
    setup = [f"export MLFLOW_TRACKING_URI={shlex.quote(store)}"]
    commands = [
        *activation(),
        *setup,
        ui,
        f'python -c \'{load}; print(model.predict({{"prompt": "Once upon a time"}})[0])\'',
        f'python -c \'{load}; print(model.predict({chat})[0]["choices"][0]["message"]["content"])\'',
        f"mlflow models serve -m {model} --env-manager local -p 5001   # then POST to /invocations",
    ]
    if version["alias"] == CHALLENGER:
        commands.append(
            f"mlflow run . -e promote --env-manager local -P model={version['name']}   # champion"
        )
    return ["Next:", *(f"  {command}" for command in commands)]


def activation() -> list[str]:
    """The command that enters this process's environment: conda's, a virtual one, or none."""
    if (Path(sys.prefix) / "conda-meta").is_dir():
        return [f"conda activate {shlex.quote(sys.prefix)}"]
    return [f". {shlex.quote(sys.prefix)}/bin/activate"] if sys.prefix != sys.base_prefix else []
