"""What a caller is told of a server that fails, and what is kept out of it."""

import os
import socketserver
import threading
from urllib.parse import quote

import mlflow
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from slmflow import tracking
from slmflow.errors import SlmflowError, UnavailableError, exit_status, one_line
from tests.free_port import POLL_SECONDS

words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)


@given(words, words)
def test_a_password_in_the_address_goes_to_the_variable_that_mlflow_has_for_it(user, password):
    host = "host.example:5000/path?a=b"
    environment = {"MLFLOW_TRACKING_URI": f"https://{quote(user, safe='')}:{quote(password, safe='')}@{host}"}
    tracking.uncover(environment)
    assert environment == {
        "MLFLOW_TRACKING_URI": f"https://{host}",
        "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": password,
    }


@given(words)
def test_one_word_in_the_address_is_a_token_and_no_name_that_a_message_would_tell(token):
    environment = {"MLFLOW_TRACKING_URI": f"https://{quote(token, safe='')}@host"}
    tracking.uncover(environment)
    assert environment == {"MLFLOW_TRACKING_URI": "https://host", "MLFLOW_TRACKING_TOKEN": token}


@pytest.mark.parametrize(
    ("uri", "bare"),
    [
        ("https://me:secret@git.example/x.git#sub", "https://git.example/x.git#sub"),
        ("https://token@git.example/x", "https://git.example/x"),
        ("git@git.example:us/x.git", "git@git.example:us/x.git"),
        ("ssh://git@git.example/us/x", "ssh://git@git.example/us/x"),
        ("https://git.example/a@b", "https://git.example/a@b"),
        ("/home/me@work/x", "/home/me@work/x"),
    ],
)
def test_an_address_is_told_without_name_and_password_where_it_can_do_without(uri, bare):
    assert tracking.without_userinfo(uri) == bare


def test_only_a_server_that_was_away_is_an_outage(server):
    line = one_line(failed(lambda: mlflow.MlflowClient().get_run("0" * 32)))
    assert tracking.is_outage(line)
    assert tracking.is_outage(f"slmflow fetch: {line}")
    for other in ("tracking server http://a: does not know user me", "fetch: the disk is full", ""):
        assert not tracking.is_outage(other)


@pytest.mark.parametrize(
    "uri",
    ["sqlite:////a@b/mlflow.db", "https://host/a@b", "postgresql://me:secret@host/mlflow", "databricks"],
)
def test_other_addresses_are_left_as_they_are(uri):
    environment = {"MLFLOW_TRACKING_URI": uri}
    tracking.uncover(environment)
    assert environment == {"MLFLOW_TRACKING_URI": uri}


def test_variables_that_are_set_win_over_the_address():
    environment = {"MLFLOW_TRACKING_URI": "http://a:b@host", "MLFLOW_TRACKING_PASSWORD": "mine"}
    tracking.uncover(environment)
    assert environment["MLFLOW_TRACKING_PASSWORD"] == "mine"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    yield
    mlflow.set_tracking_uri(None)


def failed(ask):
    with pytest.raises(Exception) as caught:
        ask()
    return caught.value


def test_a_server_that_is_away_has_one_line_in_every_shape_that_mlflow_gives_it(server):
    client = mlflow.MlflowClient()
    shapes = [
        failed(lambda: client.get_run("0" * 32)),
        failed(lambda: client.get_registered_model("m")),
        failed(lambda: mlflow.artifacts.download_artifacts("mlflow-artifacts:/0/a")),
        failed(lambda: requests.get("http://127.0.0.1:9/api", timeout=1)),
    ]
    for error in shapes:
        assert tracking.problem_of(error) == one_line(error)
        assert "tracking server http://127.0.0.1:9: no answer (Connection refused)" in one_line(error)


def test_an_answer_that_breaks_off_is_an_outage_and_mlflow_does_not_ask_again(server):
    asked = []

    class Half(socketserver.StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline())
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{"run":')

    with socketserver.TCPServer(("127.0.0.1", 0), Half) as half:
        threading.Thread(target=half.serve_forever, args=[POLL_SECONDS], daemon=True).start()
        uri = f"http://127.0.0.1:{half.server_address[1]}"
        os.environ.pop("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
        mlflow.set_tracking_uri(uri)
        error = failed(lambda: mlflow.MlflowClient().get_run("0" * 32))
        half.shutdown()
    assert len(asked) == 1
    assert tracking.is_outage(one_line(error)), one_line(error)


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError(request=requests.Request("GET", "https://a-hub.example/x").prepare()),
        MlflowException("Run with id=0 not found", error_code=404),
        SlmflowError("mine"),
        ValueError("API request to http://x failed with exception"),
    ],
)
def test_what_others_did_is_not_put_on_the_server(server, error):
    assert tracking.problem_of(error) is None
    tracking.raise_problem(error)


def test_an_entry_point_ends_with_the_line_and_status_1(server, capsys):
    def work():
        return mlflow.MlflowClient().get_run("0" * 32)

    assert exit_status("fetch", work) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("slmflow fetch: tracking server http://127.0.0.1:9: no answer")


def test_the_last_words_to_an_absent_server_never_replace_the_reason(server, monkeypatch):
    monkeypatch.setenv(tracking.PATIENCE, "7")
    with tracking.last_words(UnavailableError("away")):
        assert os.environ[tracking.PATIENCE] == "0", "it is not waited for again"
        mlflow.MlflowClient().set_tag("0" * 32, "a", "b")
    with pytest.raises(ZeroDivisionError), tracking.last_words(ValueError("a defect")):
        1 / 0  # noqa: B018
