"""Two evaluations that were not asked the same are compared on what both were asked, or not let through."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.compose import compose
from slmflow.quality.evaluation import window_rows
from slmflow.quality.fidelity import Positions
from slmflow.quality.tasks import Row, figures, table
from slmflow.quality.windows import Window
from slmflow.registry.common import fidelity_of, windows_in_common
from slmflow.registry.gate import judge
from slmflow.registry.relative import Champion
from tests.registry.test_gate import evaluation, misses

GATE = compose().config.gate


def windows(count, size=50, seed=0, kl=0.004, top1=0.97, text=0):
    """What was found at the positions of `count` windows of a text."""
    chance, of_text = np.random.default_rng(seed), np.random.default_rng(text)
    found = []
    for _ in range(count):
        reference = -of_text.exponential(3, size)
        moved = reference + chance.normal(0, 0.1, size)
        same = chance.random(size) < top1
        found.append(Positions(chance.exponential(kl, size), same, reference, moved))
    return found


def rows_of_windows(found, places=None):
    """The table of windows at these places of a text; from its beginning where none are given."""
    return window_rows([Window([], place) for place in places or range(len(found))], found)


def fidelity(found):
    return {**Positions.joined(found).figures(), "windows_digest": f"{len(found)} {found[0].reference[0]}"}


@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 2**32))
def test_the_rows_of_windows_give_the_figures_of_their_positions(count, size, seed):
    found = windows(count + 2, size, seed)
    whole = Positions.joined(found[:count]).figures()
    read = fidelity_of(json.loads(json.dumps(rows_of_windows(found))), set(range(count)))
    assert read == pytest.approx({name: whole[name] for name in read}, rel=1e-9, abs=1e-12)


def test_a_text_is_told_by_the_reference_on_it_and_not_by_the_number_of_its_windows():
    few, many, other = windows(2), windows(5), windows(5, text=1)
    tables = [rows_of_windows(found) for found in (few, many, other)]
    assert windows_in_common(tables[0], tables[1]) == windows_in_common(tables[1], tables[0]) == {0, 1}
    assert windows_in_common(tables[1], tables[2]) == set()
    assert windows_in_common(tables[1], rows_of_windows([*other[:1], *many[1:]])) == {1, 2, 3, 4}
    assert windows_in_common(tables[1], rows_of_windows(many[::-1])) == {2}, (
        "the middle one stays in its place"
    )
    assert windows_in_common(tables[1], rows_of_windows([many[0], many[4]], (0, 4))) == {0, 4}
    assert windows_in_common(tables[1], None) == windows_in_common({"columns": []}, tables[1]) == set()


def measured(found, **words):
    return {"evaluation": evaluation(fidelity=fidelity(found), **words), "windows": rows_of_windows(found)}


def champion_of(found, **words):
    made = measured(found, fingerprint="theirs", **words)
    return Champion("3", made["evaluation"], None, made["windows"], "logged-run")


@pytest.mark.parametrize(("ours", "theirs"), [(2, 5), (5, 2)])
def test_where_one_was_asked_more_windows_fidelity_is_compared_on_those_of_both(ours, theirs):
    good, worse = windows(5, 400), windows(5, 400, kl=0.0195, top1=0.941)
    verdict = judge(**measured(good[:ours]), gate=GATE, champion=champion_of(worse[:theirs]))
    assert verdict.passed
    (said,) = [str(check) for check in verdict.checks if check.name == "kl_mean" and check.against]
    assert "on the 800 tokens of both" in said
    verdict = judge(**measured(worse[:ours]), gate=GATE, champion=champion_of(good[:theirs]))
    assert misses(verdict) == ["kl_mean"] or misses(verdict) == ["kl_mean", "top1_agreement"]


def test_another_text_is_refused_in_one_line_that_says_what_to_do():
    verdict = judge(**measured(windows(5, 400)), gate=GATE, champion=champion_of(windows(5, 400, text=1)))
    assert misses(verdict) == ["kl_mean", "top1_agreement"]
    assert str(verdict.misses[0]) == (
        "kl_mean cannot be compared: champion v3 was measured on another text: evaluate champion v3 with these "
        "settings (-e evaluate -P logged_run=logged-run), or do without by "
        "gate.thresholds.0.max_kl_increase=inf and gate.thresholds.0.max_top1_decrease=1"
    )
    wide = str(verdict.misses[0]).rpartition(" by ")[2].replace(" and ", " ")
    wide = compose(overrides=wide).config.gate
    assert judge(**measured(windows(5, 400)), gate=wide, champion=champion_of(windows(5, 400, text=1))).passed
    written = json.loads(json.dumps(verdict.as_dict(), allow_nan=False))
    assert [check["name"] for check in written["checks"] if check["reason"]] == misses(verdict)


def test_fidelity_that_was_left_out_is_refused_where_the_champion_has_it_and_noted_where_it_has_not():
    unmeasured = {"evaluation": evaluation(measured=False), "windows": None}
    verdict = judge(**unmeasured, gate=GATE, champion=champion_of(windows(5, 400)))
    assert misses(verdict) == ["kl_mean", "top1_agreement"]
    assert "fidelity was not measured" in str(verdict.misses[0])
    verdict = judge(
        **measured(windows(5, 400)),
        gate=GATE,
        champion=Champion("3", unmeasured["evaluation"] | {"fingerprint": "f"}),
    )
    assert verdict.passed
    assert "fidelity is not compared with champion v3: it was not measured there" in verdict.notes


def answered(right, first=0, of=None):
    """Rows of items of one set, the evaluation's figures of them, and the table."""
    rows = [
        Row(str(at), "closed" if at % 2 else "json", bool(r), "", "") for at, r in enumerate(right, first)
    ]
    digest = f"{len(rows)} from {first}"
    tasks = figures(rows, None, digest)
    return {"tasks": {**tasks, "set": of} if of else tasks}, table(rows)


