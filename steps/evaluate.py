"""Measure one packaged model: fidelity to the fp32 reference, tasks, speed, size, memory.

    mlflow run . -e evaluate --env-manager local -P logged_run=<log_pipeline's id>
    mlflow run . -e evaluate --env-manager local -P logged_run=<log_onnx's id> -P reference_run=<its id>

With `traces=<experiment>` it is a command instead: production's traces are asked again of the champion and a
challenger (`slmflow/commands/replay.py`).

Tiny, offline (without ids it makes both candidates first):

    mlflow run . -e evaluate --env-manager local -P model=tiny_phi3

Leaves `evaluation.json`, `windows.json` (a row a window), `items.json` (a row a task item), metrics on the
run and on the LoggedModel, and for the pipeline `reference/`: the log-probabilities that every other
candidate is compared with.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, exit_status
from slmflow.files import size_under, write_json
from slmflow.machine import machine
from slmflow.workflow.shell import main

if TYPE_CHECKING:
    from slmflow.quality.candidates import Candidate
    from slmflow.quality.journal import Journal
    from slmflow.quality.windows import Window
    from slmflow.workflow.asked import Ask
    from slmflow.workflow.step import Context

ORIGIN = (
    "candidate",
    "model_id",
    "precision",
    "parameters",
    "source",
    "commit",
    "licence",
    "source_digest",
    "fingerprint",
)
"""What an evaluation repeats of the logged model's record."""


def work(context: Context) -> None:
    """Measure what no earlier run has, and leave the figures where people and the gate look for them."""
    import mlflow

    from slmflow.config import Verify
    from slmflow.workflow import runs
    from slmflow.workflow.asked import ask_of, asked_tags
    from slmflow.workflow.parts import find_parts, part_keys, part_tag, reference_of, take_part

    logged_run = context.upstream["logged_run"]
    logged = runs.json_artifact(logged_run, "logged.json")
    compared = logged["candidate"] == "pipeline" or "reference_run" in context.upstream
    if not compared and (
        context.config.export.exporter != "prebuilt" or context.composition.base is not None
    ):
        raise SlmflowError("reference_run is missing: give the id of the run that evaluated the pipeline")
    ask = ask_of(context, logged)
    keys = part_keys(context.parts, logged, reference_of(context, logged), ask)
    driver = context.config.driver
    earlier = find_parts(keys, ask, full=driver.verify is Verify.full) if driver.cache else {}
    asked: dict[str, Any] = {"minutes": ask.minutes}
    measured = {part: take_part(part, run, context, asked) for part, run in earlier.items()}
    if measured.get("tasks"):
        from slmflow.quality.genai import log_items

        log_items(ask.first(asked["items"]), context.config.evaluate.items, logged["model_id"])
    if len(measured) < len(keys):
        missing = {part: key for part, key in keys.items() if part not in measured}
        measured |= _measure(context, logged, missing, ask, asked, compared=compared)
    evaluation = {
        **{name: logged[name] for name in ORIGIN},
        "name": context.config.model.name,
        "export": context.composition.choices["export"] if logged["candidate"] == "onnx" else None,
        "machine": machine(),
        "asked": asked,
        **measured,
    }
    write_json(context.outputs / "evaluation.json", evaluation)
    tags = {part_tag(part): key for part, key in keys.items()}
    mlflow.set_tags({**tags, **asked_tags(asked, logged["parameters"])})
    tables = [name for name in ("windows.json", "items.json") if (context.outputs / name).exists()]
    # As `mlflow.log_table` does, so that the UI shows the rows.
    mlflow.set_tag("mlflow.loggedArtifacts", json.dumps([{"path": name, "type": "table"} for name in tables]))
    # Logged once for the run and the model: MLflow files a metric under both when the model is named.
    mlflow.log_metrics(metrics_of(measured), model_id=logged["model_id"])
    print(f"  {logged['candidate']} {logged['precision']}: {summary(measured)}")


