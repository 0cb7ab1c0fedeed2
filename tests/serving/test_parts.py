import asyncio
import base64
import hashlib
import logging

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.testclient import TestClient

from slmflow.errors import SlmflowError
from slmflow.serving.errors import from_worker
from slmflow.serving.follow import ModelUri, Target
from slmflow.serving.guard import Guard, Traffic
from slmflow.serving.metrics import Metrics
from slmflow.serving.page import policy_of
from slmflow.serving.settings import parse_settings
from slmflow.serving.worker_client import ask, exchange, parsed


def test_a_policy_lets_only_the_pages_own_parts_run():
    script = "\n  if (1 < 2 && 3 > 2) alert('</div>');\n"
    policy = policy_of(f"<!doctype html><style>a {{}}</style><div></div><script>{script}</script>")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.count("style-src 'sha256-") == 1
    assert policy.startswith("default-src 'none'; connect-src 'self'")


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("models:/a b/12", Target("models:/a b/12", "a b", "12")),
        ("models:/m-0a1", Target("models:/m-0a1", version="m-0a1")),
        ("runs:/" + "0" * 32 + "/model", Target("runs:/" + "0" * 32 + "/model")),
    ],
)
def test_a_uri_that_cannot_move_is_resolved_without_a_registry(uri, target):
    assert ModelUri(uri).resolve() == target
    assert not ModelUri(uri).moves


def test_a_folder_is_served_if_it_has_a_model(tmp_path):
    with pytest.raises(SlmflowError, match="MLmodel is not there"):
        ModelUri(str(tmp_path))
    (tmp_path / "MLmodel").touch()
    assert ModelUri(str(tmp_path)).resolve() == Target(str(tmp_path))


def test_words_without_a_value_take_the_default():
    settings = parse_settings(["model_uri=models:/a@b", "port=", "engine=", "max_body_mb=2"])
    assert (settings.port, settings.engine, settings.max_body_bytes) == (8000, "", 2_000_000)
    assert settings.model.moves


def test_a_defect_is_a_500_that_says_nothing_of_itself(caplog):
    def broken(request):
        raise KeyError("secret")

    metrics, settings = Metrics(), parse_settings(["model_uri=models:/echo/1", "host=0.0.0.0"])
    guard = Middleware(Guard, traffic=Traffic(), metrics=metrics, settings=settings, route_of=str)
    app = Starlette(routes=[Route("/", broken)], middleware=[guard])
    with caplog.at_level(logging.CRITICAL, "slmflow.serving"):
        answer = TestClient(app).get("/")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert 'slmflow_errors_total{route="/",status="500"} 1.0' in metrics.text().decode()


@pytest.mark.parametrize("said", [None, {}, {"status": 200}, {"status": "400"}])
def test_a_workers_error_of_unknown_shape_is_a_500(said):
    assert from_worker(said).status == 500


def test_a_worker_may_say_when_to_come_again():
    assert from_worker({"status": 429, "message": "full", "retry_after": 7}).headers == {"Retry-After": "7"}


@pytest.mark.parametrize("value", [float("nan"), True, "3", None])
def test_numbers_that_are_none_do_not_reach_the_metrics(value):
    metrics = Metrics()
    metrics.observe({"prompt_tokens": value, "seconds": value})
    metrics.observe(value)
    assert "slmflow_prompt_tokens_total 0.0" in metrics.text().decode()


def worker_of(tmp_path, handler, client):
    """Run a client against a unix server with this handler."""

    async def main():
        server = await asyncio.start_unix_server(handler, tmp_path / "s")
        async with server:
            return await client(tmp_path / "s")

    return asyncio.run(main())


def test_lines_of_any_length_and_cut_arrive_whole(tmp_path):
    async def handler(reader, writer):
        await reader.readline()
        for piece in (b'{"a":', b'1}\n{"b"', b':"' + b"x" * 1_000_000 + b'"}\n{"c":2}\n'):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()

    async def client(path):
        async with exchange(path, "{}") as lines:
            return [parsed(await lines.next()) for _ in range(3)]

    first, second, third = worker_of(tmp_path, handler, client)
    assert (first, len(second["b"]), third) == ({"a": 1}, 1_000_000, {"c": 2})


def test_a_reader_that_does_not_read_holds_the_worker_back(tmp_path):
    sent = 0

    async def handler(reader, writer):
        nonlocal sent
        while sent < 100_000_000:
            writer.write(b'{"chunk":1}\n' * 1000)
            await writer.drain()
            sent += 12_000

    async def client(path):
        async with exchange(path, "{}") as lines:
            parsed(await lines.next())
            await asyncio.sleep(0.5)

    worker_of(tmp_path, handler, client)
    assert sent < 2_000_000


def test_a_worker_that_does_not_answer_in_time_is_a_504(tmp_path):
    async def handler(reader, writer):
        await asyncio.sleep(1)
        writer.close()

    with pytest.raises(Exception, match="within 0.1 seconds") as raised:
        worker_of(tmp_path, handler, lambda path: ask(path, "stats", "stats", 0.1))
    assert raised.value.status == 504
