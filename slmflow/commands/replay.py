"""Ask production's traces again, redacted, of the champion and a challenger; say what drifted.

    mlflow run . -e evaluate --env-manager local -P traces=<experiment's name or id>

Tiny, offline, after `mlflow run . -P model=tiny_phi3` and some calls of the model that it registered:

    mlflow run . -e evaluate --env-manager local -P traces=Default -P model=tiny_phi3

Leaves `replay.html`, `.md`, `.json`, the dataset `replay.jsonl` and the answers `answers.jsonl` on its run.
Settings are parameters too: `-P monitoring.limit=50`. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError, first_line
from slmflow.words import CHOICES, read_words
from slmflow.workflow.command import command_run

if TYPE_CHECKING:
    from slmflow.config import Config
    from slmflow.monitoring.call import Call
    from slmflow.monitoring.patterns import Finder
    from slmflow.monitoring.replay import Replay
    from slmflow.monitoring.traces import Traces
    from slmflow.serving.follow import Target

PARAMETERS = (*CHOICES, "logged_run", "reference_run", "traces")
"""Those of the entry point `evaluate`."""
ROLES = ("champion", "challenger")


def run(argv: list[str]) -> int:
    """Replay, and leave the report. Raises SlmflowError for what cannot be, before any run is made."""
    from slmflow.machine import machine
    from slmflow.monitoring.redaction import read_rules
    from slmflow.monitoring.replay import Replay, change_of_model, conclusion
    from slmflow.monitoring.traces import experiment_of
    from slmflow.sweep import one_variant

    given = read_words("evaluate", argv, PARAMETERS)
    words = given.typed
    for name in ("logged_run", "reference_run"):
        if name in words:
            raise SlmflowError(f"traces={words['traces']} replays registered models: leave {name} out")
    config = one_variant(**given.choices).config
    rules = read_rules(config.monitoring.rules)
    experiment = experiment_of(words["traces"])
    models, notes = _models(config)
    traces = _traces(experiment, config, models["champion"], rules)
    if not traces.rows:
        why = "; ".join(f"{count} {reason}" for reason, count in sorted(traces.skipped.items()))
        raise SlmflowError(
            f"traces={words['traces']}: none of {traces.read} can be replayed: {why or 'there is none'}"
        )
    with command_run("replay"):
        print("\n".join([f"  {len(traces.rows)} requests of {traces.read} traces", *notes]), flush=True)
        with contextlib.ExitStack() as stack:
            answers = {}
            labels = {}
            for role, target in models.items():
                labels[role] = target.label
                answers[role] = _answers(role, target, traces, config, rules, stack)
            replay = Replay(words["traces"], traces, labels, answers, notes, machine())
            page = _log(replay)
        said = [conclusion(replay.comparisons()), change_of_model(replay), f"Report: {page}"]
        print("\n".join(filter(None, said)), flush=True)
    return 0


def _models(config: Config) -> tuple[dict[str, Target], list[str]]:
    """Champion and challenger as the registry has them now, and what is to be said of them."""
    from slmflow.serving.follow import ModelUri

    settings, base = config.monitoring, f"models:/{config.model.name}-onnx"
    champion = _resolved("champion", settings.champion or f"{base}@champion")
    if settings.challenger == "none":
        return {"champion": champion}, []
    if settings.challenger:
        challenger: Target | None = _resolved("challenger", settings.challenger)
    else:
        try:
            challenger = ModelUri(f"{base}@challenger").resolve()
        except SlmflowError:
            return {"champion": champion}, [f"There is no {base}@challenger: the champion was asked alone."]
    assert challenger is not None
    if challenger == champion:
        return {"champion": champion}, [f"The challenger is the champion, {champion.label}: asked once."]
    return {"champion": champion, "challenger": challenger}, []


def _resolved(role: str, uri: str) -> Target:
    from mlflow.exceptions import MlflowException

    from slmflow.serving.follow import ModelUri
    from slmflow.tracking import raise_problem

    try:
        target = ModelUri(uri).resolve()
        _source(target)
    except SlmflowError as error:
        said = str(error).removeprefix("model_uri=")
        raise SlmflowError(f"monitoring.{role}={said}") from None
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"monitoring.{role}={uri}: the registry says: {first_line(error)}") from None
    return target


def _traces(experiment: str, config: Config, champion: Target, rules: dict[str, Finder]) -> Traces:
    from slmflow.monitoring.traces import read_traces

    made: dict[str, bool] = {}

    def ours(run_id: str) -> bool:
        if run_id not in made:
            made[run_id] = _is_ours(run_id)
        return made[run_id]

    return read_traces(experiment, config.monitoring.limit, _logged_models(champion), rules, ours)


def _is_ours(run_id: str) -> bool:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from slmflow.workflow.tags import KIND_TAG

    try:
        # Not of a command: `serve` and `score` are production.
        return MlflowClient().get_run(run_id).data.tags.get(KIND_TAG) in ("step", "driver")
    except MlflowException:
        return False  # deleted, perhaps


def _logged_models(champion: Target) -> set[str]:
    """The LoggedModels of all versions of the champion's registered model; none of an unregistered one."""
    from mlflow import MlflowClient

    if not champion.name:
        return set()
    found = MlflowClient().search_model_versions(f"name='{champion.name}'")
    sources = [str(version.model_id or version.source or "") for version in found]
    return {source.removeprefix("models:/") for source in sources if "m-" in source}


