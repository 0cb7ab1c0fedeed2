"""Rows made of calls: whatever a trace holds, no planted secret is in the dataset, the report or its metrics."""

import json
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from slmflow.machine import machine
from slmflow.monitoring.dataset import digest_of, lines_of
from slmflow.monitoring.redaction import Redactor
from slmflow.monitoring.replay import Replay, as_json
from slmflow.monitoring.report import html, markdown
from slmflow.monitoring.traces import Row, Traces, row_of
from tests.monitoring.test_redaction import PLANTED

SECRETS = [secret for _, secret in PLANTED]
TEXT = st.builds(" ".join, st.lists(st.sampled_from(SECRETS) | st.text(max_size=8), max_size=4))
CALLS = st.lists(
    st.builds(
        lambda text: {"id": "c", "function": {"name": "f", "arguments": json.dumps({"to": text})}}, TEXT
    ),
    max_size=2,
)
PARTS = st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXT), max_size=2)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool"]), "content": TEXT | st.none() | PARTS},
    optional={"name": TEXT, "tool_calls": CALLS},
)
INPUTS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=3)},
    optional={
        "stop": st.lists(TEXT, max_size=2),
        "tools": st.lists(
            st.builds(lambda text: {"function": {"name": "f", "description": text}}, TEXT), max_size=1
        ),
        "response_format": st.builds(
            lambda text: {"type": "json_schema", "json_schema": {"description": text}}, TEXT
        ),
        "user": TEXT,
        "metadata": TEXT,
        "max_tokens": st.integers(1, 9),
        "temperature": TEXT | st.floats(0, 2),
    },
)
OUTPUTS = TEXT | st.builds(
    lambda content, calls: {"choices": [{"message": {"content": content, "tool_calls": calls}}]}, TEXT, CALLS
)


def row(inputs, outputs, status="OK", said=""):
    span = SimpleNamespace(
        inputs=inputs,
        outputs=outputs,
        start_time_ns=10**9,
        end_time_ns=2 * 10**9,
        status=SimpleNamespace(status_code=status, description=said),
        get_attribute=lambda name: None,
    )
    return row_of(span, "tr-1", SimpleNamespace(info=SimpleNamespace(trace_metadata={})), Redactor())


@given(INPUTS, OUTPUTS, st.sampled_from(["OK", "ERROR"]), TEXT)
def test_no_planted_secret_survives_in_dataset_or_report(inputs, outputs, status, said):
    made = row(inputs, outputs, status, said)
    told = made if isinstance(made, str) else ""
    if isinstance(made, Row):
        replay = Replay(
            "x", Traces([made]), {"champion": "c"}, {"champion": {"tr-1": made.production}}, [], machine()
        )
        told = lines_of([made]).decode() + html(replay) + markdown(replay) + json.dumps(as_json(replay))
    for secret in SECRETS:
        assert secret not in told
        assert json.dumps(secret)[1:-1] not in told


@given(INPUTS, OUTPUTS)
def test_the_same_call_gives_the_same_bytes_and_its_digest(inputs, outputs):
    rows = [row(inputs, outputs) for _ in "ab"]
    if isinstance(rows[0], Row):
        assert lines_of(rows[:1]) == lines_of(rows[1:])
        assert digest_of(rows[:1]) == digest_of(rows[1:])


def test_who_asked_and_how_the_answer_was_sent_is_not_asked_again():
    inputs = {"prompt": "a", "n": 3, "logprobs": True, "stream": True, "user": "ada", "seed": 10**12}
    assert row(inputs, "b").request == {"prompt": "a", "seed": 10**12}
