"""About how much an evaluation will ask, for the plan: no model is loaded, and nothing imports MLflow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from slmflow.artifacts import stored_json
from slmflow.config.judgement import SMALL
from slmflow.errors import SlmflowError
from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.quality.amount import Amount, Pace, costs, decide
from slmflow.registry.names import registered_name
from slmflow.workflow.enough import needed

if TYPE_CHECKING:
    from collections.abc import Callable

    from slmflow.config import Config
    from slmflow.quality.items import Item as Question
    from slmflow.workflow.item import Item
    from slmflow.workflow.lookup import Found, Store

FLOPS = 60e9
"""Floating-point operations a second of a core, about: transformers in fp32 reach 80e9 with AVX-512."""
BANDWIDTH = 12e9
"""Bytes of memory a second, about."""
LETTERS = 4
"""Of a token, about."""
ROWS = 16
"""Answers that are decoded together, about."""
STARTING = 20.0
"""Seconds to start, to load, to write and to end."""
SINGLE = 200
"""Tokens that are decoded one by one whatever is asked: the path of decoding, and speed."""


def estimate(item: Item, store: Store) -> str:
    """How much the first evaluation of a model will ask, and why, for people."""
    config = item.composition.config
    if config.evaluate.like:
        return f"asks what run {config.evaluate.like} asked"
    if known := _of_champion(config, store):
        return known
    questions = _questions(config)
    most = Amount(config.evaluate.windows, len(questions))
    if config.evaluate.minutes is None:
        return f"asks {_shown(config, most)}, if the text has so many"
    parameters = _parameters(item, store)
    windows, items = needed(config, *_sizes(config, parameters))
    least = Amount(int(min(windows, most.windows)), int(min(items, most.items)))
    at_least = f"at least {_shown(config, least)} by the gate's margins"
    minutes = config.evaluate.minutes_for(parameters)
    if parameters is None:
        rule = f"1 minute below {SMALL / 1e6:.0f} M parameters, else {minutes:g}"
        said = rule if config.evaluate.minutes == "auto" else f"{minutes:g} minutes"
        return f"asks {at_least}, more as time allows ({said})"
    amount, seconds = decide(least, most, minutes, _costs(config, parameters, questions))
    took = f"which may take {seconds / 60:.1f} minutes"
    if amount == least:
        return f"asks {_shown(config, least)}, as the gate's margins need, {took}"
    return f"asks about {_shown(config, amount)}, {took}; {at_least}"


def _sizes(config: Config, parameters: int | None) -> list[float]:
    """The model's; while it is not known, one of each range that the gate tells apart."""
    if parameters is not None:
        return [parameters]
    return [0, *(row.max_parameters for row in config.gate.thresholds)]


def _shown(config: Config, amount: Amount) -> str:
    scored = config.evaluate.window - 1 - config.evaluate.window // 2
    return f"{amount.windows * scored:,} tokens and {amount.items} items"


def _questions(config: Config) -> list[Question]:
    """The items as they are asked; none where none are wanted."""
    if config.evaluate.items == "none":
        return []
    from slmflow.quality.items import read_items
    from slmflow.quality.order import nested

    return nested(read_items(config.evaluate.items).rows)


def _costs(config: Config, parameters: int, questions: list[Question]) -> Callable[[Amount], float]:
    from slmflow.quality.items import NEW_TOKENS

    pace = Pace(physical_cores() * FLOPS / (2 * parameters), 4 * parameters / BANDWIDTH, ROWS)
    loads = []
    for question in questions:
        letters = len(question.prompt) + sum(map(len, question.fields.get("choices", [])))
        loads.append((letters // LETTERS + 1, NEW_TOKENS.get(question.kind, 0)))
    window = 2.4 * config.evaluate.window / pace.reading + 32 * pace.step
    return costs(pace, window, loads, STARTING + SINGLE * pace.step)


def _parameters(item: Item, store: Store) -> int | None:
    """As an earlier run of a step above recorded them; None where none is reused."""
    logged = item.upstream.get("logged_run")
    above = {"logged.json": logged, "manifest.json": logged.upstream.get("fetch_run") if logged else None}
    for name, step in above.items():
        run = store.run(step.run_id) if step is not None and step.run_id else None
        if run is not None and run.status == "FINISHED":
            parameters: int | None = _json_of(run, name).get("parameters")
            return parameters
    return None


def _of_champion(config: Config, store: Store) -> str:
    """What the champion of one of the model's names was asked; empty for a model without one."""
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI", "")
    for candidate in ("pipeline", "onnx"):
        try:
            name = registered_name(config.model.name, candidate, registry)
        except SlmflowError:
            return ""
        number = store.alias(name, "champion")
        run_id = store.version_tag(name, number, "evaluate_run") if number else None
        run = store.run(run_id) if run_id else None
        evaluation = _json_of(run, "evaluation.json") if run else {}
        if not evaluation:
            continue
        tokens = (evaluation.get("fidelity") or {}).get("tokens", 0)
        items = (evaluation.get("tasks") or {}).get("items", 0)
        return f"asks what {name} v{number}, the champion, was asked: {tokens:,.0f} tokens, {items} items"
    return ""


def _json_of(run: Found, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = stored_json(run.artifact_uri, name)
    except (OSError, ValueError, SlmflowError):
        return {}
    return found
