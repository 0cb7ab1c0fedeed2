"""What cannot be reproduced is refused with its reason, and what differs is named file by file."""

import json
import subprocess

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.commands.reproduce import (
    check_out,
    content_differences,
    driver_run,
    interpreter,
    record_differences,
)
from slmflow.errors import SlmflowError
from slmflow.workflow.checkout import COMMIT_TAG, DIRTY_TAG, PATCH_TAG, checkout
from slmflow.workflow.tags import KIND_TAG
from tests.workflow.made_runs import finished


def step(tmp_path, files):
    return finished("export_onnx", files)


def test_content_that_differs_is_named_file_by_file_and_record_is_not(store, tmp_path):
    first = step(
        tmp_path, {"onnx/a": "1", "onnx/deep/b": "1", "onnx/gone": "1", "export.json": "{}", "card.html": "1"}
    )
    other = step(
        tmp_path, {"onnx/a": "1", "onnx/deep/b": "2", "onnx/new": "1", "export.json": "{}", "card.html": "2"}
    )
    lines = content_differences("export_onnx", first, other)
    assert [line.split(":")[0] for line in lines] == ["onnx/deep/b", "onnx/gone", "onnx/new"]
    assert content_differences("export_onnx", first, first) == []


def test_a_fidelity_figure_that_differs_in_its_last_digit_is_named(store, tmp_path):
    def evaluated(kl, speed):
        evaluation = {"fidelity": {"kl_mean": kl}, "cost": {"decode_tokens_per_second": speed}}
        return step(tmp_path, {"evaluation.json": json.dumps(evaluation), "reference/logprobs.npy": "x"})

    first = evaluated(0.1, 10)
    assert content_differences("evaluate", first, evaluated(0.1, 20)) == []
    assert content_differences("evaluate", first, evaluated(0.10000000000000002, 10)) == [
        "fidelity.kl_mean: 0.1 → 0.10000000000000002"
    ]


def test_the_record_is_listed(store, tmp_path):
    runs = [step(tmp_path, {"record.json": json.dumps({"seconds": s, "host": "h"})}) for s in (1, 2)]
    assert record_differences(*runs) == ["seconds 1 → 2"]


def driver(tags=None, items=(("fetch", "done"),)):
    with mlflow.start_run() as active:
        mlflow.set_tags({KIND_TAG: "driver", **(tags or {})})
        mlflow.log_dict([{"name": name, "state": state} for name, state in items], "plan.json")
    return active.info.run_id


def test_a_driver_that_did_not_finish_is_refused(store):
    with pytest.raises(SlmflowError, match=r"did not finish \(export_onnx\)"):
        driver_run(driver(items=(("fetch", "done"), ("export_onnx", "failed"))))
    with pytest.raises(SlmflowError, match=r"did not finish \(no step\)"):
        driver_run(driver(items=()))


def test_a_run_that_is_no_drivers_is_refused(store):
    with mlflow.start_run() as active:
        pass
    with pytest.raises(SlmflowError, match="not a driver's run"):
        driver_run(active.info.run_id)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({}, "outside a git checkout"),
        (
            {COMMIT_TAG: "a" * 40, DIRTY_TAG: "true", PATCH_TAG: "line 3 looks like a credential"},
            "line 3 looks",
        ),
        ({COMMIT_TAG: "a" * 40, DIRTY_TAG: "false"}, "commit aaaaaaaaaaaa is not in"),
    ],
)
def test_code_that_was_not_recorded_or_is_not_here_is_refused(store, tmp_path, tags, said):
    with pytest.raises(SlmflowError, match=said):
        check_out(driver_run(driver(tags)), tmp_path)


def test_the_recorded_commit_and_changes_are_checked_out_apart(store, tmp_path):
    state = checkout()
    tags = {COMMIT_TAG: state.commit, DIRTY_TAG: "true", PATCH_TAG: "logged"}
    run_id = driver(tags)
    patch = "diff --git a/new.txt b/new.txt\nnew file mode 100644\n--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1 @@\n+x\n"
    MlflowClient().log_text(run_id, patch, "checkout.patch")
    clone = check_out(driver_run(run_id), tmp_path)
    assert (clone / "new.txt").read_text() == "x\n"
    assert (clone / "MLproject").is_file()


def test_a_recorded_environment_is_built_with_its_pip(store, tmp_path):
    """`fetch` downloads wheels by pip with options that the pip of a new environment need not have."""
    with mlflow.start_run() as run:
        mlflow.log_text("pip==26.2.1\nsix==1.17.0\n", "installed.txt")
    python = interpreter(run)
    said = subprocess.run([python, "-m", "pip", "freeze", "--all"], capture_output=True, text=True).stdout
    assert {"pip==26.2.1", "six==1.17.0"} <= set(said.split())
