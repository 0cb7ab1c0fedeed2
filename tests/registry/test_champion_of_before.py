"""A candidate follows a champion of the commit before: the same is asked, and every margin is checked.

`champion_before/` is what commit b778ae0 left of `evaluate_onnx` for the default model: five windows, all 250
items, nothing on how many there were.
"""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.compose import compose
from slmflow.quality.items import read_items
from slmflow.quality.order import first
from slmflow.quality.tasks import figures, rows_of, table
from slmflow.quality.windows import spread
from slmflow.registry.aliases import standing
from slmflow.registry.common import fidelity_of
from slmflow.registry.relative import Measured
from slmflow.workflow import evidence, promotion
from slmflow.workflow.asked import ask_of
from slmflow.workflow.evidence import verdict_on
from slmflow.workflow.promotion import Recommended, promote_recommended
from tests.registry.conftest import whole
from tests.workflow.made_runs import finished

HERE = Path(__file__).parent / "champion_before"
BEFORE = {
    name: json.loads((HERE / f"{name}.json").read_text()) for name in ("evaluation", "items", "windows")
}
NAME = "smollm2-135m-onnx"
GATE = compose().config.gate
MARGINS = ["kl_mean", "top1_agreement", "tasks.score", "decode_tokens_per_second", "peak_resident_bytes"]


@pytest.fixture
def champion(store, monkeypatch):
    """Registered as that commit registered it: the version's tag leads to the run with its evaluation."""
    for module in (evidence, promotion):
        monkeypatch.setattr(module, "is_intact", whole)
    return registered("1", BEFORE)


def registered(number, made):
    client = MlflowClient(mlflow.get_tracking_uri())
    with mlflow.start_run() as logged:
        pass
    files = {f"{name}.json": json.dumps(value) for name, value in made.items()}
    run = finished("evaluate", files, upstream={"logged_run": logged.info.run_id})
    if number == "1":
        client.create_registered_model(NAME)
    tags = {"evaluate_run": run.info.run_id}
    client.create_model_version(NAME, "s3://nowhere", logged.info.run_id, tags=tags)
    if number == "1":
        client.set_registered_model_alias(NAME, "champion", "1")
    return run


def candidate(windows=5, items=250, kl=0.0, wrong=(), **words):
    """Another content of the same source, as this commit evaluates it; `wrong` are items that it gets wrong."""
    evaluation = copy.deepcopy(BEFORE["evaluation"]) | {"fingerprint": "another"} | words
    windows_table = copy.deepcopy(BEFORE["windows"])
    at = windows_table["columns"].index("kl_mean")
    places = {*spread(5)[:windows]}
    windows_table["data"] = [row for row in windows_table["data"] if row[0] in places]
    for row in windows_table["data"]:
        row[at] += kl
    whole_fidelity = evaluation["fidelity"] | fidelity_of(windows_table, places)
    evaluation["fidelity"] = whole_fidelity if windows == 5 else whole_fidelity | {"windows_digest": "fewer"}
    chosen = {item.id for item in first(read_items("shipped").rows, items)}
    rows = [row for row in rows_of(BEFORE["items"]) if row.id in chosen]
    rows = [row if row.id not in wrong else type(row)(**(vars(row) | {"correct": False})) for row in rows]
    whole_digest = read_items("shipped").digest
    digest = whole_digest if items == 250 else f"first {items}"
    evaluation["tasks"] = figures(rows, None, digest) | {"set": whole_digest, "set_items": 250}
    return Measured(evaluation, table(rows), windows_table)


RIGHT = [row.id for row in rows_of(BEFORE["items"]) if row.correct]


def checked(verdict):
    """The figures that were held against the champion."""
    return [check.name for check in verdict.checks if "champion v1" in check.against or check.reason]


def test_a_new_candidate_is_asked_what_the_champion_was(champion):
    parts = {"config": {}, "identity": {}}
    context = SimpleNamespace(upstream={}, config=compose().config, parts=parts)
    logged = {
        "parameters": 134_515_008,
        "fingerprint": "another",
        "source_digest": "s",
        "candidate": "pipeline",
    }
    ask = ask_of(context, logged)
    assert len(ask.champions) == 1
    assert ask.suffices({"items": 250, "of_items": 250}, "items")
    assert not ask.suffices({"items": 249, "of_items": 250}, "items")
    assert ask.suffices({"windows": 5, "of_windows": 5, "places": [0, 1, 2, 3, 4]}, "windows")
    assert not ask.suffices({"windows": 4, "of_windows": 5, "places": [0, 1, 2, 4]}, "windows")
    assert ask._items_of(ask.champions[0]) == 250, "its digest is of all of the set"


def test_an_equal_candidate_that_was_asked_the_same_passes_and_every_margin_is_checked(champion):
    verdict = verdict_on(candidate(), GATE, NAME, "1")
    assert verdict.passed, verdict.misses
    assert checked(verdict) == MARGINS
    assert verdict.notes == []


