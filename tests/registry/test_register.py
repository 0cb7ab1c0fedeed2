"""The step `register`: what it writes of the load test, and what it says when it is overtaken."""

import json
from types import SimpleNamespace

import mlflow
import pytest

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.registry.aliases import Moved, again_if_moved
from slmflow.registry.evidence import description_of, evidence_tags
from slmflow.registry.load_test import Loaded
from slmflow.registry.relative import Measured
from slmflow.registry.versions import Registered
from steps import register
from tests.registry.test_gate import evaluation


@pytest.fixture
def candidates(store, monkeypatch):
    """Two whose content nobody reads; registering them counts, and meets another host once."""
    made = {}
    for name in ("onnx", "pipeline"):
        measured = Measured({**evaluation(), "candidate": name})
        made[name] = SimpleNamespace(
            registered_name=f"tiny-{name}", measured=measured, evaluation=measured.evaluation
        )
    monkeypatch.setattr(register, "_content", lambda candidate, verdict, context: candidate)
    return made


@pytest.fixture
def context(tmp_path):
    config = compose(overrides="gate.min_decode_tokens_per_second=40").config
    return SimpleNamespace(config=config, outputs=tmp_path)


def state_of(context, candidates):
    return register._State(context, candidates)


def test_the_outcome_of_the_load_test_is_in_gate_json(context, candidates, monkeypatch):
    monkeypatch.setattr(register, "register", lambda content, *a, **w: registered(content.registered_name))
    state = state_of(context, candidates)
    state.loaded["onnx"] = Loaded("linked", True, "loads")
    again_if_moved(state.register_all)
    told = json.loads((context.outputs / "gate.json").read_text())
    assert told["load_test"] == {"onnx": {"mode": "linked", "passed": True, "words": "loads"}}
    assert told["registered"]["pipeline"]["version"] == "1"


def registered(name):
    return Registered(name, "1", "challenger", True, "r")


def test_who_is_overtaken_after_the_first_version_does_not_say_that_nothing_is_registered(
    context, candidates, monkeypatch
):
    """The pipeline meets another host; judged again it misses, and the ONNX version is there already."""

    def one(content, *arguments, **words):
        if content.registered_name == "tiny-pipeline":
            candidates["pipeline"].evaluation["cost"]["decode_tokens_per_second"] = 1.0
            raise Moved("tiny-pipeline: somebody else")
        return registered(content.registered_name)

    monkeypatch.setattr(register, "register", one)
    with mlflow.start_run(), pytest.raises(SlmflowError) as error:
        again_if_moved(state_of(context, candidates).register_all)
    assert "the gate was missed, tiny-onnx v1 was registered before, nothing else is" in str(error.value)


def test_the_machine_is_beside_the_speeds_of_a_version():
    logged = dict.fromkeys(("source", "commit", "licence", "source_digest", "precision"), "x") | {
        "gguf": None
    }
    tags = evidence_tags(evaluation(), logged, None, {}, {})
    assert tags["machine"] == "one, 2, 2, Linux x86_64"
    assert tags["metric.decode_tokens_per_second"] == "50"


def test_a_version_says_how_much_its_figures_are_of_and_that_the_machine_was_busy():
    logged = dict.fromkeys(("source", "commit", "licence", "source_digest", "precision"), "x") | {
        "gguf": None
    }
    made = evaluation(tasks={"digest": "d", "items": 151, "set_items": 250, "score": 0.5})
    made["fidelity"]["tokens"] = 510.0
    made["cost"]["others_after"] = 1.5
    tags = evidence_tags(made, logged, None, {}, {})
    assert (tags["metric.tokens"], tags["metric.tasks.items"]) == ("510", "151")
    said = description_of(made, logged, None, {}, "0")
    assert "- Fidelity is of 510 scored tokens.\n- Tasks are of 151 of 250 items.\n" in said
    assert "- Speeds are of a busy machine: other processes used 1.5 of 2 processors." in said
    before = description_of(evaluation(), logged, None, {}, "0")
    assert "tokens" not in before, "an evaluation of before says what it has"
    assert "busy" not in before
