"""What is seen in an answer: refusals, JSON, tool calls, its end."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.monitoring.call import REFUSALS, is_json, is_refusal, observed, wants_json
from slmflow.monitoring.redaction import Redactor

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


OF_OPENAI = st.fixed_dictionaries(
    {"message": ANYTHING | st.fixed_dictionaries({"content": ANYTHING, "tool_calls": ANYTHING})},
    optional={"finish_reason": ANYTHING, "text": ANYTHING},
)


def user(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


@pytest.mark.parametrize("phrase", REFUSALS)
def test_an_answer_that_begins_with_a_phrase_is_a_refusal(phrase):
    assert is_refusal(f"{phrase} help with that")
    shouted = phrase.upper().replace("'", "’")
    assert is_refusal(f'\n**"{shouted} help')
    assert not is_refusal(f"Here you are. {phrase}")


@pytest.mark.parametrize(
    "text", ["", "Sorry to hear that! Try this:", "I can do that", "As a start, mix", "I will now"]
)
def test_an_answer_that_helps_is_none(text):
    assert not is_refusal(text)


@pytest.mark.parametrize(
    "request_body",
    [
        user("x", response_format={"type": "json_object"}),
        user("x", response_format={"type": "json_schema", "json_schema": {}}),
        user("Answer as JSON."),
        user("Return a list of dogs in valid json"),
        user([{"type": "text", "text": "respond with JSON"}]),
        {"messages": [{"role": "system", "content": "Only JSON."}, {"role": "user", "content": "x"}]},
        {"prompt": "Write the following as JSON:"},
    ],
)
def test_json_is_asked_for(request_body):
    assert wants_json(request_body)


@pytest.mark.parametrize(
    "request_body",
    [
        user("What is JSON?"),
        user("x", response_format={"type": "text"}),
        {"messages": [{"role": "user", "content": "in JSON"}, {"role": "user", "content": "Never mind"}]},
        {"prompt": "Once"},
    ],
)
def test_json_is_not_asked_for(request_body):
    assert not wants_json(request_body)


@given(ANYTHING)
def test_every_json_value_is_valid_and_in_a_fence_too(value):
    text = json.dumps(value)
    assert is_json(text)
    assert is_json(f"Here:\n```json\n{text}\n```\n")
    assert not is_json(f"{text} and more")


@pytest.mark.parametrize("text", ["", "NaN", "{'a': 1}", '{"a": }', pytest.param("[" * 100_000, id="deep")])
def test_what_is_no_json_is_none(text):
    assert not is_json(text)


def test_json_is_judged_before_redaction_breaks_it():
    call = observed(user("as JSON"), '{"number": 123456789012}', {}, [], 0.1, Redactor())
    assert call.text == '{"number": [NUMBER]}'
    assert call.json_valid


@given(ANYTHING | st.fixed_dictionaries({"choices": st.lists(OF_OPENAI)}), ANYTHING, ANYTHING)
def test_no_output_of_any_shape_makes_it_fail(output, usage, reasons):
    call = observed(user("as JSON"), output, usage, reasons, None, Redactor())
    assert call.error is None
    assert isinstance(call.text, str)


@given(st.lists(st.dictionaries(st.sampled_from(["role", "content"]), ANYTHING)), ANYTHING)
def test_no_request_of_any_shape_makes_it_fail(messages, form):
    assert wants_json({"messages": messages, "response_format": form}) in (True, False)


def test_why_it_ended_is_taken_from_the_answer_or_else_from_the_trace():
    text = {"choices": [{"text": "a", "finish_reason": "length"}]}
    assert observed({}, text, {}, [], None, Redactor()).ended_by_length is True
    assert observed({}, "a", {}, ["stop"], None, Redactor()).ended_by_length is False
    assert observed({}, "a", {}, [], None, Redactor()).ended_by_length is None