def _source(target: Target) -> str:
    """What a registered version holds: another store may have other versions of that name."""
    from mlflow import MlflowClient

    if not target.name:
        return ""
    return str(MlflowClient().get_model_version(target.name, target.version).source)


def _answers(
    role: str,
    target: Target,
    traces: Traces,
    config: Config,
    rules: dict[str, Finder],
    stack: contextlib.ExitStack,
) -> dict[str, Call]:
    from slmflow.machine import machine
    from slmflow.monitoring.asking import Asker, ask_all, journal_of

    seed, path = config.monitoring.seed, config.monitoring.rules
    own = Path(path).expanduser().read_text(encoding="utf-8") if path else None
    # Not the dataset's digest: production goes on while a replay is interrupted.
    folder = stack.enter_context(journal_of(target.uri, _source(target), seed, own, machine()))
    with (
        tempfile.TemporaryDirectory(prefix="slmflow-replay-") as scratch,
        Asker(target.uri, Path(scratch)) as asker,
    ):
        return ask_all(asker, traces.rows, seed, rules, folder / "answers.jsonl", role)


def _log(replay: Replay) -> str:
    """Everything at once, when it is whole; returns where the page is."""
    import mlflow

    from slmflow.files import write_json, write_text
    from slmflow.monitoring.dataset import dataset_of, finite, lines_of
    from slmflow.monitoring.figures import flat
    from slmflow.monitoring.replay import as_json
    from slmflow.monitoring.report import html, markdown

    with tempfile.TemporaryDirectory(prefix="slmflow-replay-") as scratch:
        folder = Path(scratch)
        (folder / "replay.jsonl").write_bytes(lines_of(replay.rows))
        calls = [
            {"id": row.id, **{role: asdict(said[row.id]) for role, said in replay.answers.items()}}
            for row in replay.rows
        ]
        write_text(
            folder / "answers.jsonl",
            "".join(f"{json.dumps(finite(call), allow_nan=False)}\n" for call in calls),
        )
        write_json(folder / "replay.json", finite(as_json(replay)))
        write_text(folder / "replay.md", markdown(replay))
        write_text(folder / "replay.html", html(replay))
        mlflow.log_artifacts(str(folder))
    source = mlflow.get_artifact_uri("replay.jsonl")
    mlflow.log_input(dataset_of(replay.rows, source, f"replay of {replay.experiment}"), context="replay")
    mlflow.log_metrics(flat(replay.figures()))
    for one in replay.comparisons():
        name = one.name.replace(" ", "_")
        mlflow.log_metric(f"drifted.{name}", len(one.drifted))
        if one.identical is not None:
            mlflow.log_metric(f"identical.{name}", one.identical)
    return str(mlflow.get_artifact_uri("replay.html"))
