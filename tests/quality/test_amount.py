"""As much is asked as the time allows, never less than it must be, and the estimate says how long that takes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.quality.amount import Amount, Pace, costs, decide

numbers = st.integers(0, 300)
pace = st.builds(Pace, st.floats(1, 5000), st.floats(1e-3, 2), st.integers(1, 32))


@st.composite
def questions(draw):
    """The least and the most, and what an amount takes."""
    least = Amount(draw(st.integers(0, 5)), draw(numbers))
    most = Amount(least.windows + draw(st.integers(0, 5)), least.items + draw(numbers))
    loads = [(draw(st.integers(1, 200)), draw(st.integers(0, 64)))] * most.items
    return least, most, costs(draw(pace), draw(st.floats(0, 60)), loads, draw(st.floats(0, 100)))


@given(questions(), st.floats(0, 30))
def test_the_time_is_kept_or_the_least_is_asked(question, minutes):
    least, most, seconds = question
    amount, takes = decide(least, most, minutes, seconds)
    assert takes == seconds(amount)
    assert least.windows <= amount.windows <= most.windows
    assert least.items <= amount.items <= most.items
    assert takes <= 60 * minutes or amount == least


@given(questions(), st.floats(0, 30), st.floats(0, 30))
def test_more_time_never_asks_less_and_no_limit_asks_all(question, one, other):
    least, most, seconds = question
    few, many = (decide(least, most, minutes, seconds)[0] for minutes in sorted((one, other)))
    assert (few.windows, few.items) <= (many.windows, many.items)
    assert few.items <= many.items
    assert decide(least, most, None, seconds)[0] == most


@given(pace, st.integers(1, 500), st.integers(0, 64))
def test_rows_that_are_decoded_together_never_take_longer_than_one_after_the_other(pace, read, new):
    alone = replace(pace, rows=1)
    assert alone.seconds(read, new) == pytest.approx(read / pace.reading + new * pace.step)
    if pace.rows > 1 and 1 / pace.reading <= pace.step / 2:
        assert pace.seconds(read, new) <= alone.seconds(read, new) + 1e-9


@pytest.mark.parametrize(
    ("words", "parameters", "minutes"),
    [
        ("", 135_000_000, 1),
        ("", 499_999_999, 1),
        ("", 500_000_000, 10),
        ("", None, 10),
        ("evaluate.minutes=3", 135_000_000, 3),
        ("evaluate.minutes=0.5", None, 0.5),
        ("evaluate.minutes=0", None, 0),
        ("evaluate.minutes=null", 135_000_000, None),
        ("evaluate=quick", 135_000_000, None),
    ],
)
def test_minutes_are_by_the_size_of_the_model_unless_they_are_given(words, parameters, minutes):
    assert compose(overrides=words).config.evaluate.minutes_for(parameters) == minutes


@pytest.mark.parametrize("value", ["soon", "true", "-1", "nan"])
def test_minutes_that_are_none_are_refused(value):
    with pytest.raises(SlmflowError, match="evaluate.minutes="):
        compose(overrides=f"evaluate.minutes={value}")
