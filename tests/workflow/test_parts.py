"""Fidelity belongs to content and what it is compared with, cost to content and machine."""

import pytest

from slmflow.workflow import parts
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


def changed(ingredients=INGREDIENTS, logged=LOGGED, reference=REFERENCE):
    """The parts whose keys differ from the plain ones."""
    plain = part_keys(INGREDIENTS, LOGGED, REFERENCE)
    return {part for part, key in part_keys(ingredients, logged, reference).items() if key != plain[part]}


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
    before = part_keys(INGREDIENTS, LOGGED, REFERENCE)
    monkeypatch.setattr(parts, "machine", lambda: {**MACHINE, "cpu": "two"})
    after = part_keys(INGREDIENTS, LOGGED, REFERENCE)
    assert (before["fidelity"], before["cost"]) != (after["fidelity"], after["cost"])
    assert before["fidelity"] == after["fidelity"]
