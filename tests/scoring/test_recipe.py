"""A row becomes one request, or one line that says why not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.scoring.recipe import RowError, recipe_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def recipe(words=""):
    return recipe_of(compose(overrides=words).config.score)


@given(st.dictionaries(st.sampled_from(["prompt", "messages", "a", "b"]), JSON))
@pytest.mark.parametrize("words", ["", "score.messages=messages", "'score.template=\\'{a} and {b}\\''"])
def test_any_row_is_a_request_or_an_error_of_its_own(words, row):
    made = RECIPES[words]
    try:
        request = json.loads(made.request_of(row))
    except RowError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert request.keys() <= {"prompt", "messages"}


RECIPES = {
    "": recipe(),
    "score.messages=messages": recipe("score.messages=messages"),
    "'score.template=\\'{a} and {b}\\''": recipe("\"score.template='{a} and {b}'\""),
}


def test_a_template_takes_columns_and_braces_as_they_are():
    made = recipe("\"score.template='{{x}} {a}: {b}'\" score.max_tokens=5")
    assert made.columns == ["a", "b"]
    assert json.loads(made.request_of({"a": "it is {b}", "b": 3})) == {
        "prompt": "{x} it is {b}: 3", "max_tokens": 5
    }  # fmt: skip


def test_a_prompt_is_asked_as_a_chat_where_it_is_said():
    asked = json.loads(recipe("score.chat=true score.temperature=0.5").request_of({"prompt": "Hi"}))
    assert asked == {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5}


def test_a_chat_is_a_list_or_its_json_and_parquets_nulls_are_no_fields():
    made = recipe("score.messages=m")
    chat = [{"role": "user", "content": "Hi"}]
    for value in (
        chat,
        json.dumps(chat),
        [{**chat[0], "name": None}],
        [{"role": "user", "content": "Hi", "name": None}],
    ):
        assert json.loads(made.request_of({"m": value}))["messages"] == chat
    for value in ("no json", 3, ["x"], {"role": "user"}, [{"role": "user", "content": "\ud83d"}]):
        with pytest.raises(RowError):
            made.request_of({"m": value})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("\"score.template='no column'\"", "names no column"),
        ("\"score.template='{a.b}'\"", "is no column"),
        ("\"score.template='{a!r}'\"", "is no column"),
        ("\"score.template='{a'\"", "a brace itself"),
        ("score.prompt=a score.messages=b", "exclude each other"),
        ("score.messages=b score.chat=true", "is a chat already"),
        ("score.rows=0", "out of range"),
    ],
)
def test_what_is_no_recipe_is_refused(words, said):
    with pytest.raises(SlmflowError, match=said):
        recipe(words)


def test_deterministic_rows_have_a_seed_though_none_is_given():
    words = "score.deterministic=true score.temperature=1.0"
    assert json.loads(recipe(words).request_of({"prompt": "a"}))["seed"] == 0
    assert json.loads(recipe(f"{words} score.seed=7").request_of({"prompt": "a"}))["seed"] == 7


@pytest.mark.parametrize("words", ["score.max_tokens=0", "score.temperature=9", "score.top_p=1.5"])
def test_sampling_out_of_range_is_refused_before_any_row_is_read(words):
    with pytest.raises(SlmflowError, match="out of range"):
        recipe(words)


def test_a_template_takes_columns_with_spaces_and_dashes():
    assert json.loads(
        recipe("\"score.template='{the text} {b-c}'\"").request_of({"the text": 1, "b-c": 2})
    ) == {"prompt": "1 2"}
