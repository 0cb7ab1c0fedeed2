"""A store with two registered versions that answer differently, and production traces of the first."""

import os

import mlflow
import pytest

from slmflow.config import PackageConfig
from slmflow.packaging import onnx_model
from tests.conftest import make_store, store_uri

SECRETS = {"EMAIL": "ada@example.org", "CARD": "4111 1111 1111 1111", "SECRET": "sk-abcdefghijklmnop0123"}
ASKED = [
    {
        "messages": [{"role": "user", "content": f"Mail {SECRETS['EMAIL']} the time"}],
        "max_tokens": 4,
        "user": "ada",
    },
    {"messages": [{"role": "user", "content": f"Charge {SECRETS['CARD']}"}], "max_tokens": 4},
    {"prompt": f"The key {SECRETS['SECRET']} is", "max_tokens": 3, "temperature": 0.8},
    {
        "messages": [{"role": "user", "content": "Describe a dog"}],
        "max_tokens": 40,
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["dog", "cat"]}}},
    },
    {"messages": [{"role": "user", "content": "Reply in JSON"}], "max_tokens": 4},
    *({"prompt": f"Once {word}", "max_tokens": 4} for word in "abcdefghijklmnopqrstuvwxyz"),
]


@pytest.fixture(scope="package")
def traced_store(make_onnx, tmp_path_factory):
    """`tiny-phi3-onnx`: version 1 the champion, whose calls left traces; version 2 another model."""
    folder = tmp_path_factory.mktemp("traced")
    make_store(folder)
    before = os.getcwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(store_uri(folder))
    package = PackageConfig(max_tokens=16)
    for number, overrides in enumerate(("", "model.source.seed=7")):
        with mlflow.start_run():
            scratch = folder / f"scratch{number}"
            logged = onnx_model.log_onnx_model(make_onnx("fp32_cpu", overrides), "tiny", package, scratch, {})
        mlflow.register_model(f"models:/{logged}", "tiny-phi3-onnx")
    mlflow.MlflowClient().set_registered_model_alias("tiny-phi3-onnx", "champion", "1")
    model = mlflow.pyfunc.load_model("models:/tiny-phi3-onnx/1")
    for body in ASKED:
        model.predict(body)
    mlflow.flush_trace_async_logging()
    model.unwrap_python_model().runtime.close()
    os.chdir(before)
    mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture
def production(traced_store, monkeypatch, tmp_path, warm_children):
    """That store as the current one, with a cache folder of the test's own."""
    monkeypatch.chdir(traced_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri(traced_store))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mlflow.set_tracking_uri(store_uri(traced_store))
    client = mlflow.MlflowClient()
    yield client
    while mlflow.active_run():
        mlflow.end_run("FAILED")
    for alias in client.get_registered_model("tiny-phi3-onnx").aliases:
        if alias != "champion":
            client.delete_registered_model_alias("tiny-phi3-onnx", alias)
    mlflow.set_tracking_uri(None)
