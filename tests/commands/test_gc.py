"""What a running driver has is nobody's garbage."""

import json
import os
import time

import pytest
from mlflow import MlflowClient

from slmflow.commands import gc
from slmflow.environments import maker
from slmflow.environments.maker import Purpose, environment
from slmflow.workflow.runs import PARENT_TAG, PLAN
from slmflow.workflow.tags import KIND_TAG, STEP_TAG
from tests.workflow.made_runs import finished


@pytest.fixture
def collected(store):
    """Names of the runs left after `gc delete=true`, beside a driver that is at its export."""
    client = MlflowClient()
    reused = finished("fetch", {"manifest.json": "{}"}, key="a" * 64)
    loose = finished("fetch", {"manifest.json": "[]"}, key="b" * 64)
    driver = client.create_run("0", tags={KIND_TAG: "driver"}, run_name="driver").info.run_id
    items = [{"name": "fetch", "step": "fetch", "state": "cached", "run_id": reused.info.run_id}]
    client.log_text(driver, json.dumps(items), PLAN)
    tags = {KIND_TAG: "step", STEP_TAG: "log_pipeline", PARENT_TAG: driver}
    done = client.create_run("0", tags=tags, run_name="log_pipeline").info.run_id
    client.set_terminated(done)
    client.create_run("0", tags={**tags, STEP_TAG: "export_onnx"}, run_name="export_onnx")
    assert gc.run(["delete=true"]) == 0
    return {run.info.run_id: run.info.run_name for run in client.search_runs(["0"])}, reused, loose


def test_gc_beside_a_running_driver_takes_nothing_that_it_made_reused_or_is_making(collected):
    names, reused, loose = collected
    assert reused.info.run_id in names
    assert {"driver", "log_pipeline", "export_onnx"} <= set(names.values())
    assert loose.info.run_id not in names


def test_environments_that_nobody_used_for_long_are_told_and_deleted_when_told_to(
    store, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv(maker.FOLDER, str(tmp_path / "environments"))
    kept, old = (
        environment(name, Purpose(f"test {name}", ""), is_locked=False).folder
        for name in ("jinja2", "markupsafe")
    )
    month = time.time() - 31 * 86_400
    os.utime(old / maker.WHOLE, (month, month))
    assert gc.run([]) == 0
    said = capsys.readouterr().out
    assert f"{old}  environment of test markupsafe" in said
    assert "1 environments that nobody used for 30 days, 0 MB" in said
    assert "add -P delete=true" in said
    assert old.exists()
    assert gc.run(["delete=true"]) == 0
    assert kept.exists()
    assert not old.exists()
