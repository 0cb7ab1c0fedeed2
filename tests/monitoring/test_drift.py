"""The rule for drift: trifles and few rows are never called, real changes are, chance rarely."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from slmflow.monitoring.call import Call
from slmflow.monitoring.drift import LEAST_SHARE, compare, corrected, holm
from slmflow.monitoring.figures import figures_of, identical


def calls(tokens, refused=(), seconds=0.1):
    return [
        Call(f"{at}", 10, int(count), seconds, False, False, at in refused, None, None)
        for at, count in enumerate(tokens)
    ]


def drifted(before, after, *, paired=False, same_machine=True):
    one = compare("x", ("a", "b"), before, after, paired=paired, same_machine=same_machine)
    return [test.figure for test in corrected([one])[0].drifted]


LENGTHS = np.random.default_rng(0).poisson(50, 100) + 1
SIDE = st.lists(
    st.builds(
        Call,
        prompt_tokens=st.none() | st.integers(0, 99),
        answer_tokens=st.none() | st.integers(0, 99),
        seconds=st.none() | st.floats(0, 9),
        refusal=st.none() | st.booleans(),
        json_valid=st.none() | st.booleans(),
        empty=st.none() | st.booleans(),
        error=st.none() | st.text(max_size=3),
    ),
    max_size=60,
)


@given(SIDE, st.booleans())
def test_the_same_calls_never_drift(side, paired):
    assert not drifted(side, side, paired=paired)


@given(SIDE, SIDE)
def test_drift_is_called_only_with_enough_rows_a_small_p_and_an_effect(before, after):
    [one] = corrected([compare("x", ("a", "b"), before, after, paired=False, same_machine=True)])
    for test in one.tests:
        assert 0 <= test.p <= test.p_holm <= 1
        if test.drifted:
            assert test.p_holm < 0.05
            assert abs(test.effect) > LEAST_SHARE - 1e-6
    if min(len(before), len(after)) < 20:
        assert not one.tests


@given(SIDE, SIDE)
def test_the_order_of_sides_changes_no_verdict_on_shares(before, after):
    shares = ("refusals", "invalid_json", "empty_answers", "errors")
    assert set(drifted(before, after)) & set(shares) == set(drifted(after, before)) & set(shares)


@pytest.mark.parametrize("paired", [True, False])
def test_answers_half_as_long_drift(paired):
    found = drifted(calls(LENGTHS), calls(LENGTHS // 2), paired=paired)
    assert "answer_tokens" in found
    assert "prompt_tokens" not in found


@pytest.mark.parametrize("paired", [True, False])
def test_a_certain_trifle_is_not_drift(paired):
    many = np.tile(LENGTHS, 20)
    assert drifted(calls(many), calls(many + 1), paired=paired) == []


@pytest.mark.parametrize("paired", [True, False])
def test_refusals_of_a_fifth_drift_and_of_one_in_a_hundred_do_not(paired):
    same = calls(LENGTHS)
    assert drifted(same, calls(LENGTHS, refused=range(20)), paired=paired) == ["refusals"]
    assert drifted(same, calls(LENGTHS, refused=[3]), paired=paired) == []


def test_speed_is_tested_on_one_machine_only():
    slow = calls(LENGTHS, seconds=0.5)
    assert drifted(calls(LENGTHS), slow, paired=True) == ["seconds", "tokens_per_second"]
    assert drifted(calls(LENGTHS), slow, paired=True, same_machine=False) == []


def test_chance_alone_is_seldom_called_drift():
    random = np.random.default_rng(1)
    called = 0
    for _ in range(100):
        halves = [
            calls(random.geometric(0.02, 100), refused=np.flatnonzero(random.random(100) < 0.2)) for _ in "ab"
        ]
        called += bool(drifted(*halves))
    assert called <= 10


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_is_monotone_bounded_and_between_no_correction_and_bonferroni(values):
    adjusted = holm(values)
    for value, raised in zip(values, adjusted, strict=True):
        assert value <= raised <= min(1, len(values) * value) + 1e-12 or raised == max(adjusted)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all() if values else True


def test_holm_of_a_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_shares_are_tested_as_scipy_does():
    before, after = calls(LENGTHS, refused=range(5)), calls(LENGTHS, refused=range(20))
    [test] = [
        t
        for t in compare("x", ("a", "b"), before, after, paired=False, same_machine=True).tests
        if t.figure == "refusals"
    ]
    assert test.p == pytest.approx(stats.fisher_exact([[5, 20], [95, 80]]).pvalue)
    assert test.effect == pytest.approx(0.15)


def test_figures_of_calls_with_gaps_leave_out_what_is_not_known():
    found = figures_of([Call(error="x"), Call("a", 3, 10, 2.0, True, False, False, True)])
    assert found["errors"] == 0.5
    assert found["tokens_per_second_p50"] == 5.0
    assert found["ended_by_max_tokens"] == 1.0
    assert found["invalid_json"] == 0.0
    assert found["json_asked"] == 1
    assert figures_of([])["rows"] == 0
    assert "refusals" not in figures_of([Call(error="x")])


def test_identical_answers_are_counted_where_both_answered_and_nothing_was_redacted():
    first = [Call("a"), Call("b"), Call("c"), Call(error="x")]
    second = [Call("a"), Call("x"), Call("d"), Call("e")]
    assert identical(first, second, [True, True, False, True]) == 0.5
    assert identical(first, second, [False] * 4) is None
