"""The default model, whole: real weights from the package index, exported, judged, registered, used."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.models.slm_runtime.tokenizer import TextTokenizer
from slmflow.workflow import runs
from tests.conftest import ROOT, run_project, run_warm, store_uri
from tests.end_to_end.test_tiny_workflow import registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    done = run_project([], store)
    assert done.returncode == 0, done.stdout + done.stderr
    return store


def newest(client, name):
    (run, *_) = client.search_runs(["0"], f"attributes.run_name = '{name}'", max_results=1)
    return run


def test_the_files_own_codes_compute_as_its_weights_in_fp32(client):
    export = runs.json_artifact(newest(client, "export_onnx"), "export.json")
    assert (export["exporter"], export["options"]["level"]) == ("gguf", "precise")
    fidelity = runs.json_artifact(newest(client, "evaluate_onnx"), "evaluation.json")["fidelity"]
    assert fidelity["tokens"] >= 500, "as the gate's margins need of a small model, two windows at least"
    assert fidelity["kl_mean"] < 1e-6
    assert fidelity["top1_agreement"] > 0.999


def test_the_registered_version_says_which_file_it_is(client):
    version = client.get_model_version_by_alias("smollm2-135m-onnx", "champion")
    assert version.tags["gguf.file"] == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert version.tags["gguf.quantisation"] == "Q4_1 78.9%, Q8_0 21.0%, F32 0.0%"
    assert version.tags["gguf.licence"] == "apache-2.0"
    assert "Q4_1" in version.description


def test_the_tokenizer_of_the_gguf_gives_llama_cpps_ids(client):
    tokenizer = TextTokenizer(runs.artifact(newest(client, "export_onnx"), "onnx"))
    judge = json.loads((ROOT / "tests" / "sources" / "smollm2_llama_cpp_ids.json").read_text())
    for entry in judge["texts"]:
        assert tokenizer.encode(entry["text"]) == entry["ids"], entry["text"]


def test_the_default_run_again_leaves_the_registry_as_it_was(store, client):
    before = registry(client)
    done = run_warm([], store)
    assert done.returncode == 0, done.stderr
    assert registry(client) == before


def test_the_run_is_reproduced_from_a_second_clone_in_another_folder(store, client, tmp_path):
    found = client.search_runs(["0"], "tags.slmflow.kind = 'driver'", order_by=["attributes.start_time ASC"])
    clone = tmp_path / "second clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    before = registry(client)
    done = run_warm(["-e", "reproduce", "-P", f"run_id={found[0].info.run_id}"], store, root=clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all content is equal" in done.stdout
    assert registry(client) == before


def evaluate_variant(store, client, export, *asked):
    """Another export of the weights that are there already, step by step by upstream ids; its evaluation.

    `asked` are parameters of the evaluation alone.
    """
    ids = {name: newest(client, name).info.run_id for name in ("fetch", "evaluate_pipeline")}
    for step, upstream in (
        ("export_onnx", "fetch_run"),
        ("log_onnx", "export_run"),
        ("evaluate", "logged_run"),
    ):
        previous = ids["fetch"] if step == "export_onnx" else latest_step(client, before(step)).info.run_id
        arguments = ["-e", step, "-P", f"export={export}", "-P", f"{upstream}={previous}"]
        if step == "evaluate":
            arguments += ["-P", f"reference_run={ids['evaluate_pipeline']}", *asked]
        done = run_warm(arguments, store)
        assert done.returncode == 0, done.stderr
    return latest_step(client, "evaluate")


def before(step):
    return {"log_onnx": "export_onnx", "evaluate": "log_onnx"}[step]


def latest_step(client, step):
    (run, *_) = client.search_runs(
        ["0"], f"tags.slmflow.step = '{step}' and tags.slmflow.kind = 'step'", max_results=1
    )
    return run


@pytest.mark.parametrize(
    ("export", "most"),
    [
        ("fp32_cpu", 1e-6),
        ("optimum_fp32", 1e-6),
        ("gguf_exact_cpu", 1e-9),
        ("gguf_fast_cpu", 0.01),
        ("int8_cpu", 0.02),
    ],
)
def test_every_export_is_as_faithful_as_it_says(store, client, export, most):
    run = evaluate_variant(store, client, export, "-P", "evaluate.items=none")
    fidelity = runs.json_artifact(run, "evaluation.json")["fidelity"]
    assert fidelity["tokens"] >= 500, "as the gate's margins need of a small model, two windows at least"
    assert fidelity["kl_mean"] < most


def test_int4_ruins_this_model_and_the_gate_registers_nothing(store, client):
    pipeline = newest(client, "evaluate_pipeline").info.run_id
    evaluated = evaluate_variant(store, client, "int4_cpu").info.run_id
    figures = registry(client)
    ids = ["-P", f"onnx_run={evaluated}", "-P", f"pipeline_run={pipeline}"]
    done = run_warm(["-e", "register", "-P", "export=int4_cpu", *ids], store)
    assert done.returncode != 0
    assert "the gate was missed, nothing is registered: onnx: kl_mean" in done.stderr
    assert registry(client) == figures


def test_the_champion_answers_in_an_environment_of_its_own_requirements(store, client, tmp_path):
    model = Path(client.get_logged_model(newest_model_id(client)).artifact_location.removeprefix("file://"))
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "-q", "-r", model / "requirements.txt"]
    subprocess.run(install, check=True)
    program = """
import sys, mlflow
model = mlflow.pyfunc.load_model("models:/smollm2-135m-onnx@champion")
print(model.predict({"prompt": "The capital of France is", "max_tokens": 8})[0])
chat = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
print(model.predict(chat)[0]["choices"][0]["message"]["content"])
assert not {"torch", "transformers"} & set(sys.modules)
"""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_TRACKING_URI": store_uri(store)}
    done = subprocess.run([python, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 4
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True).stdout
    assert "\ntorch " not in listed
    assert "\ntransformers " not in listed


def newest_model_id(client):
    return client.get_model_version_by_alias("smollm2-135m-onnx", "champion").source.removeprefix("models:/")


def test_mlflow_models_serve_answers_a_prompt_and_a_chat(store):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": store_uri(store)}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/smollm2-135m-onnx@champion"]
    command += ["-p", str(port), "--env-manager", "local"]
    server = subprocess.Popen(
        command,
        cwd=store,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.5)
        chat = ask(port, {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8})
        assert chat[0]["choices"][0]["message"]["content"]
        table = ask(
            port,
            {"dataframe_records": [{"prompt": "Once", "max_tokens": 4}, {"prompt": "Two", "max_tokens": 4}]},
        )
        assert len(table["predictions"]) == 2
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def ask(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def test_the_project_runs_from_a_git_uri(tmp_path):
    clone = tmp_path / "upstream"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    version = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True
    ).stdout.strip()
    root = f"file://{clone}"
    done = run_warm(["-e", "log_onnx", "-P", "model=tiny_phi3", "-v", version], tmp_path, root=root)
    assert done.returncode == 0, done.stderr
    mlflow.set_tracking_uri(store_uri(tmp_path))
    runs_made = MlflowClient().search_runs(["0"])
    assert len(runs_made) == 4
    assert {run.data.tags["mlflow.source.git.commit"] for run in runs_made} == {version}
    shutil.rmtree(clone)
    mlflow.set_tracking_uri(None)
