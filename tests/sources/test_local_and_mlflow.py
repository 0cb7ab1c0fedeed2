"""Folders on this machine and models that are in MLflow already."""

import mlflow
import pytest

from slmflow.config import LocalSource, MlflowSource
from slmflow.errors import SlmflowError
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.packaging.pipeline_model import log_pipeline_model
from slmflow.sources import take
from slmflow.sources.manifest import build_manifest, enforce_digest


def digest(taken):
    return build_manifest(taken, "x")["digest"]


def test_a_local_folder_is_taken_without_its_code_and_pickles(tiny, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "checkpoint-1").mkdir()
    for extra in (
        "modeling.py",
        "optimizer.pt",
        ".hidden",
        "id_rsa",
        "ops.so",
        "checkpoint-1/model.safetensors",
    ):
        (folder / extra).write_text("x")
    taken = take(LocalSource(path=str(folder)), tmp_path / "out")
    assert {path.name for path in taken.folder.iterdir()} == {path.name for path in tiny.iterdir()}


def test_a_local_folder_with_pickles_only_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(SlmflowError, match=r"pickles \(pytorch_model.bin\)"):
        take(LocalSource(path=str(tmp_path / "mine")), tmp_path / "out")


def test_a_path_that_is_neither_folder_nor_gguf_is_refused(tmp_path):
    with pytest.raises(SlmflowError, match="neither a folder nor a .gguf file"):
        take(LocalSource(path=str(tmp_path / "nothing")), tmp_path / "out")


def test_an_empty_folder_has_no_weights(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(SlmflowError, match="no weights"):
        take(LocalSource(path=str(tmp_path / "mine")), tmp_path / "out")


def test_a_cut_safetensors_file_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"\xff" * 6)
    taken = take(LocalSource(path=str(tmp_path / "mine")), tmp_path / "out")
    with pytest.raises(SlmflowError, match="cut short"):
        build_manifest(taken, "x")


@pytest.mark.parametrize("header", [b"not json", b"[1]", b'{"w": {}}', b'{"w": 5}'])
def test_a_damaged_safetensors_header_is_one_line(tmp_path, header):
    (tmp_path / "mine").mkdir()
    content = len(header).to_bytes(8, "little") + header
    (tmp_path / "mine" / "model.safetensors").write_bytes(content)
    taken = take(LocalSource(path=str(tmp_path / "mine")), tmp_path / "out")
    with pytest.raises(SlmflowError, match="header cannot be read"):
        build_manifest(taken, "x")


def test_a_pinned_digest_is_enforced(tiny, tmp_path):
    manifest = build_manifest(take(LocalSource(path=str(tiny)), tmp_path / "out"), "x")
    enforce_digest(manifest, manifest["digest"])
    with pytest.raises(SlmflowError, match="not what was pinned"):
        enforce_digest(manifest, "00ff")


def test_a_logged_pipeline_is_taken_back_with_the_same_weights(tiny, store, tmp_path):
    (tmp_path / "scratch").mkdir()
    with mlflow.start_run():
        model_id = log_pipeline_model(tiny, "tiny", tmp_path / "scratch", {"source": "test"})
    taken = take(MlflowSource(uri=f"models:/{model_id}"), tmp_path / "out")
    assert (taken.folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert (taken.folder / "tokenizer.json").is_file()


def test_a_folder_among_a_runs_artifacts_is_taken(tiny, store, tmp_path):
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(tiny), "weights")
    taken = take(MlflowSource(uri=f"runs:/{run.info.run_id}/weights"), tmp_path / "out")
    assert digest(taken) == digest(take(LocalSource(path=str(tiny)), tmp_path / "local"))


def test_a_model_of_another_flavour_is_refused_by_name(tiny_onnx, store, tmp_path):
    from slmflow.config import PackageConfig

    with mlflow.start_run():
        model_id = log_onnx_model(tiny_onnx, "tiny", PackageConfig(), tmp_path / "scratch", {})
    with pytest.raises(SlmflowError, match="flavours python_function"):
        take(MlflowSource(uri=f"models:/{model_id}"), tmp_path / "out")


@pytest.mark.parametrize("uri", ["runs:/0123456789abcdef/x", "models:/missing/1", "s3://bucket/x"])
def test_a_uri_that_does_not_resolve_is_named(store, tmp_path, uri):
    with pytest.raises(SlmflowError, match=uri):
        take(MlflowSource(uri=uri), tmp_path / "out")
