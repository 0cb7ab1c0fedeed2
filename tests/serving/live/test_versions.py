"""Two versions with different code behind one alias: each in its own process, swapped without a lost request."""

import shutil
import threading
import time

import mlflow
import pytest

from slmflow.config import PackageConfig
from slmflow.packaging import onnx_model
from tests.conftest import store_uri
from tests.serving.live.conftest import CHAT, Live


@pytest.fixture
def two_versions(served_store, tiny_onnx, tmp_path, monkeypatch):
    """`pair-onnx`: version 1 is the present runtime, version 2 one that names its answers otherwise."""
    other = shutil.copytree(
        onnx_model.MODELS, tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__")
    )
    answer = other / "slm_runtime" / "answer.py"
    answer.write_text(answer.read_text().replace('"chatcmpl"', '"second"'))
    monkeypatch.chdir(served_store)
    mlflow.set_tracking_uri(store_uri(served_store))
    for number, models in enumerate((onnx_model.MODELS, other)):
        monkeypatch.setattr(onnx_model, "MODELS", models)
        package = PackageConfig(max_tokens=8, tracing=False)
        with mlflow.start_run():
            logged = onnx_model.log_onnx_model(tiny_onnx, "pair", package, tmp_path / str(number), {})
        mlflow.register_model(f"models:/{logged}", "pair-onnx")
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("pair-onnx", "champion", "1")
    yield client
    mlflow.set_tracking_uri(None)


def test_the_server_follows_the_alias_to_other_code_and_loses_no_request(two_versions, served_store):
    live = Live(served_store, "models:/pair-onnx@champion", "follow_seconds=0.2")
    seen, ending = [], threading.Event()

    def ask():
        while not ending.is_set():
            response = live.ask(messages=CHAT, max_tokens=4)
            seen.append((response.status_code, response.json()["id"].split("-")[0]))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for one in asking:
        one.start()
    try:
        two_versions.set_registered_model_alias("pair-onnx", "champion", "2")
        deadline = time.monotonic() + 60
        while not seen or seen[-1][1] != "second":
            assert time.monotonic() < deadline, live.said()
            time.sleep(0.1)
    finally:
        ending.set()
        for one in asking:
            one.join()
        live.stop()
    assert {status for status, _ in seen} == {200}
    assert next(name for _, name in seen) == "chatcmpl"
