"""What a step left is believed as long as its index agrees, and every change of it is found."""

import os

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.errors import SlmflowError
from slmflow.files import read_json, write_json
from slmflow.workflow import runs
from slmflow.workflow.lookup import found_of, open_store
from slmflow.workflow.outputs import DAMAGED_TAG, INDEX, INDEX_TAG, build_index, check, index_digest, publish
from slmflow.workflow.tags import KEY_TAG, STEP_TAG


@pytest.fixture
def run(store, tmp_path):
    """A finished run with two outputs, indexed."""
    staged = tmp_path / "staged"
    (staged / "onnx").mkdir(parents=True)
    (staged / "onnx" / "weights.data").write_bytes(bytes(1000))
    (staged / "export.json").write_text("{}")
    with mlflow.start_run() as active:
        published = publish(staged, active.info.artifact_uri)
        index = build_index(published, active.info.artifact_uri, None)
        mlflow.log_artifact(str(write_json(tmp_path / INDEX, index)))
        mlflow.set_tags({INDEX_TAG: index_digest(index), KEY_TAG: "k", STEP_TAG: "export_onnx"})
    return MlflowClient().get_run(active.info.run_id)


def checked(run, **how):
    return check(found_of(run), open_store("0"), **how)


def place(run, name="onnx/weights.data"):
    path = runs.local_path_of(run, name)
    os.chmod(path, 0o644)
    return path


def test_what_is_untouched_is_believed(run):
    assert checked(run).reason is None
    assert checked(run, full=True).reason is None
    assert runs.artifact(run, "onnx").is_dir()


def test_outputs_are_renamed_into_a_local_store_and_read_only(run, tmp_path):
    assert not list((tmp_path / "staged").rglob("*.data"))
    assert runs.local_path_of(run, "onnx/weights.data").stat().st_mode & 0o222 == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"1" + bytes(999)), "onnx/weights.data was altered"),
        (lambda path: path.write_bytes(bytes(999)), "onnx/weights.data has 999 bytes instead of 1,000"),
        (lambda path: path.write_bytes(b""), "onnx/weights.data has 0 bytes instead of 1,000"),
        (lambda path: path.unlink(), "onnx/weights.data is gone"),
        (lambda path: path.with_name("other.data").write_text(""), "onnx/other.data is not of this run"),
    ],
    ids=["altered", "truncated", "emptied", "deleted", "added to"],
)
def test_an_output_that_changed_is_not_believed_and_the_reason_names_it(run, damage, said):
    damage(place(run))
    assert checked(run).reason == said


def test_the_index_itself_is_held_against_the_runs_tag(run):
    path = runs.local_path_of(run, INDEX)
    index = read_json(path)
    index["files"]["export.json"]["sha256"] = "0" * 64
    write_json(path, index)
    assert checked(run).reason == f"its {INDEX} was altered"
    path.write_text("{")
    assert checked(run).reason == f"its {INDEX} is gone or cannot be read"
    path.unlink()
    assert checked(run).reason == f"its {INDEX} is gone or cannot be read"


def flip_and_forge(path):
    """Change a bit, and put time, size and inode back as they were."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(b"\x01")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_flipped_bit_with_forged_stamps_is_found_by_full_verification(run):
    flip_and_forge(place(run))
    assert checked(run).reason is None, "stamps agree"
    assert checked(run, full=True).reason == "onnx/weights.data was altered"


def test_a_flipped_bit_with_forged_stamps_is_found_by_the_step_that_reads_it_and_the_run_is_not_reused(run):
    flip_and_forge(place(run))
    with pytest.raises(SlmflowError, match=r"onnx/weights.data was altered; run again"):
        runs.artifact(run, "onnx")
    run = MlflowClient().get_run(run.info.run_id)
    assert run.data.tags[DAMAGED_TAG] == "onnx/weights.data was altered"
    assert checked(run).reason == "onnx/weights.data was altered"


def test_a_store_that_was_copied_is_hashed_once_and_then_believed_by_its_new_stamps(run, monkeypatch):
    path = place(run)
    os.utime(path, ns=(1, 1))
    assert checked(run, restamp=True).reason is None
    assert read_json(runs.local_path_of(run, INDEX))["files"]["onnx/weights.data"]["mtime_ns"] == 1
    again = []
    monkeypatch.setattr("slmflow.workflow.outputs.sha256_of", lambda *a, **k: again.append(a))
    assert checked(run).reason is None
    assert again == []


def test_a_changed_inode_of_a_link_is_seen_by_every_run_that_holds_it(run, tmp_path):
    path = place(run)
    os.link(path, tmp_path / "linked.data")
    (tmp_path / "linked.data").write_bytes(b"1" + bytes(999))
    assert checked(run).reason == "onnx/weights.data was altered"


def test_a_deleted_logged_model_is_missed(store, tmp_path):
    with mlflow.start_run() as active:
        model = mlflow.initialize_logged_model("m")
        (tmp_path / "weights.onnx").write_text("w")
        MlflowClient().log_model_artifact(model.model_id, str(tmp_path / "weights.onnx"))
        described = {"id": model.model_id, "location": model.artifact_location}
        index = build_index({}, active.info.artifact_uri, described)
        mlflow.log_artifact(str(write_json(tmp_path / INDEX, index)))
        mlflow.set_tag(INDEX_TAG, index_digest(index))
    run = MlflowClient().get_run(active.info.run_id)
    assert "model/weights.onnx" in index["files"]
    assert checked(run).reason is None
    MlflowClient().delete_logged_model(model.model_id)
    assert checked(run).reason == f"its LoggedModel {model.model_id} is gone"
