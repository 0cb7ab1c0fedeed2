"""`mlflow run` as a user types it, on a random model: everything but the size is real.

The whole run is begun as a user begins it, and so is what is refused at once; what follows, by a warm Python.
"""

import re
import shlex
import subprocess
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.workflow import runs
from tests.conftest import ROOT, run_project, run_warm, store_uri
from tests.environments import without_network
from tests.hub_stand_in import COMMIT, hub, repo_of


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """One whole run, from nothing: its store and its finished process."""
    store = tmp_path_factory.mktemp("store")
    return store, run_project(["-P", "experiment=tiny", "-P", "package.max_tokens=200"], store)


@pytest.fixture
def client(workflow):
    store, _ = workflow
    mlflow.set_tracking_uri(store_uri(store))
    yield MlflowClient()
    mlflow.set_tracking_uri(None)


def drivers(client):
    return client.search_runs(["0"], "tags.slmflow.kind = 'driver'", order_by=["attributes.start_time ASC"])


def registry(client):
    """Everything that the registry says."""
    models = []
    for model in client.search_registered_models():
        versions = [dict(version) for version in client.search_model_versions(f"name = '{model.name}'")]
        models.append((dict(model), versions))
    return repr(models)


def test_it_succeeds_and_ends_with_the_table_and_the_next_commands(workflow):
    _, done = workflow
    assert done.returncode == 0, done.stdout + done.stderr
    for column in ("candidate", "size", "KL", "top-1", "tokens/s", "gate", "registered"):
        assert column in done.stdout
    assert "tiny-phi3-onnx v1 @champion" in done.stdout
    assert "tiny-phi3-pipeline v1 @champion" in done.stdout
    assert "mlflow ui" in done.stdout
    assert "models:/tiny-phi3-onnx@champion" in done.stdout


def test_the_next_commands_do_what_they_say(workflow):
    """As pasted into a new shell."""
    _, done = workflow
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    setup = [line for line in lines if line.startswith((". ", "export "))]
    commands = [line for line in lines if line.startswith("python -c")]
    assert len(setup) == 2
    assert len(commands) == 2
    for command in commands:
        script = "\n".join(["set -e", *setup, command])
        told = subprocess.run(
            ["bash", "-c", script], cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )
        assert told.returncode == 0, told.stderr
        assert told.stdout.strip()


def test_every_step_is_a_finished_nested_named_child(workflow, client):
    (parent, *_) = drivers(client)
    children = runs.children(parent)
    assert {child.info.run_name for child in children} == {
        "fetch",
        "export_onnx",
        "log_pipeline",
        "evaluate_pipeline",
        "log_onnx",
        "evaluate_onnx",
        "register",
    }
    assert {child.info.status for child in children} == {"FINISHED"}
    assert parent.info.run_name == "register tiny-phi3 fp32_cpu"
    assert parent.info.status == "FINISHED"


def test_children_carry_what_repeats_them(workflow, client):
    (parent, *_) = drivers(client)
    by_name = {child.info.run_name: child for child in runs.children(parent)}
    assert parent.data.params["package.max_tokens"] == "200"
    assert {child.data.params["package.max_tokens"] for child in by_name.values()} == {"200"}
    params = by_name["evaluate_onnx"].data.params
    assert params["experiment"] == "tiny"
    assert params["model"] == "tiny_phi3"
    assert params["export"] == "fp32_cpu"
    assert params["logged_run"] == by_name["log_onnx"].info.run_id
    assert params["reference_run"] == by_name["evaluate_pipeline"].info.run_id


def test_the_exported_graph_is_faithful_and_measured_on_run_and_model(workflow, client):
    (parent, *_) = drivers(client)
    run = next(child for child in runs.children(parent) if child.info.run_name == "evaluate_onnx")
    evaluation = runs.json_artifact(run, "evaluation.json")
    assert evaluation["fidelity"]["kl_mean"] < 1e-6
    assert evaluation["fidelity"]["top1_agreement"] == 1
    assert run.data.metrics["kl_mean"] == evaluation["fidelity"]["kl_mean"]
    logged = client.get_logged_model(evaluation["model_id"])
    assert {metric.key for metric in logged.metrics} >= {
        "kl_mean",
        "top1_agreement",
        "decode_tokens_per_second",
    }


def test_the_champion_answers(workflow, client):
    model = mlflow.pyfunc.load_model("models:/tiny-phi3-onnx@champion")
    assert isinstance(model.predict({"prompt": "Once"})[0], str)


def test_what_others_share_can_be_read_by_them_though_safetensors_hides_what_it_writes(workflow):
    store, _ = workflow
    files = [path for path in (store / "mlruns").rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".safetensors"]
    assert [path for path in files if not path.stat().st_mode & 0o004] == []