def metrics_of(measured: dict[str, Any]) -> dict[str, float]:
    """The figures of all parts under flat names; those of tasks begin with `tasks.`, then their kind."""
    tasks = dict(measured["tasks"] or {})
    kinds = tasks.pop("kinds", {})
    flat = {f"tasks.{name}": value for name, value in tasks.items()}
    flat |= {
        f"tasks.{kind}.{name}": value for kind, figures in kinds.items() for name, value in figures.items()
    }
    every = {**(measured["fidelity"] or {}), **flat, **measured["cost"]}
    return {name: value for name, value in every.items() if isinstance(value, (int, float))}


def summary(measured: dict[str, Any]) -> str:
    """One line for people."""
    shown = ["fidelity not measured"]
    if faithful := measured["fidelity"]:
        kl, top1 = f"KL {faithful['kl_mean']:.3g}", f"top-1 {faithful['top1_agreement']:.3f}"
        shown = [f"{kl} and {top1} of {faithful['tokens']:,.0f} tokens"]
    if tasks := measured["tasks"]:
        shown.append(f"tasks {tasks['score']:.3f} ± {tasks['score_se']:.3f} of {tasks['items']} items")
    return ", ".join([*shown, f"{measured['cost']['decode_tokens_per_second']:.1f} tokens/s"])


def _measure(
    context: Context,
    logged: dict[str, Any],
    keys: dict[str, str],
    ask: Ask,
    asked: dict[str, Any],
    *,
    compared: bool,
) -> dict[str, Any]:
    """Load the packaged model and measure the parts whose keys are given; note in `asked` how much.

    Memory comes first, while the process holds nothing else; speed last, as it must wait until no other
    step runs on this host.
    """
    import psutil

    from slmflow.config import GateMode
    from slmflow.quality.candidates import load
    from slmflow.quality.cost import busy, measure_speed
    from slmflow.quality.deciding import Measurement, settle
    from slmflow.quality.journal import Journal
    from slmflow.quality.windows import windows_of
    from slmflow.text import text_of
    from slmflow.workflow import runs
    from slmflow.workflow.locks import quiet
    from slmflow.workflow.step import peak_resident_bytes

    config = context.config.evaluate
    model_id, folder = runs.model_of(context.upstream["logged_run"])
    began = time.perf_counter()
    candidate = load(logged["candidate"], str(folder))
    candidate.greedy(candidate.encode("a"), 1)
    load_seconds = time.perf_counter() - began
    longest = max(config.window, config.prompt_tokens + config.new_tokens)
    if longest > candidate.context_length:
        raise SlmflowError(
            f"evaluate.window={config.window} and prompt_tokens + new_tokens="
            f"{config.prompt_tokens + config.new_tokens} must fit into the model's context of "
            f"{candidate.context_length}: choose evaluate=quick, or set them"
        )
    ids = candidate.encode(text_of(config.text))
    text = windows_of(ids, config.window, len(ids), candidate.encode(""))
    if not text:
        raise SlmflowError(f"evaluate.window={config.window}: the text has only {len(ids)} tokens")
    prompt = ids[: config.prompt_tokens]
    times = candidate.token_times(prompt, config.new_tokens)
    peak = float(peak_resident_bytes())
    asked |= {} if compared else {"windows": 0, "of_windows": 0}
    counted = ("fidelity", "tasks") if compared else ("tasks",)
    journals = {part: Journal(key) for part, key in keys.items() if part in counted}
    context.when_indexed += [journal.close for journal in journals.values()]
    if journals:
        for line in ask.differing(text, logged) if context.config.gate.mode is not GateMode.off else ():
            print(f"  {line}", flush=True)
        spent, is_pipeline = time.time() - psutil.Process().create_time(), logged["candidate"] == "pipeline"
        asked |= settle(Measurement(candidate, text, journals, times, spent, is_pipeline), ask, config)
    measured: dict[str, Any] = {}
    if "fidelity" in keys:
        first, journal = [text[place] for place in asked.get("places", [])], journals.get("fidelity")
        measured["fidelity"] = _fidelity(context, candidate, first, logged, journal) if journal else None
    if "tasks" in keys:
        measured["tasks"] = _tasks(context, candidate, model_id, ask, asked["items"], journals["tasks"])
    if "cost" in keys:
        with quiet():
            cost = measure_speed(candidate, prompt, config.new_tokens, config.repeats)
        measured["cost"] = {
            "size_bytes": float(size_under(folder)),
            "load_seconds": load_seconds,
            "peak_resident_bytes": peak,
            **cost,
        }
        if why := busy({"machine": machine(), **measured}):
            print(f"  the machine is busy, and so are the speeds: {why}", flush=True)
    return measured


