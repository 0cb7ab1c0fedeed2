"""The server as OpenAI's own client sees it."""

import json

import openai
import pytest

CHAT = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(live):
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def model(client):
    return client.models.list().data[0].id


def test_a_chat_is_answered_with_usage(client, model):
    reply = client.chat.completions.create(model=model, messages=CHAT, max_tokens=8)
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_stream_is_the_same_answer_in_pieces(client, model):
    whole = client.chat.completions.create(model=model, messages=CHAT, max_tokens=8)
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=model, messages=CHAT, max_tokens=8, stream=True, stream_options=options
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert {answer.model for answer in (whole, *chunks)} == {client.models.list().data[0].id}
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_an_answer_obeys_a_json_schema(client, model):
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    reply = client.chat.completions.create(model=model, messages=CHAT, max_tokens=40, response_format=form)
    assert isinstance(json.loads(reply.choices[0].message.content)["yes"], bool)


def test_several_answers_with_a_seed_repeat(client, model):
    words = {"model": model, "messages": CHAT, "max_tokens": 8, "n": 3, "temperature": 1.0, "seed": 5}
    first, again = (client.chat.completions.create(**words) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1


def test_a_stop_text_is_not_part_of_the_answer(client, model):
    words = {"model": model, "messages": CHAT, "max_tokens": 12}
    text = client.chat.completions.create(**words).choices[0].message.content
    stop = text[4:6]
    reply = client.chat.completions.create(**words, stop=[stop])
    assert reply.choices[0].message.content == text[: text.find(stop)]
    assert reply.choices[0].finish_reason == "stop"


def test_log_probabilities_come_with_their_alternatives(client, model):
    reply = client.chat.completions.create(
        model=model, messages=CHAT, max_tokens=3, logprobs=True, top_logprobs=2
    )
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens
    assert all(one.logprob == one.top_logprobs[0].logprob <= 0 for one in content)


def test_the_older_completions_work_too(client, model):
    reply = client.completions.create(model=model, prompt="Once", max_tokens=4)
    assert reply.object == "text_completion"
    pieces = client.completions.create(model=model, prompt="Once", max_tokens=4, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == reply.choices[0].text


def test_errors_are_those_that_the_client_knows(client, model):
    with pytest.raises(openai.BadRequestError, match="temperature=9 must be a number from 0 to 2") as caught:
        client.chat.completions.create(model=model, messages=CHAT, temperature=9)
    assert caught.value.param == "temperature"
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with pytest.raises(openai.BadRequestError, match="no place for tools"):
        client.chat.completions.create(model=model, messages=CHAT, tools=tools)
    with pytest.raises(openai.NotFoundError, match="model"):
        client.chat.completions.create(model="gpt-9", messages=CHAT)
    with pytest.raises(openai.BadRequestError, match=r"\d+ tokens and max_tokens is 511"):
        client.chat.completions.create(model=model, messages=CHAT, max_tokens=511)


def test_the_pipeline_answers_the_same_client(live_pipeline):
    client = openai.OpenAI(base_url=f"{live_pipeline.url}/v1", api_key="none", max_retries=0)
    words = {"model": client.models.list().data[0].id, "messages": CHAT, "max_tokens": 4}
    reply = client.chat.completions.create(**words, n=1, stream=False, frequency_penalty=0, temperature=0)
    assert reply.usage.completion_tokens <= 4
    streamed = client.chat.completions.create(**words, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == reply.choices[0].message.content
    several = [client.chat.completions.create(**words, n=2, temperature=1, seed=3) for _ in range(2)]
    assert several[0].choices == several[1].choices
    assert len(several[0].choices) == 2
    with pytest.raises(openai.BadRequestError, match="logprobs: the pipeline cannot do that"):
        client.chat.completions.create(**words, logprobs=True)


def test_mlflows_invocations_take_mlflows_shapes(live):
    text = live.ask("/invocations", prompt="Once", max_tokens=4)
    assert text.status_code == 200
    rows = [{"prompt": "Once", "max_tokens": 4}, {"messages": CHAT, "max_tokens": 4}]
    table = live.ask("/invocations", dataframe_records=rows).json()["predictions"]
    assert table[0] == text.json()[0]
    assert table[1]["object"] == "chat.completion"
    split = {"columns": ["prompt", "max_tokens"], "data": [["Once", 4]]}
    assert live.ask("/invocations", dataframe_split=split).json()["predictions"] == text.json()
    assert live.ask("/invocations", inputs={"prompt": ["Once", "Two"]}).status_code == 200
    assert live.ask("/invocations", inputs=["Once"]).status_code == 400
