"""The real server on the real packaged model, by both engines, in processes of their own."""

import os
import re
import subprocess
import sys
import threading
import time

import httpx
import mlflow
import psutil
import pytest

from slmflow.config import PackageConfig
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.packaging.pipeline_model import log_pipeline_model
from tests import warm
from tests.conftest import ROOT, make_store, store_uri

CHAT = [{"role": "user", "content": "Hello"}]


class Live:
    """A server of a registered model, ended by `stop`."""

    def __init__(self, folder, uri, *words, python=None):
        command = [python or sys.executable, "-m", "slmflow.serving", f"model_uri={uri}", "port=0", *words]
        self.errors = (folder / "server.err").open("w+")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": store_uri(folder)}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        listening = self.process.stdout.readline()
        found = re.search(r"http://\S+", listening)
        assert found, (listening, self.said())
        self.url = found.group()
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.http = httpx.Client(base_url=self.url, timeout=60)
        deadline = time.monotonic() + 60
        while self.http.get("/health").status_code != 200:
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)

    def said(self):
        """What the server wrote to standard error."""
        self.errors.flush()
        self.errors.seek(0)
        return self.errors.read()

    def workers(self):
        """The processes that hold the model."""
        return psutil.Process(warm.fork_of(self.process.pid)).children()

    def ask(self, path="/v1/chat/completions", **body):
        """POST a body; the response."""
        return self.http.post(path, json=body)

    def text(self, **body):
        """The text of one chat answer."""
        response = self.ask(**{"messages": CHAT, "max_tokens": 8, **body})
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]["content"]

    def stop(self):
        self.http.close()
        self.process.terminate()
        self.process.wait(60)
        self.errors.close()


@pytest.fixture(scope="package")
def served_store(tiny_onnx, tiny, tmp_path_factory):
    """A store with both models of the tiny model registered, `tiny-onnx@champion` among them."""
    folder = tmp_path_factory.mktemp("served")
    make_store(folder)
    before = os.getcwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(store_uri(folder))
    package = PackageConfig(max_tokens=16, tracing=False)
    engines = ("generate", "continuous")
    with mlflow.start_run():
        onnx = log_onnx_model(tiny_onnx, "tiny", package, folder / "scratch", {}, engines=engines)
    (folder / "scratch2").mkdir()
    with mlflow.start_run():
        pipeline = log_pipeline_model(tiny, "tiny", folder / "scratch2", {})
    for name, model_id in (("tiny-onnx", onnx), ("tiny-pipeline", pipeline)):
        mlflow.register_model(f"models:/{model_id}", name)
        mlflow.MlflowClient().set_registered_model_alias(name, "champion", "1")
    os.chdir(before)
    mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture(scope="package", params=["generate", "continuous"])
def live(request, served_store):
    server = Live(served_store, "models:/tiny-onnx@champion", f"engine={request.param}")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def live_pipeline(served_store):
    server = Live(served_store, "models:/tiny-pipeline@champion")
    yield server
    server.stop()
