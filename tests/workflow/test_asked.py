"""How much is asked: what was asked before is asked again, else what the gate needs and the time allows."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.quality.items import read_items
from slmflow.quality.order import nested
from slmflow.quality.windows import digest_of, windows_of
from slmflow.registry.relative import Champion
from slmflow.workflow import asked, evidence
from slmflow.workflow.asked import Ask, ask_of
from slmflow.workflow.tags import KIND_TAG
from tests.registry.conftest import whole
from tests.workflow.made_runs import finished

SET = read_items("shipped")
WINDOWS = windows_of(list(range(2560)), 512, 5, [])
ASK = Ask(1.0, 340, 2, 151, SET, tuple(nested(SET.rows)))


def champion(windows=5, items=250, text=WINDOWS, of=SET.digest, source="s", places=None, **tasks):
    """As the commit before left one: 5 windows and all 250 items, without a word on how many there were."""
    places = places or list(range(windows))
    evaluation = {
        "source_digest": source,
        "fingerprint": "theirs",
        "fidelity": {"tokens": 255.0 * windows, "windows_digest": digest_of([text[at] for at in places])},
        "tasks": {"digest": of, "items": items, **tasks},
    }
    table = {"columns": ["window"], "data": [[at] for at in places]}
    return Champion("3", evaluation, None, table, "logged")


def numbers(ask, windows=WINDOWS, cap=5):
    least, most, _ = ask.limits(windows, cap)
    return (least.windows, most.windows), (least.items, most.items)


def test_without_a_record_the_gates_needs_are_the_least_and_all_there_is_the_most():
    assert numbers(ASK) == ((2, 5), (151, 250))
    assert numbers(replace(ASK, whole=None, order=(), items=0)) == ((2, 5), (0, 0))


def test_a_new_candidate_is_asked_what_the_champion_of_the_commit_before_was():
    ask = replace(ASK, champions=(champion(),))
    assert numbers(ask) == ((5, 5), (250, 250))
    assert ask.why == "as the champion was asked and the gate's margins need"
    assert ask.differing(WINDOWS, {"source_digest": "s"}) == []
    assert numbers(ask, cap=3) == ((3, 3), (250, 250)), "a cap of the user's own; both are compared on these"
    assert numbers(ask, cap=9) == ((5, 5), (250, 250))


def test_the_windows_that_the_champion_read_come_first_and_the_others_are_all_over_the_text():
    def places(*champions, cap=5):
        ask = replace(ASK, champions=champions)
        return [window.number for window in ask.windows_in_order(WINDOWS, cap)]

    assert places() == [0, 4, 2, 1, 3]
    assert places(champion(2, places=[1, 3])) == [1, 3, 0, 4, 2]
    assert places(champion(2, places=[1, 3]), champion(1, places=[4])) == [4, 1, 3, 0, 2]
    assert places(champion(), cap=3) == [0, 2, 1]
    assert places(champion(2, places=[1, 3], text=WINDOWS[::-1])) == [0, 4, 2, 1, 3], "it read another text"


def test_of_two_champions_the_one_that_was_asked_more_counts_and_never_less_than_the_gate_needs():
    some = champion(3, 200, digest="part", set=SET.digest)
    assert numbers(replace(ASK, champions=(some, champion(4, 160, digest="p", set=SET.digest)))) == (
        (4, 4),
        (200, 200),
    )
    few = champion(1, 60, digest="part", set=SET.digest)
    assert numbers(replace(ASK, champions=(few,))) == ((2, 2), (151, 151))
    assert numbers(replace(ASK, champions=(few,), minutes=None)) == ((2, 5), (151, 250))


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (champion(text=WINDOWS[::-1]), ["champion v3 was measured on another text"]),
        (champion(of="another"), ["champion v3 answered other items"]),
        (champion(text=WINDOWS[::-1], source="another"), []),
    ],
)
def test_what_cannot_be_asked_again_is_said_before_the_work(theirs, said):
    ask = replace(ASK, champions=(theirs,))
    lines = ask.differing(WINDOWS, {"source_digest": "s"})
    assert [line.partition(":")[0] for line in lines] == said
    assert all("the gate cannot compare; evaluate it again" in line for line in lines)


def test_what_was_decided_is_asked_again_and_nothing_else():
    again = replace(ASK, windows_again=(0, 2, 4), items_again=200, of="run abc", champions=(champion(),))
    assert [window.number for window in again.windows_in_order(WINDOWS, 5)] == [0, 2, 4]
    assert numbers(again) == ((3, 3), (200, 200))
    assert again.why == "as run abc did"
    assert again.limits(WINDOWS, 5)[2] == []


def test_too_little_for_the_gate_is_said_with_what_it_needs():
    _, _, said = ASK.limits(WINDOWS, 1)
    assert said == [
        "there are 255 scored tokens, and the gate's margins need 340 tokens: an equal candidate may miss them"
    ]
    _, _, said = replace(ASK, items=math.inf).limits(WINDOWS, 5)
    assert said == [
        "there are 250 items, and the gate's margins cannot be shown by any number of items: "
        "an equal candidate may miss them"
    ]


def logged(fingerprint="f"):
    return {
        "parameters": 135_000_000,
        "fingerprint": fingerprint,
        "source_digest": "s",
        "candidate": "pipeline",
    }


def context(upstream=None, **words):
    overrides = " ".join(f"evaluate.{key}={value}" for key, value in words.items())
    config = {"evaluate.window": 512, "evaluate.like": words.get("like", "")}
    parts = {"config": config, "identity": {"text": "t", "items": "i"}}
    return SimpleNamespace(upstream=upstream or {}, config=compose(overrides=overrides).config, parts=parts)


def evaluated(windows=3, items=200, config=None, fingerprint="f"):
    """A finished run of `evaluate` that asked so much."""
    tasks = {"digest": "part", "set": SET.digest, "items": items}
    evaluation = {"fingerprint": fingerprint, "fidelity": {"tokens": 255.0 * windows}, "tasks": tasks}
    table = {"columns": ["window"], "data": [[at] for at in range(windows)]}
    files = {"evaluation.json": json.dumps(evaluation), "windows.json": json.dumps(table)}
    config = {"evaluate.window": 512, "evaluate.like": ""} | (config or {})
    return finished("evaluate", files, config=config, identity={"text": "t", "items": "i"})


def test_a_new_model_has_nothing_to_ask_again(store):
    ask = ask_of(context(), logged())
    assert (ask.tokens, ask.windows, ask.items, ask.minutes) == (340, 2, 151, 1)
    assert (ask.windows_again, ask.items_again, ask.champions) == (None, None, ())


def test_other_candidates_are_asked_what_their_reference_was_and_no_champion_is_looked_for(
    store, monkeypatch
):
    monkeypatch.setattr(asked, "_champions", lambda context: pytest.fail("looked for"))
    ask = ask_of(context({"reference_run": evaluated(3, 200)}), logged())
    assert (ask.windows_again, ask.items_again) == ((0, 1, 2), 200)


def test_a_reference_of_the_commit_before_has_no_word_on_it_and_is_counted(store):
    run = finished(
        "evaluate",
        {
            "evaluation.json": json.dumps(
                {"fidelity": {"tokens": 1275.0}, "tasks": {"digest": SET.digest, "items": 250}}
            ),
            "windows.json": json.dumps({"columns": ["window"], "data": [[at] for at in range(5)]}),
        },
    )
    ask = ask_of(context({"reference_run": run}), logged())
    assert (ask.windows_again, ask.items_again) == ((0, 1, 2, 3, 4), 250)


def test_items_of_another_set_are_not_asked_again_by_their_number(store):
    run = finished(
        "evaluate",
        {"evaluation.json": json.dumps({"fidelity": None, "tasks": {"digest": "own", "items": 3}})},
    )
    ask = ask_of(context({"reference_run": run}), logged())
    assert (ask.windows_again, ask.items_again) == (None, None)


def test_a_reproduction_asks_what_the_run_asked_of_the_same_content_and_settings(store, capsys):
    others = [evaluated(1, 9, fingerprint="g"), evaluated(1, 8, config={"evaluate.window": 64})]
    mine = evaluated(4, 210, config={"evaluate.like": "an earlier one"})
    with mlflow.start_run() as driver:
        mlflow.set_tag(KIND_TAG, "driver")
        steps = [{"name": "e", "step": "evaluate", "run_id": run.info.run_id} for run in (*others, mine)]
        mlflow.log_dict(steps, "plan.json")
    ask = ask_of(context(like=driver.info.run_id), logged())
    assert (ask.windows_again, ask.items_again) == ((0, 1, 2, 3), 210)
    assert mine.info.run_id in ask.of
    assert ask_of(context(like=mine.info.run_id), logged()).items_again == 210
    assert ask_of(context(like=driver.info.run_id), logged("another")).items_again is None
    assert "it evaluated nothing of this content and these settings" in capsys.readouterr().out


def test_a_run_to_ask_like_that_is_none_is_refused_in_one_line(store):
    with pytest.raises(SlmflowError, match="evaluate.like=nobody: no such run"):
        ask_of(context(like="nobody"), logged())
    with pytest.raises(SlmflowError, match="that run is no evaluation, and no driver's run"):
        ask_of(context(like=finished("fetch", {}).info.run_id), logged())


@pytest.mark.parametrize(
    ("flips", "items"), [(None, 151), (0.03, 151), (0.05, 151), (0.075, 224), (0.2, math.inf)]
)
def test_a_champion_that_was_seen_to_flip_more_needs_more_items(store, monkeypatch, flips, items):
    """Twice its own flips where that is more than a tenth; at 0.4 even all items show no margin of 0.05."""
    monkeypatch.setattr(
        asked, "_champions", lambda context: [champion(digest="part", set=SET.digest, flips=flips)]
    )
    assert ask_of(context(), logged()).items == items


def test_the_champions_of_both_names_are_looked_up_in_the_registry(store, monkeypatch):
    monkeypatch.setattr(evidence, "is_intact", whole)
    client = MlflowClient()
    for candidate, windows in (("pipeline", 3), ("onnx", 5)):
        name, run = f"smollm2-135m-{candidate}", evaluated(windows)
        client.create_registered_model(name)
        client.create_model_version(
            name, "s3://nowhere", run.info.run_id, tags={"evaluate_run": run.info.run_id}
        )
        client.set_registered_model_alias(name, "champion", "1")
    found = ask_of(context(), logged()).champions
    assert [len(champion.windows["data"]) for champion in found] == [3, 5]
