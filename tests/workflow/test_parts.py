"""Fidelity belongs to content and what it is compared with, cost to content and machine."""

from dataclasses import replace

import pytest

from slmflow.workflow import parts
from slmflow.workflow.asked import Ask
from slmflow.workflow.parts import part_keys

INGREDIENTS = {
    "step": "evaluate 1",
    "code": "c",
    "installed": {"numpy": "2"},
    "identity": {"text": "t", "items": "i"},
    "config": {
        "evaluate.window": 512,
        "evaluate.windows": 5,
        "evaluate.prompt_tokens": 64,
        "evaluate.new_tokens": 64,
        "evaluate.repeats": 3,
        "evaluate.traces": False,
        "evaluate.judge": "",
    },
}
LOGGED = {"candidate": "onnx", "fingerprint": "f", "model_id": "m-1"}
MACHINE = {"cpu": "one", "cores": "2"}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(parts, "machine", lambda: MACHINE)


REFERENCE = {"fidelity": "r", "tasks": "s"}
ASK = Ask(minutes=1.0, tokens=340, windows=2, items=151, whole=None, order=())


def changed(ingredients=INGREDIENTS, logged=LOGGED, reference=REFERENCE, ask=ASK):
    """The parts whose keys differ from the plain ones."""
    plain = part_keys(INGREDIENTS, LOGGED, REFERENCE, ASK)
    return {
        part for part, key in part_keys(ingredients, logged, reference, ask).items() if key != plain[part]
    }


def config(**values):
    known = {f"evaluate.{name}": value for name, value in values.items()}
    return {**INGREDIENTS, "config": INGREDIENTS["config"] | known}


@pytest.mark.parametrize(
    ("ingredients", "logged", "reference", "expected"),
    [
        (INGREDIENTS, {**LOGGED, "model_id": "m-2"}, REFERENCE, set()),
        (INGREDIENTS, LOGGED, {**REFERENCE, "fidelity": "other"}, {"fidelity"}),
        (INGREDIENTS, LOGGED, {"fidelity": "r"}, {"tasks"}),
        (INGREDIENTS, {**LOGGED, "fingerprint": "g"}, REFERENCE, {"fidelity", "tasks", "cost"}),
        ({**INGREDIENTS, "code": "d"}, LOGGED, REFERENCE, {"fidelity", "tasks", "cost"}),
        ({**INGREDIENTS, "installed": {"numpy": "3"}}, LOGGED, REFERENCE, {"fidelity", "tasks", "cost"}),
        (config(windows=6), LOGGED, REFERENCE, {"fidelity"}),
        (config(repeats=4), LOGGED, REFERENCE, {"cost"}),
        (config(traces=True), LOGGED, REFERENCE, {"tasks"}),
        ({**INGREDIENTS, "identity": {"text": "t", "items": "j"}}, LOGGED, REFERENCE, {"tasks"}),
        ({**INGREDIENTS, "identity": {"text": "u", "items": "i"}}, LOGGED, REFERENCE, {"fidelity", "cost"}),
    ],
)
def test_a_part_is_measured_anew_for_what_it_depends_on_only(ingredients, logged, reference, expected):
    assert changed(ingredients, logged, reference) == expected


def test_another_machine_measures_cost_anew_and_fidelity_not(monkeypatch):
    before = part_keys(INGREDIENTS, LOGGED, REFERENCE, ASK)
    monkeypatch.setattr(parts, "machine", lambda: {**MACHINE, "cpu": "two"})
    after = part_keys(INGREDIENTS, LOGGED, REFERENCE, ASK)
    assert (before["fidelity"], before["cost"]) != (after["fidelity"], after["cost"])
    assert before["fidelity"] == after["fidelity"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokens": 700, "windows": 3, "items": 250}, set()),
        ({"minutes": 2.0}, {"fidelity", "tasks"}),
        ({"minutes": None}, {"fidelity", "tasks"}),
        ({"windows_again": (0, 4)}, {"fidelity"}),
        ({"items_again": 151}, {"tasks"}),
        ({"of": "run x"}, set()),
    ],
)
def test_what_decides_how_much_is_asked_is_in_the_keys_and_the_gates_limits_are_not(changes, expected):
    assert changed(ask=replace(ASK, **changes)) == expected


def test_minutes_do_not_matter_where_the_number_was_decided_before():
    again = replace(ASK, windows_again=(0, 2, 4), items_again=200)
    longer = replace(again, minutes=9.0)
    assert part_keys(INGREDIENTS, LOGGED, REFERENCE, again) == part_keys(
        INGREDIENTS, LOGGED, REFERENCE, longer
    )


@pytest.mark.parametrize(
    ("changes", "part", "evaluation", "enough"),
    [
        ({}, "fidelity", {"asked": {"windows": 2, "of_windows": 5}}, True),
        ({"windows": 3}, "fidelity", {"asked": {"windows": 2, "of_windows": 5}}, False),
        ({"windows": 3}, "fidelity", {"asked": {"windows": 2, "of_windows": 2}}, True),
        ({"windows": float("inf")}, "fidelity", {"asked": {"windows": 4, "of_windows": 5}}, False),
        ({}, "tasks", {"asked": {"items": 151, "of_items": 250}}, True),
        ({"items": 224}, "tasks", {"asked": {"items": 151, "of_items": 250}}, False),
        ({"minutes": None}, "tasks", {"asked": {"items": 151, "of_items": 250}}, False),
        ({"minutes": None}, "tasks", {"asked": {"items": 250, "of_items": 250}}, True),
        ({}, "cost", {"cost": {"others_before": 0.1}, "machine": {"threads": "2", "cores": "2"}}, True),
        ({}, "cost", {"cost": {"others_after": 1.1}, "machine": {"threads": "2", "cores": "2"}}, False),
    ],
)
def test_a_part_is_taken_over_where_it_asked_enough_and_speed_where_the_machine_was_quiet(
    changes, part, evaluation, enough
):
    assert parts._suffices(part, evaluation, replace(ASK, **changes)) is enough