def judged(ours, theirs, gate=GATE):
    (mine, my_table), (other, their_table) = ours, theirs
    champion = Champion("3", evaluation(fingerprint="theirs", **other), their_table)
    return judge(evaluation(**mine), gate, champion, my_table)


ANSWERS = np.random.default_rng(5).random(250) < 0.5
SLIPS = np.random.default_rng(6).random(250) < 0.2
WORSE = ANSWERS & ~SLIPS


def test_a_champion_that_answered_all_of_a_set_is_compared_on_the_part_that_was_asked():
    """As the commit before left it: no `set`, as its digest was of all items."""
    theirs = answered(ANSWERS)
    theirs[0]["tasks"]["digest"] = "whole"
    same = judged(answered(ANSWERS[:150], of="whole"), theirs)
    assert same.passed
    assert any("on the 150 items of both" in str(check) for check in same.checks)
    worse = judged(answered(WORSE[:150], of="whole"), theirs)
    assert misses(worse) == ["tasks.score"]
    assert "on the 150 items of both" in str(worse.misses[0])


def test_items_that_were_cut_out_of_a_file_are_another_set_and_do_not_pass():
    theirs = answered(ANSWERS)
    for ours in (answered(ANSWERS[:249]), answered(ANSWERS[::-1]), answered(ANSWERS[:150], of="another")):
        ours[0]["tasks"]["digest"] = "cut"
        assert misses(judged(ours, theirs)) == ["tasks.score"]
    gone = judged(({"tasks": None}, None), theirs)
    assert misses(gone) == ["tasks.score"]
    assert "tasks were not measured" in str(gone.misses[0])


def test_items_of_one_set_that_have_no_table_or_nothing_in_common_do_not_pass():
    mine, other = answered(ANSWERS[:100], of="w"), answered(ANSWERS[:150], of="w")
    assert misses(judged((mine[0], None), other)) == ["tasks.score"]
    assert misses(judged(mine, answered(ANSWERS[:100], first=100, of="w"))) == ["tasks.score"]


def test_a_champion_that_was_asked_no_items_is_no_bar_and_is_said():
    verdict = judged(answered(ANSWERS), ({"tasks": None}, None))
    assert verdict.passed
    assert "tasks are not compared with champion v3: it was not asked any" in verdict.notes