@pytest.mark.parametrize(("windows", "items"), [(2, 250), (5, 151), (2, 151)])
def test_one_that_was_asked_less_of_the_same_is_compared_on_that(champion, windows, items):
    verdict = verdict_on(candidate(windows, items), GATE, NAME, "1")
    assert verdict.passed, verdict.misses
    assert checked(verdict) == MARGINS
    said = " ".join(map(str, verdict.checks))
    assert ("tokens of both" in said) == (windows < 5)
    assert (f"on the {items} items of both" in said) == (items < 250)


@pytest.mark.parametrize(
    ("windows", "items", "missed"),
    [(1, 250, ["kl_mean", "top1_agreement"]), (5, 150, ["tasks.score"]), (5, 30, ["tasks.score"])],
)
def test_one_that_was_asked_so_little_that_chance_could_hide_what_is_worse_does_not_pass(
    champion, windows, items, missed
):
    """Its answers are the champion's own: no item differs, and the error that was found is 0."""
    verdict = verdict_on(candidate(windows, items), GATE, NAME, "1")
    assert [check.name for check in verdict.misses] == missed
    assert all("too few for the margin" in str(check) for check in verdict.misses)


@pytest.mark.parametrize(("windows", "items"), [(5, 250), (2, 151)])
def test_a_worse_one_misses_each_margin_by_itself_however_much_was_asked(champion, windows, items):
    worse = candidate(windows, items, kl=0.011)
    assert [check.name for check in verdict_on(worse, GATE, NAME, "1").misses] == ["kl_mean"]
    forgetful = candidate(windows, items, wrong=RIGHT[::5])
    assert [check.name for check in verdict_on(forgetful, GATE, NAME, "1").misses] == ["tasks.score"]
    slow = candidate(windows, items, cost={**BEFORE["evaluation"]["cost"], "decode_tokens_per_second": 1.0})
    assert [check.name for check in verdict_on(slow, GATE, NAME, "1").misses] == ["decode_tokens_per_second"]


@pytest.mark.parametrize(
    ("damage", "missed", "does"),
    [
        ({"tasks": None}, ["tasks.score"], "ask the items that the champion was asked"),
        ({"fidelity": None}, ["kl_mean", "top1_agreement"], "measure it"),
        (
            {"tasks": {"digest": "cut", "set": "cut", "items": 249, "score": 0.9}},
            ["tasks.score"],
            "evaluate champion v1 with these settings (-e evaluate -P logged_run=",
        ),
    ],
)
def test_what_was_cut_does_not_pass_and_says_what_to_do(champion, damage, missed, does):
    made = candidate()
    verdict = verdict_on(Measured(made.evaluation | damage, made.items, made.windows), GATE, NAME, "1")
    assert [check.name for check in verdict.misses] == missed
    assert all(does in str(check) and "or do without by gate." in str(check) for check in verdict.misses)
    assert all(str(check).count("\n") == 0 for check in verdict.misses)


def other_items(made):
    """The evaluation of a set of 40 items, half of them right."""
    rows = [type(row)(**(vars(row) | {"id": f"own-{at}"})) for at, row in enumerate(rows_of(made.items)[:40])]
    tasks = figures(rows, None, "own") | {"set": "own", "set_items": 40}
    return {"evaluation": made.evaluation | {"tasks": tasks}, "items": table(rows), "windows": made.windows}


def test_a_champion_that_was_evaluated_again_on_other_items_is_compared_on_these(champion):
    """What the miss tells one to do."""
    ours = Measured(**other_items(candidate()))
    assert [check.name for check in verdict_on(ours, GATE, NAME, "1").misses] == ["tasks.score"]
    logged = MlflowClient().get_model_version(NAME, "1").run_id
    again = other_items(candidate(fingerprint=BEFORE["evaluation"]["fingerprint"]))
    files = {f"{name}.json": json.dumps(value) for name, value in again.items()}
    finished("evaluate", files, upstream={"logged_run": logged})
    verdict = verdict_on(ours, GATE, NAME, "1")
    assert verdict.passed, verdict.misses
    assert checked(verdict) == MARGINS


def test_it_is_promoted_over_the_champion_of_before_and_a_worse_one_is_not(champion):
    made = candidate(2, 151)
    files = {"evaluation": made.evaluation, "items": made.items, "windows": made.windows}
    registered("2", files)
    chosen = Recommended(NAME, "2", made.evaluation, made.items, frozenset(), made.windows)
    (said,) = promote_recommended(chosen, GATE)
    assert said == f"{NAME} v2 is recommended and champion, previous is v1"
    worse = candidate(2, 151, wrong=RIGHT[::5], fingerprint="a third")
    registered("3", {"evaluation": worse.evaluation, "items": worse.items, "windows": worse.windows})
    chosen = Recommended(NAME, "3", worse.evaluation, worse.items, frozenset(), worse.windows)
    (said,) = promote_recommended(chosen, GATE)
    assert "recommended and challenger: the gate was missed: tasks.score" in said
    assert standing(MlflowClient(), NAME).champion == "2"
