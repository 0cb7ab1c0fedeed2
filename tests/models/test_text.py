"""Text while it comes: whole characters only, stop texts across token borders."""

from hypothesis import given
from hypothesis import strategies as st

from slmflow.models.slm_runtime.text import TextStream
from slmflow.models.slm_runtime.tools import parse_calls


def streamed(tokenizer, ids, stops=()):
    stream = TextStream(tokenizer, stops)
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces, True
    pieces.append(stream.finish())
    return pieces, stream.stopped


@given(text=st.text(max_size=120))
def test_the_pieces_together_are_the_text(runtime, text):
    ids = runtime.tokenizer.encode(text)
    pieces, _ = streamed(runtime.tokenizer, ids)
    assert "".join(pieces) == runtime.tokenizer.decode(ids)


@given(text=st.text(alphabet="ab🙂é ", max_size=60), stop=st.text(alphabet="ab🙂é ", min_size=1, max_size=5))
def test_nothing_of_a_stop_text_or_after_it_is_ever_told(runtime, text, stop):
    ids = runtime.tokenizer.encode(text)
    pieces, stopped = streamed(runtime.tokenizer, ids, [stop])
    whole = runtime.tokenizer.decode(ids)
    assert stopped == (stop in whole)
    assert "".join(pieces) == (whole[: whole.find(stop)] if stopped else whole)


def test_a_character_of_several_tokens_comes_whole(runtime):
    pieces, _ = streamed(runtime.tokenizer, runtime.tokenizer.encode("🙂🙂"))
    assert "\ufffd" not in "".join(pieces)


def test_tool_calls_are_parsed_in_the_words_of_the_template():
    hermes = "{% if tools %}<tool_call>{% endif %}"
    text = 'Sure.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    rest, calls = parse_calls(hermes, text, {"add"})
    assert rest == "Sure."
    assert calls[0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    llama = 'tools "parameters"'
    rest, calls = parse_calls(llama, '{"name": "add", "parameters": {"a": 1}}', {"add"})
    assert rest == ""
    assert calls[0]["function"]["name"] == "add"
    phi = "tools <|tool_call|>"
    _, calls = parse_calls(phi, '<|tool_call|>[{"name":"add","arguments":{}}]<|/tool_call|>', {"add"})
    assert len(calls) == 1


def test_a_call_that_is_none_stays_text():
    hermes = "tools <tool_call>"
    for text in ("<tool_call>{no}</tool_call>", '<tool_call>{"name": "rm"}</tool_call>', "plain", "[1, 2]"):
        rest, calls = parse_calls(hermes, text, {"add"})
        assert calls == []
        assert rest.startswith(text[:10])