def test_a_version_carries_the_evidence(workflow, client):
    version = client.get_model_version_by_alias("tiny-phi3-onnx", "champion")
    assert version.tags["gate"] == "pass"
    assert version.tags["slmflow.fingerprint"]
    assert float(version.tags["metric.kl_mean"]) < 1e-6
    assert "kl_mean" in version.description


def test_one_step_runs_alone_by_its_upstreams_id_and_repeats_its_content(workflow, client):
    store, _ = workflow
    (parent, *_) = drivers(client)
    by_name = {child.info.run_name: child for child in runs.children(parent)}
    fetch = by_name["fetch"].info.run_id
    done = run_warm(["-e", "export_onnx", "-P", f"fetch_run={fetch}"], store)
    assert done.returncode == 0, done.stderr
    (alone,) = client.search_runs(["0"], "tags.slmflow.step = 'export_onnx'", max_results=1)
    assert runs.json_artifact(alone, "export.json") == runs.json_artifact(
        by_name["export_onnx"], "export.json"
    )


def test_register_again_leaves_the_registry_as_it_was(workflow, client):
    store, _ = workflow
    (parent, *_) = drivers(client)
    by_name = {child.info.run_name: child.info.run_id for child in runs.children(parent)}
    before = registry(client)
    ids = ["-P", f"onnx_run={by_name['evaluate_onnx']}", "-P", f"pipeline_run={by_name['evaluate_pipeline']}"]
    done = run_warm(["-e", "register", *ids], store)
    assert done.returncode == 0, done.stderr
    assert "was there already" in done.stdout
    assert registry(client) == before


def test_a_missed_gate_registers_nothing_says_why_and_fails(workflow, client):
    store, _ = workflow
    (parent, *_) = drivers(client)
    by_name = {child.info.run_name: child.info.run_id for child in runs.children(parent)}
    before = registry(client)
    ids = ["-P", f"onnx_run={by_name['evaluate_onnx']}", "-P", f"pipeline_run={by_name['evaluate_pipeline']}"]
    done = run_warm(["-e", "register", "-P", "gate.min_decode_tokens_per_second=1e9", *ids], store)
    assert done.returncode != 0
    assert "the gate was missed, nothing is registered: onnx: decode_tokens_per_second" in done.stderr
    assert registry(client) == before


