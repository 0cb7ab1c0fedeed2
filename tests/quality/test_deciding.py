"""What is asked is settled and said before it is asked, and again after an interruption."""

import re

import pytest

from slmflow.compose import compose
from slmflow.quality.deciding import Measurement, settle
from slmflow.quality.items import read_items
from slmflow.quality.journal import Journal
from slmflow.quality.order import nested
from slmflow.quality.windows import windows_of
from slmflow.workflow.asked import Ask
from tests.quality.test_tasks import Letters

SET = read_items("shipped")
TEXT = windows_of(list(range(2560)), 512, 5, [])
CONFIG = compose().config.evaluate
FAST, SLOW = [0.01 + 0.001 * at for at in range(16)], [4.0 + 1.0 * at for at in range(16)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def ask(minutes=1.0, **words):
    return Ask(minutes, 340, 2, 151, SET, tuple(nested(SET.rows)), **words)


def settled(times, asked, parts=("fidelity", "tasks"), is_pipeline=True, config=CONFIG):
    journals = {part: Journal(part) for part in parts}
    measurement = Measurement(Letters(), TEXT, journals, times, 5.0, is_pipeline)
    return settle(measurement, asked, config)


def test_a_fast_machine_asks_all_and_a_slow_one_what_the_gate_needs_and_says_so(capsys):
    assert settled(FAST, ask()) == {
        "windows": 5,
        "of_windows": 5,
        "places": [0, 1, 2, 3, 4],
        "items": 250,
        "of_items": 250,
    }
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert re.fullmatch(
        r"  asks 1,275 scored tokens and 250 of 250 items, as evaluate.minutes=1 allows and the gate's margins need: some \d+ s in all",
        said[0],
    )
    for part in ("fidelity", "tasks"):
        Journal(part).close()
    assert settled(SLOW, ask()) == {
        "windows": 2,
        "of_windows": 5,
        "places": [0, 4],
        "items": 151,
        "of_items": 250,
    }
    short, asks = capsys.readouterr().out.splitlines()
    assert re.match(
        r"  evaluate.minutes=1 is too short for what has to be asked: it takes some [\d.]+ minutes", short
    )
    assert asks.startswith("  asks 510 scored tokens and 151 of 250 items")


def test_a_pipeline_leaves_time_for_slower_candidates_and_says_where_there_is_none(capsys):
    """Reading 800 tokens a second it could ask all within the minute; an export at 0.4 times that could not."""
    times = [0.08 + 0.031 * at for at in range(16)]
    few = settled(times, ask())
    assert 151 < few["items"] < 250
    assert "too short" not in capsys.readouterr().out
    for part in ("fidelity", "tasks"):
        Journal(part).close()
    alone = settled(times, ask(), is_pipeline=False)
    assert alone["items"] > few["items"]
    for part in ("fidelity", "tasks"):
        Journal(part).close()
    settled([0.15 + 0.02 * at for at in range(16)], ask())
    assert "too short for slower candidates, which are asked the same: some " in capsys.readouterr().out


def test_no_limit_asks_all_whatever_it_takes(capsys):
    assert settled(SLOW, ask(None))["items"] == 250
    assert "too short" not in capsys.readouterr().out


def test_what_an_interrupted_evaluation_began_is_asked_again_however_fast_the_machine_is_now():
    first = settled(SLOW, ask())
    assert Journal("tasks").decided == 151
    assert settled(FAST, ask()) == first
    tighter = Ask(1.0, 700, 3, 185, SET, tuple(nested(SET.rows)))
    again = settled(SLOW, tighter)
    assert (again["windows"], again["items"]) == (3, 185), "it began less than the gate needs now"
    Journal("tasks").close()
    assert Journal("tasks").decided is None


def test_only_the_parts_that_are_measured_are_settled():
    assert settled(FAST, ask(), ("tasks",)) == {"items": 250, "of_items": 250}
    assert settled(FAST, ask(), ("fidelity",)) == {
        "windows": 5,
        "of_windows": 5,
        "places": [0, 1, 2, 3, 4],
    }
    assert settled(FAST, ask(windows_again=(0, 2, 4), items_again=200, of="run x"), is_pipeline=False) == {
        "windows": 3,
        "of_windows": 5,
        "places": [0, 2, 4],
        "items": 200,
        "of_items": 250,
    }


def test_without_items_there_is_nothing_but_windows(capsys):
    none = Ask(1.0, 340, 2, 0, None, ())
    assert settled(FAST, none)["items"] == 0
    assert "0 of 0 items" in capsys.readouterr().out
