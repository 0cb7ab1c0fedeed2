"""Registered models made by hand in a real store."""

import mlflow
import pytest
from mlflow import MlflowClient

NAME = "tiny-onnx"


def whole(version):
    return True


@pytest.fixture
def make_versions(store):
    """A function that registers `count` versions whose files nobody reads."""

    def make(count, name=NAME, client=None):
        client = client or MlflowClient()
        client.create_registered_model(name)
        for number in range(count):
            client.create_model_version(name, source=f"s3://nowhere/{number}")
        return client

    return make


@pytest.fixture
def client(store):
    return MlflowClient(mlflow.get_tracking_uri())
