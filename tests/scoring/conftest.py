"""A registered tiny model, and tables for it."""

import json
import os
import random
import subprocess

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.config import PackageConfig
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.workflow.closure import ROOT
from tests import warm
from tests.conftest import make_store, store_uri
from tests.java import java_home

SPARK = "score.engine=spark \"score.master='local-cluster[2,1,1024]'\""
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "over",
    "under",
    "hill",
    "river",
    "and",
    "then",
    "once",
    "upon",
    "time",
]


@pytest.fixture(scope="session")
def java(tmp_path_factory):
    """JAVA_HOME."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", str(java_home(tmp_path_factory.mktemp("java"))))
        yield


@pytest.fixture(scope="session")
def registered(tmp_path_factory, tiny_onnx):
    """The store's URI; its model is models:/tiny-onnx@champion."""
    folder = tmp_path_factory.mktemp("scoring")
    make_store(folder)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store_uri(folder))
    with mlflow.start_run():
        model_id = log_onnx_model(tiny_onnx, "tiny", PackageConfig(), folder / "scratch", {})
    client = MlflowClient()
    client.create_registered_model("tiny-onnx")
    client.create_model_version("tiny-onnx", f"models:/{model_id}", model_id=model_id)
    client.set_registered_model_alias("tiny-onnx", "champion", "1")
    mlflow.set_tracking_uri(before)
    return store_uri(folder)


@pytest.fixture(scope="session")
def deadly(registered, tmp_path_factory):
    """The model, but its process dies at a request that says so, as at a defect of a runtime in C."""
    folder = tmp_path_factory.mktemp("deadly") / "model"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registered)
    mlflow.artifacts.download_artifacts("models:/tiny-onnx/1", dst_path=str(folder))
    mlflow.set_tracking_uri(before)
    code = next(folder.rglob("reports.py"))
    planted = '    if "planted death" in str(body):\n        import os\n\n        os._exit(139)\n    try:\n'
    code.write_text(code.read_text().replace("    try:\n", planted, 1))
    return str(folder)


def start(
    uri, table, output, words="", model="models:/tiny-onnx@champion", preexec_fn=None, python=None, **more
) -> subprocess.Popen:
    """The command at work; by `python=sys.executable` where its own children are looked for."""
    command = [
        python or warm.python(),
        "-m",
        "slmflow.commands.score",
        f"model_uri={model}",
        f"input={table}",
    ]
    command += [f"output={output}", f"overrides=score.max_tokens=6 score.deterministic=true {words}"]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "MLFLOW_TRACKING_URI": uri, **more}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=preexec_fn,
    )  # fmt: skip


def score(*given, **more) -> tuple[int, str]:
    process = start(*given, **more)
    said = process.communicate(timeout=500)[0]
    return process.returncode, said


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def short_rows(path, count, seed=1):
    """Prompts of two to six words, with an id."""
    dice = random.Random(seed)
    with path.open("w") as file:
        for number in range(count):
            prompt = " ".join(dice.choices(WORDS, k=dice.randint(2, 6)))
            file.write(json.dumps({"id": number, "prompt": prompt}) + "\n")
    return path


def broken_rows(path, count, seed=1):
    """As `short_rows`, every twentieth broken in one of five ways."""
    short_rows(path, count, seed)
    lines = path.read_bytes().splitlines()
    ways = [
        b'{"id": 1, "prompt": nope',
        b'{"id": 1, "prompt": null}',
        b'{"id": 1, "prompt": [1, "x"]}',
        b'{"id": 1, "prompt": "caf\xe9"}',
        json.dumps({"id": 1, "prompt": "long " * 4000}).encode(),
    ]
    for number, at in enumerate(range(10, count, 20)):
        lines[at] = ways[number % len(ways)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path
