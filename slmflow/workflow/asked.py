"""How much an evaluation asks: what was asked before, what the gate's margins need, what the time allows.

The first evaluation of a model, its pipeline's, decides and records it; every other is asked the same. So are
a later candidate (by the champion's evaluation) and a reproduction (by the run's own), whatever the machine.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from slmflow.errors import SlmflowError
from slmflow.files import read_json
from slmflow.quality.alike import finite, same_source
from slmflow.quality.amount import Amount
from slmflow.quality.items import Items, read_items
from slmflow.quality.order import first, nested
from slmflow.quality.windows import digest_of, spread
from slmflow.registry.aliases import standing
from slmflow.registry.names import registered_name
from slmflow.registry.needed import FLIPS, items_needed, tokens_needed
from slmflow.tracking import raise_problem
from slmflow.workflow import runs
from slmflow.workflow.enough import ASKED_TAG, needed
from slmflow.workflow.evidence import champion_of
from slmflow.workflow.tags import FINGERPRINT, KIND_TAG, STEP_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

    from slmflow.quality.items import Item
    from slmflow.quality.windows import Window
    from slmflow.registry.relative import Champion
    from slmflow.workflow.step import Context


@dataclass(frozen=True)
class Ask:
    """What decides how much is asked, as far as it is known before the model is loaded."""

    minutes: float | None
    tokens: float
    """Scored tokens that the gate's margins need; infinite where none suffice."""
    windows: float
    """Windows that they need."""
    items: float
    """Items that they need."""
    whole: Items | None
    """The set; None where no items are wanted."""
    order: tuple[Item, ...]
    """Its items as they are asked."""
    windows_again: tuple[int, ...] | None = None
    """The places of those that were asked before; None where that is still to be decided."""
    items_again: int | None = None
    """As many as were asked before; None where that is still to be decided."""
    of: str = ""
    """Who was asked that."""
    champions: tuple[Champion, ...] = ()
    """Versions that the candidate will be held against."""

    def windows_in_order(self, text: list[Window], cap: int) -> list[Window]:
        """The windows that may be asked, of the first `cap` of a text, in the order in which they are."""
        if self.windows_again is not None:
            return [text[place] for place in self.windows_again if place < len(text)]
        known = {place for champion in self.champions for place in _places_of(champion, text)}
        places = spread(min(len(text), cap))
        return [text[place] for place in sorted(places, key=lambda place: place not in known)]

    def limits(self, text: list[Window], cap: int) -> tuple[Amount, Amount, list[str]]:
        """The least and the most that may be asked, and what is wrong with them, for people.

        `text` are all windows that there are, of which the first `cap` may be asked.
        """
        said, there = [], min(len(text), cap)
        tokens = sum(len(window.targets) for window in text[:there])
        if self.windows_again is None and self.windows > there:
            said.append(_too_few(f"{tokens} scored tokens", self.tokens, "tokens"))
        if self.items_again is None and self.items > len(self.order):
            said.append(_too_few(f"{len(self.order)} items", self.items, "items"))
        read = [len({*range(there)} & {*_places_of(champion, text)}) for champion in self.champions]
        answered = [self._items_of(champion) for champion in self.champions]
        again = None if self.windows_again is None else len(self.windows_again)
        least_windows, most_windows = self._range(again, self.windows, there, read)
        least_items, most_items = self._range(self.items_again, self.items, len(self.order), answered)
        return Amount(least_windows, least_items), Amount(most_windows, most_items), said

    @property
    def why(self) -> str:
        """What decided, for people."""
        if self.of:
            return f"as {self.of} did"
        if any(champion.windows or self._items_of(champion) for champion in self.champions):
            return "as the champion was asked and the gate's margins need"
        if self.minutes is None:
            return "all that there is"
        return f"as evaluate.minutes={self.minutes:g} allows and the gate's margins need"

    def first(self, count: int) -> Items:
        """The first items that are asked, in the order of the set."""
        assert self.whole is not None
        return Items(tuple(first(self.whole.rows, count)))

    def _range(self, again: int | None, need: float, there: int, known: list[int]) -> tuple[int, int]:
        if again is not None:
            return again, again
        recorded = max(known, default=0)
        least = int(min(max(need, recorded), there))
        return least, least if recorded and self.minutes is not None else there

    def suffices(self, asked: dict[str, Any], name: str) -> bool:
        """Whether an earlier evaluation asked enough `windows` or `items`, by its `asked`.

        What was asked again is in the key by which it was found.
        """
        count, there = asked.get(name, 0), asked.get(f"of_{name}", 0)
        if self.minutes is None:
            return bool(count == there)
        if name == "items":
            answered = [self._items_of(champion) for champion in self.champions]
            return bool(count >= min(max(self.items, *answered, 0), there))
        read = {place for champion in self.champions for place in places_in(champion.windows)}
        return bool(count >= min(self.windows, there)) and read <= {*asked.get("places", [])}

    def _items_of(self, champion: Champion) -> int:
        """Items of this set that a champion answered; 0 where it was another set."""
        tasks = champion.evaluation.get("tasks") or {}
        known = self.whole is not None and (tasks.get("set") or tasks.get("digest")) == self.whole.digest
        return int(tasks["items"]) if known else 0

    def differing(self, text: list[Window], logged: dict[str, Any]) -> list[str]:
        """What champions were asked and cannot be asked now, a line each: the gate will not let it pass."""
        said = []
        for champion in self.champions:
            theirs = champion.evaluation
            compared = theirs.get("fidelity") and same_source(theirs, logged)
            if compared and not _places_of(champion, text):
                said.append(f"{champion.label} was measured on another text")
            if theirs.get("tasks") and not self._items_of(champion):
                said.append(f"{champion.label} answered other items")
        return [f"{line}: the gate cannot compare; evaluate it again with these settings" for line in said]


