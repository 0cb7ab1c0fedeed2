"""What is said of an artifact when it does not come: damage to everybody, a reader's own trouble to itself."""

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST

from slmflow import downloads
from slmflow.errors import SlmflowError, UnavailableError
from slmflow.tracking import is_outage
from slmflow.workflow import runs
from slmflow.workflow.outputs import DAMAGED_TAG
from tests.workflow.made_runs import finished

SIGNED = "https://bucket.example/weights?X-Amz-Signature=planted"


def answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code, response.url = status, SIGNED
    response.request = requests.Request("GET", SIGNED).prepare()
    return requests.HTTPError(
        f"{status} Error for url: {SIGNED}", response=response, request=response.request
    )


class ClientError(Exception):
    """As botocore's, which is not installed here: of no built-in type, with the code in `response`."""

    def __init__(self, code: str) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}}


ClientError.__module__ = "botocore.exceptions"


ELSEWHERE = [
    answered(403),
    answered(500),
    MlflowException("Failed to download 3 chunk(s) for weights after all retries exhausted."),
    MlflowException("no permission on the volume", error_code=PERMISSION_DENIED),
    TimeoutError("timed out"),
    ConnectionRefusedError(111, "Connection refused"),
    ClientError("SlowDown"),
]
HERE = [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")]
GONE = [
    answered(404),
    MlflowException("no such artifact", error_code=RESOURCE_DOES_NOT_EXIST),
    ClientError("NoSuchKey"),
]


@pytest.fixture
def ask(store, tmp_path, monkeypatch):
    """Read an artifact of a finished run from a store that shows an error; returns it and the run's tags."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = finished("fetch", {"weights": "w"}, key="a" * 64)
    index = runs.index_of(run)
    monkeypatch.setattr(runs, "folder_of", lambda uri: None)
    monkeypatch.setattr(runs, "index_of", lambda run: index)
    monkeypatch.setattr(downloads, "WAIT_SECONDS", 0.0)

    def asked(error):
        class Repository:
            def _download_file(self, path, target):
                raise error

        monkeypatch.setattr(downloads, "_repository", lambda uri: Repository())
        with pytest.raises((SlmflowError, UnavailableError)) as found:
            runs.artifact(run, "weights")
        return found.value, MlflowClient().get_run(run.info.run_id).data.tags

    return asked


@pytest.mark.parametrize("error", ELSEWHERE, ids=repr)
def test_a_store_that_does_not_give_an_artifact_is_away_and_the_artifact_is_not_damaged(ask, error):
    said, tags = ask(error)
    assert isinstance(said, UnavailableError)
    assert is_outage(str(said)) or "no permission" in str(said)
    assert "planted" not in str(said)
    assert DAMAGED_TAG not in tags


@pytest.mark.parametrize("error", HERE, ids=repr)
def test_what_this_machine_cannot_keep_is_told_and_the_artifact_is_not_damaged(ask, error):
    said, tags = ask(error)
    assert isinstance(said, SlmflowError)
    assert error.strerror in str(said)
    assert DAMAGED_TAG not in tags


@pytest.mark.parametrize("error", GONE, ids=repr)
def test_an_artifact_that_the_store_does_not_have_is_damaged(ask, error):
    said, tags = ask(error)
    assert "weights: not there; run again" in str(said)
    assert tags[DAMAGED_TAG] == "weights: not there"


def test_a_full_disk_on_one_host_says_nothing_of_what_another_left(ask, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "slmflow").write_text("a file where the folder should be")
    said, tags = ask(AssertionError("never asked"))
    assert "cannot be kept on this machine" in str(said)
    assert DAMAGED_TAG not in tags
