import json
import socket
import time

import httpx
import pytest

from tests.serving.conftest import wait_for

CHAT = "/v1/chat/completions"


def shaped(response, status):
    """The error of a response, in OpenAI's shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error


def raw(front, data, seconds=10.0):
    """What the server sends for these bytes until it closes."""
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), seconds) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_a_chat_is_answered_whole(front):
    answer = front.chat("hello there", model="echo")
    assert answer.json()["choices"][0]["message"]["content"] == "hello there"
    assert answer.headers["x-request-id"]
    assert "access-control-allow-origin" not in answer.headers


def test_a_chat_is_streamed_as_events(front):
    with front.stream("one two") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = answer.read().decode()
    *events, end = text.removesuffix("\n\n").split("\n\n")
    assert [
        json.loads(event.removeprefix("data: "))["choices"][0]["delta"]["content"] for event in events
    ] == ["one ", "two "]
    assert end == "data: [DONE]"


def test_a_completion_and_an_invocation_reach_the_worker_as_such(front):
    assert front.client.post("/v1/completions", json={"prompt": "a b"}).json()["choices"]
    answer = front.client.post("/invocations", json={"inputs": ["a b"], "model": "any"})
    assert answer.json() == {"predictions": ["a b"]}


def test_any_content_type_is_parsed_as_json(front):
    answer = front.client.post(
        "/invocations", content=b'{"inputs":["\xc3\xa9"]}', headers={"content-type": "text/plain"}
    )
    assert answer.json() == {"predictions": ["é"]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b'{"a": ', "line 1 column"),
        (b'{"a": "\xff"}', "byte 7"),
        (b"[1]", "array"),
        (b"null", "null"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": ' + b"[" * 40000 + b"]" * 40000 + b"}", "nested"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"messages": [], "stream": "yes"}', "stream must"),
        (b'{"messages": [], "model": 3}', "model must"),
    ],
)
def test_a_bad_body_is_refused_without_being_repeated(front, body, says):
    error = shaped(front.client.post(CHAT, content=body), 400)
    assert says in error["message"]
    assert len(error["message"]) < 200


@pytest.mark.parametrize("path", ["/nowhere", "/v1/chat", "/v1/models/other", "/health/"])
def test_an_unknown_path_has_openais_shape(front, path):
    shaped(front.client.get(path), 404)


def test_a_wrong_method_has_openais_shape_and_says_what_is_allowed(front):
    answer = front.client.get(CHAT)
    shaped(answer, 405)
    assert answer.headers["allow"] == "POST"
    shaped(front.client.delete("/health"), 405)
    shaped(front.client.options(CHAT), 405)


def test_what_is_no_http_has_openais_shape(front):
    assert b'{"error":{' in raw(front, b"NONSENSE\r\n\r\n")


def test_another_model_is_refused_by_the_name_that_is_served(front):
    error = shaped(front.chat("a", model="gpt-4"), 404)
    assert error["code"] == "model_not_found"
    assert "'echo'" in error["message"]


@pytest.mark.parametrize("model", ["", None, "echo", "models:/echo/1"])
def test_the_served_model_goes_by_several_names(front, model):
    assert front.chat("a", model=model).status_code == 200


def test_the_model_is_listed(front):
    listed = front.client.get("/v1/models").json()
    (model,) = listed["data"]
    assert (model["id"], model["version"], model["engine"]) == ("echo", "1", "stand-in")
    assert front.client.get("/v1/models/echo").json() == model


def test_versions_are_told(front):
    said = front.client.get("/version").json()
    assert said["mlflow"]
    assert said["model"] == {"name": "echo", "version": "1", "uri": "models:/echo/1"}


def test_a_large_body_is_refused_by_its_announced_length(front):
    head = (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\nExpect: 100-continue\r\n\r\n"
        % CHAT.encode()
    )
    answer = raw(front, head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer
    assert b"connection: close" in answer.lower()


def test_a_large_chunked_body_is_refused_before_its_end(front):
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode()
    answer = raw(front, head + b"1d4c0\r\n" + b"x" * 120000)  # no end
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_cut(front):
    start = time.monotonic()
    answer = raw(
        front, b'POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{"a"' % CHAT.encode()
    )
    assert answer.startswith(b"HTTP/1.1 408")
    assert 0.9 < time.monotonic() - start < 5


def test_a_head_that_never_comes_whole_is_cut(front):
    start = time.monotonic()
    answer = raw(front, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"headers did not arrive" in answer
    assert 0.9 < time.monotonic() - start < 5


def test_an_answer_carries_the_name_that_the_list_of_models_gives(front):
    (listed,) = front.client.get("/v1/models").json()["data"]
    assert front.chat("a b").json()["model"] == listed["id"]
    with front.stream("a b") as answer:
        first = answer.read().decode().split("\n\n")[0]
    assert json.loads(first.removeprefix("data: "))["model"] == listed["id"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "http://[::1"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80", "Origin": "http://evil.example:80"},
        {"Host": "localhost.evil.example"},
        {"Host": "[::1"},
    ],
)
def test_pages_of_other_sites_do_not_reach_a_server_without_a_token(front, headers):
    before = front.log()
    answer = front.client.post(CHAT, content=b'{"prompt": "a"}', headers=headers)
    assert shaped(answer, 403)["type"] == "permission_error"
    assert front.log() == before


def test_its_own_page_and_programs_do(front):
    host = front.url.removeprefix("http://")
    for headers in (
        {"Origin": front.url},
        {"Host": "LOCALHOST:1"},
        {"Host": host, "Origin": front.url},
        {"Host": "[::1]"},
    ):
        assert front.chat("a", headers=headers).status_code == 200, headers


def test_a_request_id_is_kept_if_it_is_safe(front):
    assert front.chat("a", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for bad in ("a b", "x" * 129, "<script>"):
        assert front.chat("a", headers={"X-Request-Id": bad}).headers["x-request-id"] != bad
    assert front.client.get("/nowhere", headers={"X-Request-Id": "abc-2"}).headers["x-request-id"] == "abc-2"


def test_a_full_worker_says_when_to_come_again(front):
    for answer in (front.chat("full"), front.chat("full", stream=True)):
        assert shaped(answer, 429)["type"] == "rate_limit_error"
        assert answer.headers["retry-after"] == "1"


def test_an_error_within_a_stream_is_its_last_event(front):
    with front.stream("late a b c") as answer:
        assert answer.status_code == 200
        events = answer.read().decode().removesuffix("\n\n").split("\n\n")
    assert len(events) == 3
    assert json.loads(events[-1].removeprefix("data: "))["error"]["message"] == "the engine stopped"


@pytest.mark.parametrize("prompt", ["garbage", "nan"])
def test_a_worker_that_answers_no_json_is_a_server_error(front, prompt):
    shaped(front.chat(prompt), 500)


def test_a_client_that_goes_away_cancels_its_request(front):
    before = front.log().count("cancelled")
    body = {"messages": [{"content": "slow " * 50}]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(front.url + CHAT, json=body, timeout=0.35)
    wait_for(lambda: front.log().count("cancelled") > before, 2)


def test_a_streaming_client_that_closes_cancels_its_request(front):
    before = front.log().count("cancelled")
    with front.stream("slow " * 50) as answer:
        next(answer.iter_lines())
    wait_for(lambda: front.log().count("cancelled") > before, 2)


def test_metrics_count_what_happened(front):
    front.chat("one two three")
    with front.stream("one two three") as answer:
        answer.read()
    text = front.client.get("/metrics").text
    assert f'slmflow_requests_total{{route="{CHAT}",status="200"}}' in text
    for name in ("first_token_seconds", "queue_seconds", "tokens_per_second", "chunk_gap_seconds"):
        assert front.metric(f"slmflow_{name}_count") > 0, name
    assert front.metric("slmflow_completion_tokens_total") >= 6
    assert front.metric("slmflow_worker_resident_bytes") == 123
    assert front.metric("slmflow_ready") == 1
    assert "/nowhere" not in text


def test_the_page_has_a_strict_policy_or_says_that_it_is_missing(front):
    answer = front.client.get("/")
    if answer.status_code == 404:
        shaped(answer, 404)
    else:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
