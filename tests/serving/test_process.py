import contextlib
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving.conftest import has_ended, wait_for
from tests.serving.test_requests import shaped


def in_background(work):
    """Start a call in a thread; returns its future."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def gone(pid):
    def ended():
        return not psutil.pid_exists(pid) or has_ended(psutil.Process(pid))

    return ended


def test_health_answers_while_the_model_loads_and_requests_are_told_to_wait(make_front):
    front = make_front("worker.load=2")
    assert front.client.get("/health").json() == {"status": "loading"}
    assert front.client.get("/ping").status_code == 503
    answer = front.chat("a")
    assert "loading" in shaped(answer, 503)["message"]
    assert answer.headers["retry-after"]
    assert front.client.get("/v1/models").json()["data"][0]["id"] == "echo"
    front.ready()
    assert front.chat("a").status_code == 200


def test_the_start_says_what_is_served_and_where(make_front):
    front = make_front("engine=small", "worker.engine=small").ready()
    text = wait_for(lambda: (said := front.out.read_text()).count("\n") > 4 and said)
    assert text.startswith(f"listening on {front.url}\n")
    assert "slmflow serves echo version 1\n" in text
    assert f"curl {front.url}/v1/chat/completions" in text
    assert "stand-in" in text


def test_a_taken_port_is_one_line_and_status_2(make_front):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        front = make_front(f"port={taken.getsockname()[1]}", listen=False)
        assert front.process.wait(20) == 2
        (line,) = front.err.read_text().splitlines()
        assert f"port={taken.getsockname()[1]}" in line
    assert front.log() == ""


@pytest.mark.parametrize(
    "word",
    [
        "model_uri=models:/a",
        "model_uri=/nowhere",
        "model_uri=s3://a/b",
        "port=x",
        "port=70000",
        "cors=*",
        "token_env=UNSET_ONE",
        "token=secret",
        "drain_seconds=nan",
    ],
)
def test_a_bad_argument_is_one_line_and_status_1(make_front, word):
    front = make_front(word, listen=False)
    assert front.process.wait(20) == 1
    (line,) = front.err.read_text().splitlines()
    assert word.split("=")[0] in line


def test_a_killed_worker_fails_only_its_requests_and_is_replaced(make_front):
    front = make_front().ready()
    _, pid = front.worker()
    with front.stream("slow " * 50) as answer:
        lines = answer.iter_lines()
        next(lines)
        os.kill(pid, signal.SIGKILL)
        rest = [line for line in lines if line]
    error = json.loads(rest[-1].removeprefix("data: "))["error"]
    assert error["message"] == "the worker ended while it answered; ask again"
    assert front.chat("a").status_code == 503
    wait_for(lambda: front.metric("slmflow_worker_restarts_total") == 1)
    front.ready()
    assert front.worker()[1] != pid


def test_a_worker_that_dies_of_a_request_answers_503(make_front):
    front = make_front().ready()
    answer = front.chat("die at once")
    assert shaped(answer, 503)["message"] == "the worker ended while it answered; ask again"
    assert answer.headers["retry-after"]
    wait_for(lambda: front.metric("slmflow_worker_restarts_total") == 1)
    front.ready()
    assert front.chat("a").status_code == 200


def test_a_worker_that_does_not_start_is_tried_again_more_and_more_slowly(make_front):
    front = make_front("worker.broken=1")
    wait_for(lambda: front.log().count("start") >= 3)
    health = front.client.get("/health")
    assert health.status_code == 503
    assert health.json() == {
        "status": "failed",
        "message": "echo version 1: the worker ended with status 3; the weights are damaged",
    }
    assert "/health" in shaped(front.chat("a"), 503)["message"]
    assert "the weights are damaged; again in 0.5 seconds" in front.err.read_text()
    assert "again in 1.0 seconds" in front.err.read_text()
    assert front.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_no_new_ones_begin(make_front, number):
    front = make_front().ready()
    pid = front.worker()[1]
    running = in_background(lambda: front.chat("slow " * 12))
    wait_for(lambda: front.log().count("begin") == 2)
    front.process.send_signal(number)
    wait_for(lambda: "ending" in front.err.read_text())
    refused = httpx.post(front.url + "/v1/chat/completions", json={"messages": []})
    assert shaped(refused, 503)["code"] == "draining"
    assert refused.headers["connection"] == "close"
    assert httpx.get(front.url + "/health").json() == {"status": "draining"}
    assert running.result().status_code == 200
    assert front.process.wait(10) == 0
    assert gone(pid)()
    assert front.log().count("stop") == 1


def test_a_drain_ends_in_time_and_says_what_was_cut(make_front):
    front = make_front("drain_seconds=0.5").ready()
    pid = front.worker()[1]
    running = in_background(lambda: front.chat("slow " * 100))
    wait_for(lambda: front.log().count("begin") == 2)
    start = time.monotonic()
    assert front.end() == 0
    assert time.monotonic() - start < 5
    assert running.result().status_code == 503
    assert "1 requests were cut off" in front.err.read_text()
    assert gone(pid)()


def test_a_second_signal_cuts_the_drain_short(make_front):
    front = make_front().ready()
    in_background(lambda: front.chat("slow " * 100))
    wait_for(lambda: front.log().count("begin") == 1)
    front.process.send_signal(signal.SIGINT)
    wait_for(lambda: "ending" in front.err.read_text())
    assert front.end(signal.SIGINT, 5) == 0


def test_a_worker_does_not_outlive_a_killed_front(make_front):
    front = make_front().ready()
    pid = front.worker()[1]
    front.end(signal.SIGKILL)
    wait_for(gone(pid), 5)


def test_sockets_are_private_and_removed(make_front):
    front = make_front().ready()
    command = psutil.Process(front.worker()[1]).cmdline()
    folder = Path(next(word for word in command if word.startswith("socket=")).removeprefix("socket=")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    front.end()
    assert not folder.exists()


def test_the_token_is_asked_for_and_not_given_to_workers(make_front):
    front = make_front("token_env=MY_TOKEN", environment={"MY_TOKEN": "s3cret"}).ready()
    for header in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic s3cret"},
        {"Authorization": b"Bearer \xe9"},
    ):
        answer = front.chat("a", headers=header)
        assert shaped(answer, 401)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert front.client.get("/metrics").status_code == 401
    assert front.client.get("/ping").status_code == 200
    assert front.client.get("/").status_code in (200, 404)
    front.client.headers["authorization"] = "bearer s3cret"
    assert front.chat("a").status_code == 200
    assert "MY_TOKEN" not in psutil.Process(front.worker()[1]).environ()
    assert "s3cret" not in front.out.read_text() + front.err.read_text()
    assert "$MY_TOKEN" in front.out.read_text()


def test_one_origin_may_be_let_in(make_front):
    front = make_front("cors=https://example.org", environment={"SLMFLOW_TOKEN": "t"}).ready()
    asked = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    answer = front.client.options("/v1/chat/completions", headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    other = front.client.get("/health", headers={"Origin": "https://other.org"})
    assert other.headers.get("access-control-allow-origin") != "https://other.org"


def test_other_sites_are_let_in_by_their_name_or_by_a_token_and_any_name_of_a_public_address(make_front):
    asks = {"Origin": "https://example.org"}
    assert make_front("cors=https://example.org").ready().chat("a", headers=asks).status_code == 200
    front = make_front(environment={"SLMFLOW_TOKEN": "t"}).ready()
    headers = {"Origin": "https://other.org", "Host": "other.org", "Authorization": "Bearer t"}
    assert front.chat("a", headers=headers).status_code == 200
    front = make_front("host=0.0.0.0").ready()
    assert front.chat("a", headers={"Host": "inside.example"}).status_code == 200
    assert front.chat("a", headers={**asks, "Host": "inside.example"}).status_code == 403


def test_metrics_do_not_wait_for_a_deaf_worker(make_front):
    front = make_front("worker.deaf=1").ready()
    start = time.monotonic()
    assert front.metric("slmflow_ready") == 1
    assert time.monotonic() - start < 2


class Load:
    """Clients that ask all the time; what they get is counted."""

    def __init__(self, front, clients=4):
        self.front, self.answers, self.stop = front, [], threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(clients)]

    def ask(self):
        while not self.stop.is_set():
            answer = self.front.chat("slow a b")
            self.answers.append((answer.status_code, answer.json().get("system_fingerprint")))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def alias(tmp_path):
    file = tmp_path / "alias"
    file.write_text("1")
    return file


def alias_words(alias, *more):
    return ("model_uri=models:/echo@champion", f"version={alias}", "follow_seconds=0.1", *more)


def serves(front, version):
    return lambda: (
        front.client.get("/version").json()["model"]["version"] == version
        and front.chat("a").json().get("system_fingerprint") == f"models:/echo/{version}"
    )


@pytest.mark.parametrize("memory", [1 << 40, 0])
def test_a_moved_alias_swaps_versions_without_losing_a_request(make_front, alias, memory):
    front = make_front(*alias_words(alias, f"memory={memory}", "worker.load=0.5")).ready()
    old = front.worker()[1]
    with Load(front) as load:
        time.sleep(0.3)
        alias.write_text("2")
        wait_for(lambda: front.metric("slmflow_version_swaps_total") == 1)
        time.sleep(0.5)
    assert {status for status, _ in load.answers} == {200}
    assert {model for _, model in load.answers} == {"models:/echo/1", "models:/echo/2"}
    assert load.answers[-1][1] == "models:/echo/2"
    wait_for(gone(old), 5)
    assert serves(front, "2")()
    text = front.log().splitlines()
    order = [line.split()[0][-1] + line.split()[2] for line in text if line.endswith(("start", "stop"))]
    assert order == (["1start", "2start", "1stop"] if memory else ["1start", "1stop", "2start"])


def test_the_old_version_finishes_a_long_request_after_the_swap(make_front, alias):
    front = make_front(*alias_words(alias)).ready()
    with front.stream("slow " * 15) as answer:
        lines = answer.iter_lines()
        next(lines)
        alias.write_text("2")
        wait_for(serves(front, "2"))
        assert [line for line in lines if line][-1] == "data: [DONE]"
    wait_for(lambda: front.log().count("stop") == 1, 5)


@pytest.mark.parametrize("memory", [1 << 40, 0])
def test_a_version_that_does_not_load_leaves_the_old_one(make_front, alias, memory):
    front = make_front(*alias_words(alias, "worker.broken=2", f"memory={memory}")).ready()
    with Load(front, 2) as load:
        alias.write_text("2")
        wait_for(lambda: front.metric("slmflow_version_swap_failures_total") == 1)
        time.sleep(1)
    assert {status for status, _ in load.answers} == {200}
    assert serves(front, "1")()
    assert front.err.read_text().count("the weights are damaged; echo version 1 goes on") == 1
    alias.write_text("3")
    wait_for(serves(front, "3"))


def test_a_held_request_is_let_go_after_its_time(make_front, alias):
    front = make_front(*alias_words(alias, "memory=0", "hold=0.5", "worker.load=1")).ready()
    running = in_background(lambda: front.chat("slow " * 15))
    wait_for(lambda: "begin" in front.log())
    alias.write_text("2")
    wait_for(lambda: "no memory" in front.err.read_text())
    shaped(front.chat("a"), 503)
    assert running.result().status_code == 200
    wait_for(serves(front, "2"))


def test_a_failing_registry_changes_nothing_and_is_logged_once(make_front, alias):
    front = make_front(*alias_words(alias)).ready()
    alias.write_text("out of order")
    wait_for(lambda: front.metric("slmflow_follow_failures_total") >= 3)
    assert front.err.read_text().count("out of order") == 1
    assert front.worker()[0] == "models:/echo/1"
    alias.write_text("2")
    wait_for(serves(front, "2"))


def test_a_killed_worker_during_a_swap_does_no_harm(make_front, alias):
    front = make_front(*alias_words(alias, "worker.load=0.7")).ready()
    pid = front.worker()[1]
    alias.write_text("2")
    wait_for(lambda: "echo/2" in front.log())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: front.client.get("/health").status_code == 503)
    wait_for(serves(front, "2"))


def test_an_alias_of_a_real_registry_is_followed(make_front, store):
    from mlflow import MlflowClient

    client = MlflowClient()
    client.create_registered_model("echo")
    for _ in range(2):
        client.create_model_version("echo", source=str(store))
    client.set_registered_model_alias("echo", "champion", "1")
    front = make_front("model_uri=models:/echo@champion", "follow_seconds=0.2").ready()
    assert front.worker()[0] == "models:/echo/1"
    client.set_registered_model_alias("echo", "champion", "2")
    wait_for(serves(front, "2"))
    client.delete_registered_model_alias("echo", "champion")
    wait_for(lambda: front.metric("slmflow_follow_failures_total") >= 1)
    assert front.worker()[0] == "models:/echo/2"
    missing = make_front("model_uri=models:/echo@nobody", listen=False)
    assert missing.process.wait(30) == 1
    assert "models:/echo@nobody" in missing.err.read_text().splitlines()[-1]


def test_a_folder_is_served_under_the_name_that_its_worker_says(make_front, tmp_path):
    (tmp_path / "MLmodel").touch()
    front = make_front(f"model_uri={tmp_path}").ready()
    assert front.client.get("/v1/models").json()["data"][0]["id"] == "echo"
    assert front.client.get("/version").json()["model"] == {
        "name": "echo",
        "version": None,
        "uri": str(tmp_path),
    }
    assert front.chat("a", model="echo").status_code == 200
