"""A step's journals are forgotten when its outputs are published and indexed, and not before."""

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from slmflow.compose import compose
from slmflow.quality.fidelity import Positions
from slmflow.quality.journal import Journal
from slmflow.workflow import step as steps
from slmflow.workflow.outputs import INDEX_TAG

FOUND = Positions(np.zeros(3), np.ones(3, dtype=bool), np.zeros(3), np.zeros(3))


@pytest.fixture
def journal(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Journal("key")


def run(work):
    composition = compose(model="tiny_phi3")
    with mlflow.start_run() as active:
        steps.run_step("fetch", work, composition, {}, active)
    return MlflowClient().get_run(active.info.run_id)


def measuring(journal):
    def work(context):
        context.when_indexed.append(journal.close)
        journal.keep("window-0", FOUND)
        (context.outputs / "evaluation.json").write_text("{}")

    return work


def test_what_was_measured_is_kept_until_the_run_is_indexed(journal, monkeypatch):
    def breaks_off(*arguments):
        raise ConnectionError("the server went away")

    with monkeypatch.context() as patch:
        patch.setattr(steps, "publish", breaks_off)
        with pytest.raises(ConnectionError):
            run(measuring(journal))
    assert journal.positions("window-0") is not None
    indexed = []

    def work(context):
        active = mlflow.active_run().info.run_id
        measuring(journal)(context)
        tags = MlflowClient().get_run(active).data.tags
        indexed.append(INDEX_TAG in tags)
        context.when_indexed.append(
            lambda: indexed.append(INDEX_TAG in MlflowClient().get_run(active).data.tags)
        )

    run(work)
    assert indexed == [False, True]
    assert journal.positions("window-0") is None


def test_a_journal_that_was_never_written_leaves_no_folder(journal, tmp_path):
    assert journal.positions("window-0") is None
    journal.close()
    assert not (tmp_path / "cache" / "slmflow" / "evaluations" / "key").exists()