def _too_few(there: str, needed: float, what: str) -> str:
    wanted = f"need {needed:.0f} {what}" if needed < math.inf else f"cannot be shown by any number of {what}"
    return f"there are {there}, and the gate's margins {wanted}: an equal candidate may miss them"


def _places_of(champion: Champion, text: list[Window]) -> list[int]:
    """The places of a text's windows that a champion read; none where it read another text."""
    places = places_in(champion.windows)
    digest = (champion.evaluation.get("fidelity") or {}).get("windows_digest")
    known = digest is not None and max(places, default=len(text)) < len(text)
    return places if known and digest_of([text[place] for place in places]) == digest else []


def places_in(table: dict[str, Any] | None) -> list[int]:
    """The places of the windows that `windows.json` has rows of."""
    if not table or "window" not in table["columns"]:
        return []
    at = table["columns"].index("window")
    return [int(row[at]) for row in table["data"]]


def ask_of(context: Context, logged: dict[str, Any]) -> Ask:
    """What decides how much a candidate is asked."""
    config, gate = context.config.evaluate, context.config.gate
    whole = None if config.items == "none" else read_items(config.items)
    order = tuple(nested(whole.rows)) if whole else ()
    parameters = logged["parameters"]
    tokens, needs = tokens_needed(gate, parameters), needed(context.config, parameters)
    ask = Ask(config.minutes_for(parameters), tokens, *needs, whole, order)
    if "reference_run" in context.upstream:
        return _again(ask, context.upstream["reference_run"])
    if config.like:
        return _again(ask, _like(config.like, context, logged))
    champions = tuple(_champions(context))
    seen = 2 * max((_flips_of(champion) for champion in champions), default=0.0)
    kinds = [item.kind for item in order]
    # A candidate that flips as much as the champion may differ from it on twice as many items.
    items = items_needed(kinds, gate.max_task_score_decrease, dict.fromkeys(kinds, max(FLIPS, seen)))
    return replace(ask, champions=champions, items=items)


def _flips_of(champion: Champion) -> float:
    """The share of items on which a champion differs from its pipeline; 0 where that is not known."""
    return finite((champion.evaluation.get("tasks") or {}).get("flips")) or 0.0


def _again(ask: Ask, run: Run | None) -> Ask:
    """As much as a run of `evaluate` asked; items only where they are of the same set."""
    if run is None:
        return ask
    evaluation = runs.json_artifact(run, "evaluation.json")
    windows = None
    if evaluation.get("fidelity"):
        windows = tuple(places_in(runs.json_artifact(run, "windows.json")))
    tasks = evaluation.get("tasks") or {}
    known = ask.whole is not None and (tasks.get("set") or tasks.get("digest")) == ask.whole.digest
    items = int(tasks["items"]) if known else None
    return replace(ask, windows_again=windows, items_again=items, of=f"run {run.info.run_id}")


def _champions(context: Context) -> list[Champion]:
    """The champions of the model's two registered names, as far as their evaluations can be read."""
    client, registry = MlflowClient(), mlflow.get_registry_uri()
    found = []
    for candidate in ("pipeline", "onnx"):
        name = registered_name(context.config.model.name, candidate, registry)
        try:
            number = standing(client, name).champion
        except MlflowException as error:  # a store without a registry
            raise_problem(error)
            continue
        champion = champion_of(name, number)[0] if number else None
        if champion is not None:
            found.append(champion)
    return found


def _like(run_id: str, context: Context, logged: dict[str, Any]) -> Run | None:
    """The evaluation that a run stands for, of the same content and settings; None where it made none."""
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"evaluate.like={run_id}: no such run in {runs.store_name()}") from None
    evaluated = [run]
    if run.data.tags.get(KIND_TAG) == "driver":
        ids = [item["run_id"] for item in runs.items_of(run) if item["step"] == "evaluate" and item["run_id"]]
        evaluated = [mlflow.get_run(one) for one in dict.fromkeys(ids)]
    elif run.data.tags.get(STEP_TAG) != "evaluate":
        raise SlmflowError(f"evaluate.like={run_id}: that run is no evaluation, and no driver's run")
    mine = _settings(context.parts)
    for one in evaluated:
        if _settings(read_json(runs.local_path_of(one, FINGERPRINT))) != mine:
            continue
        if runs.json_artifact(one, "evaluation.json")["fingerprint"] == logged["fingerprint"]:
            return one
    print(f"  evaluate.like={run_id}: it evaluated nothing of this content and these settings", flush=True)
    return None


def _settings(parts: dict[str, Any]) -> dict[str, Any]:
    config = {key: value for key, value in parts["config"].items() if key != "evaluate.like"}
    return {"config": config, "identity": parts["identity"]}


def asked_tags(asked: dict[str, Any], parameters: int | None) -> dict[str, str]:
    """The tag by which a plan sees how much an evaluation asked of what there was."""
    names = ("windows", "of_windows", "items", "of_items")
    return {ASKED_TAG: json.dumps({name: asked[name] for name in names} | {"parameters": parameters})}
