"""What the end-to-end modules share."""

import mlflow
import pytest
from mlflow import MlflowClient

from tests.conftest import store_uri


@pytest.fixture
def client(store):
    """MLflow's client of the module's own `store`."""
    mlflow.set_tracking_uri(store_uri(store))
    yield MlflowClient()
    mlflow.set_tracking_uri(None)