def test_a_step_that_fails_is_named_with_its_cause_its_log_and_the_command_that_resumes(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.gguf").write_text("not a gguf file")
    # Where it was typed is told by the `mlflow run` above a process: no fork stands there.
    done = run_project(["-P", "model=./broken", "-P", "evaluate=quick"], tmp_path)
    assert done.returncode != 0
    assert "✗ fetch  model.gguf: cannot be read as GGUF" in done.stderr
    log = Path(re.search(r"its log: (.*)", done.stderr)[1])
    assert "cannot be read as GGUF" in log.read_text()
    assert "slmflow register: fetch failed: model.gguf: cannot be read as GGUF" in done.stderr
    assert "Traceback" not in done.stderr.split("slmflow register:")[0]
    again = re.search(r"to go on where it stopped:\n +(.*)", done.stderr)[1]
    assert again == shlex.join(
        [
            "mlflow",
            "run",
            str(ROOT),
            "--env-manager",
            "local",
            "-P",
            f"model={tmp_path}/broken",
            "-P",
            "evaluate=quick",
        ]
    )
    mlflow.set_tracking_uri(store_uri(tmp_path))
    found = MlflowClient().search_runs(["0"])
    assert {run.info.status for run in found} == {"FAILED"}
    (step,) = [run for run in found if run.data.tags["slmflow.kind"] == "step"]
    assert "Traceback" in mlflow.artifacts.load_text(f"{step.info.artifact_uri}/card.html")
    mlflow.set_tracking_uri(None)


def test_a_source_that_leads_nowhere_blocks_the_run_before_anything_is_launched(tmp_path):
    done = run_warm(["-P", "model=local", "-P", f"overrides=model.source.path={tmp_path}/none"], tmp_path)
    assert done.returncode != 0
    assert "✗ fetch                  blocked" in done.stdout
    assert "✗ register               blocked  needs evaluate_onnx" in done.stdout
    assert "slmflow register: fetch is blocked: model.source.path=" in done.stderr
    mlflow.set_tracking_uri(store_uri(tmp_path))
    assert len(MlflowClient().search_runs(["0"])) == 1
    mlflow.set_tracking_uri(None)


def test_an_exporter_whose_environment_is_out_of_reach_is_one_line_before_anything_is_launched(
    tmp_path, monkeypatch
):
    without_network(monkeypatch)
    nowhere = {"SLMFLOW_ENVIRONMENTS": str(tmp_path / "environments")}
    done = run_warm(["-P", "model=tiny_phi3", "-P", "export=optimum_fp32"], tmp_path, **nowhere)
    assert done.returncode != 0
    assert "the environment of exporter optimum cannot be made: " in done.stderr
    assert "choose another export=, such as traced_fp32" in done.stderr
    assert "never done here, run" not in done.stdout, "nothing was launched"


def test_bad_overrides_are_refused_by_mlflow_run_itself(tmp_path):
    done = run_project(["-P", "export=int3", "-P", "gate.mode=warn"], tmp_path)
    assert done.returncode != 0
    assert "slmflow register: export=int3 is unknown: allowed are" in done.stderr
    mlflow.set_tracking_uri(store_uri(tmp_path))
    assert len(MlflowClient().search_runs(["0"])) == 1, "the run that mlflow made; no child"
    mlflow.set_tracking_uri(None)


def test_a_gated_hub_model_is_fetched_through_mlflow_run_and_its_token_is_nowhere(workflow, tiny, tmp_path):
    store, _ = workflow
    repo = repo_of(tiny, gated=True)
    with hub(org__tiny=repo) as endpoint:
        environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        words = ["-P", "model=org/tiny@v1.0"]
        done = run_project(["-e", "fetch", *words], store, HF_TOKEN="hf_do_not_leak_me", **environment)
    assert done.returncode == 0, done.stderr
    assert "Bearer hf_do_not_leak_me" in repo.tokens
    assert f"this run holds to model.source.revision={COMMIT}" in done.stdout
    assert "model.source.digest=" in done.stdout
    found = subprocess.run(["grep", "-rlF", "hf_do_not_leak_me", str(store)], capture_output=True, text=True)
    assert found.stdout == ""
    assert "hf_do_not_leak_me" not in done.stdout + done.stderr


def test_an_onnx_model_is_not_evaluated_without_its_reference(workflow, client):
    store, _ = workflow
    (parent, *_) = drivers(client)
    logged = next(child for child in runs.children(parent) if child.info.run_name == "log_onnx").info.run_id
    done = run_warm(["-e", "evaluate", "-P", f"logged_run={logged}"], store)
    assert done.returncode != 0
    assert "slmflow evaluate: reference_run is missing" in done.stderr


@pytest.mark.parametrize(("mode", "gate"), [("warn", "miss"), ("off", "not judged")])
def test_a_champion_that_misses_today_stays_and_its_evidence_says_so(workflow, client, mode, gate):
    """Last but one in the file: it changes what the registry says of the version."""
    store, _ = workflow
    (parent, *_) = drivers(client)
    by_name = {child.info.run_name: child.info.run_id for child in runs.children(parent)}
    ids = ["-P", f"onnx_run={by_name['evaluate_onnx']}", "-P", f"pipeline_run={by_name['evaluate_pipeline']}"]
    words = f"overrides=gate.min_decode_tokens_per_second=1e9 gate={mode}"
    done = run_warm(["-e", "register", "-P", words, *ids], store)
    assert done.returncode == 0, done.stderr
    version = client.get_model_version_by_alias("tiny-phi3-onnx", "champion")
    assert (str(version.version), version.tags["gate"]) == ("1", gate)


@pytest.mark.slow
def test_a_challenger_is_promoted_rolled_back_and_not_promoted_again_by_a_run(workflow, client):
    """Last in the file: the registry gets a second version."""
    store, _ = workflow
    words = ["-P", "model=tiny_phi3", "-P", "overrides=package.max_tokens=7 gate.promote=manual"]
    made = run_warm(words, store)
    assert made.returncode == 0, made.stderr
    assert "tiny-phi3-onnx v2 @challenger" in made.stdout

    def aliases():
        found = client.get_registered_model("tiny-phi3-onnx").aliases
        return {alias: str(version) for alias, version in found.items()}

    assert aliases() == {"champion": "1", "challenger": "2"}
    done = run_warm(["-e", "promote", "-P", "model=tiny-phi3-onnx"], store)
    assert "tiny-phi3-onnx: v2 is champion, previous is v1" in done.stdout, done.stderr
    assert aliases() == {"champion": "2", "previous": "1"}
    done = run_warm(["-e", "rollback", "-P", "model=tiny-phi3-onnx"], store)
    assert "tiny-phi3-onnx: champion v2 → v1; previous is v2" in done.stdout, done.stderr
    again = run_warm([*words[:-1], "overrides=package.max_tokens=7"], store)
    assert again.returncode == 0, again.stderr
    assert "it was rolled back on" in again.stdout
    assert aliases() == {"champion": "1", "previous": "2"}
    assert {run.data.tags["slmflow.kind"] for run in client.search_runs(["0"])} == {
        "driver",
        "step",
        "command",
    }
    wrong = run_warm(["-e", "rollback", "-P", "model=nobody"], store)
    assert wrong.returncode != 0
    assert "slmflow rollback: model=nobody: " in wrong.stderr
