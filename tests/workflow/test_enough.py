"""A finished evaluation is used again where it asked what the gate needs today, and what its reference asked."""

import json
from types import SimpleNamespace

import pytest

from slmflow.compose import compose
from slmflow.workflow.enough import ASKED_TAG, needed, too_little
from slmflow.workflow.lookup import Found


def found(windows, items, of_windows=5, of_items=250, run_id="r"):
    asked = {"windows": windows, "items": items, "of_windows": of_windows, "of_items": of_items}
    tags = {ASKED_TAG: json.dumps(asked | {"parameters": 135_000_000})}
    return Found(run_id, "evaluate", "FINISHED", "", 0, None, tags)


def item(overrides="", reference=None):
    upstream = (
        {"reference_run": SimpleNamespace(run_id=reference, name="evaluate_pipeline")} if reference else {}
    )
    composition = SimpleNamespace(config=compose(overrides=overrides).config)
    return SimpleNamespace(composition=composition, upstream=upstream)


class Store:
    def __init__(self, *runs):
        self.runs_by_id = {run.run_id: run for run in runs}

    def run(self, run_id):
        return self.runs_by_id.get(run_id)


TIGHT = "gate.max_task_score_decrease=0.045"


@pytest.mark.parametrize(
    ("run", "overrides", "said"),
    [
        (found(2, 151), "", None),
        (found(5, 250), "", None),
        (found(2, 151), "gate.max_task_score_decrease=0.2", None),
        (found(2, 151), "gate.min_task_score=0.3 gate.thresholds.0.max_kl=0.01", None),
        (
            found(2, 151),
            TIGHT,
            "the gate's margins need 2 windows and 185 items, it asked 2 windows and 151 items",
        ),
        (
            found(1, 151),
            "",
            "the gate's margins need 2 windows and 151 items, it asked 1 windows and 151 items",
        ),
        (found(2, 60, of_items=60), TIGHT, None),
        (found(1, 151, of_windows=1), "", None),
        (found(2, 0, of_items=0), "evaluate.items=none", None),
        (found(1, 9), f"{TIGHT} evaluate.like=abc", None),
        (Found("r", "", "FINISHED", "", 0, None, {}), "", None),
    ],
)
def test_limits_of_the_gate_measure_again_where_they_need_more_and_only_there(run, overrides, said):
    assert too_little(run, item(overrides), Store()) == said


def test_another_candidate_must_have_been_asked_what_its_reference_was():
    same, more = found(2, 151, run_id="p"), found(2, 200, run_id="p")
    mine = found(2, 151, run_id="o")
    assert too_little(mine, item(reference="p"), Store(same)) is None
    assert too_little(mine, item(reference="p"), Store(more)) == (
        "evaluate_pipeline asked 2 windows and 200 items, it 2 windows and 151 items"
    )
    assert too_little(mine, item(TIGHT, reference="p"), Store(same)) is None, (
        "its reference is measured anew first"
    )
    assert too_little(mine, item(reference="gone"), Store()) is None


def test_what_the_gate_needs_is_reckoned_in_windows_of_the_size_that_is_set():
    assert needed(compose().config, 135_000_000) == (2, 151)
    assert needed(compose(overrides="evaluate=quick").config, 135_000_000) == (11, 0)
    assert needed(compose().config, None) == (3, 151)


def test_quick_asks_what_the_gate_needs_of_a_small_model():
    config = compose(overrides="evaluate=quick").config
    assert config.evaluate.windows == needed(config, 200_000)[0]