def _fidelity(
    context: Context, candidate: Candidate, windows: list[Window], logged: dict[str, Any], journal: Journal
) -> dict[str, Any]:
    """Compare at every scored position; leave a row a window, and with the pipeline the reference."""
    from slmflow.quality import reference
    from slmflow.quality.evaluation import Reference, greedy_answers, measure_fidelity, window_rows
    from slmflow.quality.windows import digest_of
    from slmflow.sources.meaning import meaning_of
    from slmflow.workflow import runs

    if logged["candidate"] == "pipeline":
        huggingface = runs.huggingface(runs.upstream_of(context.upstream["logged_run"], "fetch_run"))
        place = journal.logprobs(digest_of(windows))
        logs = reference.scored_logprobs(huggingface, windows, place)
        figures, found = measure_fidelity(candidate, windows, Reference(logs, []), journal)
        greedy = greedy_answers(candidate, windows)
        source, meaning = logged["reference_digest"], meaning_of(huggingface)
        reference.save(context.outputs / "reference", place, greedy, windows, source, meaning)
    else:
        folder = runs.artifact(context.upstream["reference_run"], "reference")
        expected = reference.read(folder, windows, logged["reference_digest"])
        meaning = reference.meaning_in(folder)
        figures, found = measure_fidelity(candidate, windows, expected, journal)
    write_json(context.outputs / "windows.json", window_rows(windows, found))
    return {**figures, "windows_digest": digest_of(windows), "source_meaning": meaning}


def _tasks(
    context: Context, candidate: Candidate, model_id: str, ask: Ask, count: int, journal: Journal
) -> dict[str, Any] | None:
    """Answer the first items of the set; leave a row an item. None where none are wanted."""
    from slmflow.quality.asking import measure_tasks
    from slmflow.quality.genai import log_items, trace_answers
    from slmflow.quality.judge import make_judge
    from slmflow.quality.tasks import figures, rows_of, table
    from slmflow.workflow import runs

    if ask.whole is None:
        return None
    items, place = ask.first(count), journal.items(count)
    log_items(items, context.config.evaluate.items, model_id)
    if context.config.evaluate.traces:
        judge = context.config.evaluate.judge
        trace_answers(candidate, items, place, model_id, make_judge(judge) if judge else None)
    rows = measure_tasks(candidate, items, place)
    write_json(context.outputs / "items.json", table(rows))
    of = {"set": ask.whole.digest, "set_items": len(ask.whole.rows)}
    compared = context.upstream.get("reference_run")
    known = compared is not None and "items.json" in runs.index_of(compared)["files"]
    if not compared or not known:
        return {**figures(rows, None, items.digest), **of}
    theirs = runs.json_artifact(compared, "evaluation.json").get("tasks") or {}
    same = items.digest if (theirs.get("set") or theirs.get("digest")) == of["set"] else None
    found = figures(rows, rows_of(runs.json_artifact(compared, "items.json")), items.digest, same)
    if "note" in found:
        print(f"  {found['note']}", flush=True)
    return {**found, **of}


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("traces=")]
    if any(word.removeprefix("traces=") for word in sys.argv[1:] if word.startswith("traces=")):
        from slmflow.commands import replay

        again = "interrupted; the same command goes on where it stopped"
        sys.exit(exit_status("evaluate", lambda: replay.run(sys.argv[1:]), again))
    sys.exit(main("evaluate", words))
