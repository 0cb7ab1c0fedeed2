"""The hub road, by the real client against a stand-in on loopback."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from slmflow.config import HubSource
from slmflow.errors import SlmflowError
from slmflow.sources.hub import wanted
from tests.conftest import ROOT
from tests.hub_stand_in import COMMIT, Repo, hub, repo_of

PROGRAM = """
import json, sys
from pathlib import Path
from slmflow.compose import compose
from slmflow.config import HubSource
from slmflow.errors import SlmflowError
from slmflow.sources import take
from slmflow.sources.manifest import build_manifest
try:
    config = compose(model="hub", overrides=sys.argv[1]).config.model
    taken = take(config.source, Path(sys.argv[2]))
    print(json.dumps({"commit": taken.commit, "pins": taken.pins, **build_manifest(taken, "x")}))
except SlmflowError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def fetch(tmp_path):
    """Fetch org/tiny in a process of its own (the endpoint is read when the client is imported)."""
    count = iter(range(100))

    def run(endpoint: str, overrides: str = "", repo: str = "org/tiny", **environment: str):
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
        arguments = [f"model.source.repo={repo} {overrides}", str(tmp_path / f"fetch{next(count)}")]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, env=env, capture_output=True, text=True
        )
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]

    return run


def test_a_branch_is_resolved_to_its_commit_and_every_file_is_verified(tiny, fetch):
    with hub(org__tiny=repo_of(tiny)) as endpoint:
        manifest = fetch(endpoint)
    assert manifest["commit"] == COMMIT
    assert manifest["pins"] == [f"model.source.revision={COMMIT}"]
    assert set(manifest["files"]) == {path.name for path in tiny.iterdir()}
    assert manifest["parameters"] > 100_000


def test_a_tag_and_the_commit_itself_give_the_same_content(tiny, fetch):
    with hub(org__tiny=repo_of(tiny)) as endpoint:
        by_tag = fetch(endpoint, "model.source.revision=v1.0")
        by_commit = fetch(endpoint, f"model.source.revision={COMMIT}")
    assert by_tag["digest"] == by_commit["digest"]
    assert by_commit["pins"] == []


def test_a_dropped_connection_resumes_where_it_broke(tiny, fetch):
    large = safetensors.numpy.save({"weights": np.arange(10_000_000, dtype=np.float32)})
    repo = repo_of(tiny, drop_once={"large.safetensors", "config.json"})
    repo.files["large.safetensors"] = large
    with hub(org__tiny=repo) as endpoint:
        manifest = fetch(endpoint)
    assert manifest["files"]["large.safetensors"]["size"] == len(large)
    ranges = [
        r for method, path, r in repo.requests if method == "GET" and path.endswith("large.safetensors")
    ]
    assert ranges[0] is None
    # The client writes in blocks of 10 MB: two of them had arrived, and are not asked for again.
    assert int(ranges[1].removeprefix("bytes=").split("-")[0]) >= 10_000_000


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_arrives_damaged_is_refused_and_downloaded_again_next_time(tiny, fetch, name):
    repo = repo_of(tiny, damaged={name})
    with hub(org__tiny=repo) as endpoint:
        message = fetch(endpoint)
        repo.damaged.clear()
        assert fetch(endpoint)["commit"] == COMMIT
    assert f"hub:org/tiny/{name}: the digest of what arrived is" in message


def test_a_gated_repository_says_how_to_get_in(tiny, fetch):
    repo = repo_of(tiny, gated=True)
    with hub(org__tiny=repo) as endpoint:
        message = fetch(endpoint)
        assert fetch(endpoint, HF_TOKEN="hf_secret")["commit"] == COMMIT
    assert "gated" in message
    assert "HF_TOKEN" in message
    assert "Bearer hf_secret" in repo.tokens


def test_pickled_weights_are_refused_before_anything_is_downloaded(fetch):
    repo = Repo({"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"})
    with hub(org__tiny=repo) as endpoint:
        message = fetch(endpoint)
    assert "pytorch_model.bin" in message
    assert "safetensors" in message
    assert not any("/resolve/" in path for _, path, _ in repo.requests)


def test_pickles_and_code_beside_safetensors_are_never_downloaded(tiny, fetch):
    repo = repo_of(tiny)
    repo.files |= {"pytorch_model.bin": b"x", "modeling_evil.py": b"boom", "onnx/model.onnx": b"x"}
    with hub(org__tiny=repo) as endpoint:
        manifest = fetch(endpoint)
    assert set(manifest["files"]) == {path.name for path in tiny.iterdir()}


def test_a_subfolder_is_taken_whole_and_without_its_prefix(tiny_onnx, fetch):
    repo = repo_of(tiny_onnx, prefix="cpu/int4/")
    repo.files["cuda/model.onnx"] = b"x"
    with hub(org__tiny=repo) as endpoint:
        manifest = fetch(endpoint, "model.source.subfolder=cpu/int4")
    assert set(manifest["files"]) == {path.name for path in tiny_onnx.iterdir()}


@pytest.mark.parametrize(
    ("overrides", "repo", "said"),
    [
        ("model.source.revision=v9", "org/tiny", "no revision 'v9'"),
        ("", "org/missing", "no such repository"),
        ("model.source.subfolder=nowhere", "org/tiny", "no model files below 'nowhere'"),
        ("", "not a repo", "hub:not a repo"),
    ],
)
def test_what_does_not_exist_is_named(tiny, fetch, overrides, repo, said):
    with hub(org__tiny=repo_of(tiny)) as endpoint:
        assert said in fetch(endpoint, overrides, repo=f"'{repo}'")


def test_a_hub_that_cannot_be_reached_is_one_line(fetch):
    message = fetch("http://127.0.0.1:9")
    assert message.startswith("hub:org/tiny: ")


def test_a_repository_without_model_files_is_refused():
    with pytest.raises(SlmflowError, match="pickles"):
        wanted(["config.json", "model.ckpt"], HubSource(repo="x"), "hub:x")
    assert wanted([".gitattributes", "a/b.json"], HubSource(repo="x"), "hub:x") == []


def test_of_several_gguf_files_one_must_be_named():
    names = ["config.json", "a-q4.gguf", "a-q8.gguf"]
    with pytest.raises(
        SlmflowError,
        match=r"has 2 GGUF files, a-q4\.gguf, a-q8\.gguf: name one, such as -P model=x:a-q4\.gguf",
    ):
        wanted(names, HubSource(repo="x"), "hub:x")
    assert wanted(names, HubSource(repo="x", file="a-q8.gguf"), "hub:x") == ["a-q8.gguf"]
    with pytest.raises(SlmflowError, match="is not in the repository"):
        wanted(names, HubSource(repo="x", file="b.gguf"), "hub:x")


def test_a_gguf_file_is_named_by_its_quantisation():
    names = ["model.safetensors", "a-q4_k_m.gguf", "a-Q4_K_S.gguf", "sub/a-Q8_0.gguf", "b-Q8_0.gguf"]
    assert wanted(names, HubSource(repo="x", file="*Q4_K_M.gguf"), "hub:x") == ["a-q4_k_m.gguf"]
    with pytest.raises(
        SlmflowError, match=r"file=\*Q8_0\.gguf fits 2 files; GGUF files there: sub/a-Q8_0\.gguf, b-"
    ):
        wanted(names, HubSource(repo="x", file="*Q8_0.gguf"), "hub:x")
    with pytest.raises(
        SlmflowError, match=r"file=\*Q2_K\.gguf is not in the repository; GGUF files there: a-Q4_K_S"
    ):
        wanted(names, HubSource(repo="x", file="*Q2_K.gguf"), "hub:x")


def test_libraries_scripts_and_second_copies_of_the_weights_are_never_taken():
    names = ["cpu/model.onnx", "cpu/model.onnx.data", "cpu/ops.so", "cpu/run.sh", "cpu/genai_config.json"]
    taken = wanted(names, HubSource(repo="x", subfolder="cpu"), "hub:x")
    assert taken == ["cpu/genai_config.json", "cpu/model.onnx", "cpu/model.onnx.data"]
    names = ["model.safetensors", "consolidated.safetensors", "tokenizer.json"]
    assert wanted(names, HubSource(repo="x"), "hub:x") == ["model.safetensors", "tokenizer.json"]
