"""The workflow against the server that a team shares: PostgreSQL, proxied artifacts, basic auth, and its absence."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow import downloads
from slmflow.artifacts import local_path, stored_json
from slmflow.errors import SlmflowError, UnavailableError
from slmflow.files import sha256_of
from slmflow.workflow import launch, runs
from slmflow.workflow.lookup import ClientStore, found_of
from slmflow.workflow.outputs import INDEX, INDEX_TAG, build_index, check, index_digest, publish
from slmflow.workflow.tags import KIND_TAG
from tests import warm
from tests.conftest import ROOT
from tests.shared_server import ADMIN, PASSWORD, PostgreSQL, SharedServer

TINY = "+experiment=tiny evaluate=quick evaluate.new_tokens=4 evaluate.repeats=1 gate.load_test=here"
STEPS = ["evaluate_onnx", "evaluate_pipeline", "export_onnx", "fetch", "log_onnx", "log_pipeline", "register"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    database = PostgreSQL()
    started = SharedServer(tmp_path_factory.mktemp("server"), database)
    try:
        started.start()
        yield started
    finally:
        started.kill()
        database.stop()


@pytest.fixture
def client(server, tmp_path, monkeypatch):
    """This process as a client, with caches of its own."""
    for name, value in {**server.environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri(server.uri)
    downloads._sent.clear()
    yield MlflowClient()
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


def environment(server, place, **more):
    """A shell on a host of its own: its caches and its locks are nobody else's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    own = {"XDG_CACHE_HOME": str(place / "cache"), "SLMFLOW_LOCKS": str(place / "locks")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    telemetry = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**inherited, **telemetry, "PATH": path, **own, **server.environment(), **more}


def begin(server, place, words, root=ROOT, module="steps.register", **more):
    return subprocess.Popen(
        [warm.python(), "-m", module, *words],
        cwd=root, env=environment(server, place, **more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def told(process):
    output = process.communicate()[0]
    return process.returncode, output


def finished(experiment):
    found = MlflowClient().search_runs([experiment], f"tags.{KIND_TAG} = 'step'")
    return sorted(run.info.run_name for run in found if run.info.status == "FINISHED")


def outage(server, away=4.0):
    """The server's host dies, and comes back."""
    server.kill()
    time.sleep(away)
    server.start()


@pytest.mark.parametrize(
    ("module", "words"),
    [("steps.register", [f"overrides={TINY}"]), ("slmflow.commands.rollback", ["model=tiny-phi3-onnx"])],
)
def test_a_wrong_password_is_one_line_without_it(server, tmp_path, module, words):
    status, output = told(
        begin(server, tmp_path, words, module=module, MLFLOW_TRACKING_PASSWORD="planted-Wrong")
    )
    assert status == 1
    (line,) = output.strip().splitlines()
    assert f"tracking server {server.uri}: does not know user {ADMIN}" in line
    assert "MLFLOW_TRACKING_PASSWORD" in line
    assert "planted" not in output


def test_a_server_that_is_away_is_one_line_and_the_password_in_its_address_is_not_told(server, tmp_path):
    more = {
        "MLFLOW_TRACKING_URI": "http://joe:planted-Hidden@127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    status, output = told(begin(server, tmp_path, [f"overrides={TINY}"], **more))
    assert status == 1
    (line,) = output.strip().splitlines()
    assert "tracking server http://127.0.0.1:9: no answer (Connection refused)" in line
    assert "planted" not in output


def test_a_user_without_permission_is_one_line_that_names_user_and_request(server, client, tmp_path):
    from mlflow.server.auth.client import AuthServiceClient

    AuthServiceClient(server.uri).create_user("reader", "planted-Reader-pass")
    more = {"MLFLOW_TRACKING_USERNAME": "reader", "MLFLOW_TRACKING_PASSWORD": "planted-Reader-pass"}
    status, output = told(begin(server, tmp_path, [f"overrides={TINY}"], **more))
    assert status == 1
    (line,) = output.strip().splitlines()
    assert "refuses user reader mlflow/runs/create" in line
    assert "planted" not in output


def logged(client, path, experiment="0"):
    """A run with one artifact, as a step leaves it; its index comes last."""
    run = client.create_run(experiment)
    with mlflow.start_run(run.info.run_id):
        published = publish(path, run.info.artifact_uri)
    return client.get_run(run.info.run_id), build_index(published, run.info.artifact_uri, None)


def folder_with(place, **files):
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


def test_an_upload_without_its_index_or_with_a_file_cut_short_is_not_believed(server, client, tmp_path):
    staged = folder_with(tmp_path / "staged", weights=b"w" * 1000)
    run, index = logged(client, staged)
    store = ClientStore("0")
    assert "cannot be read" in check(found_of(run), store).reason
    client.log_dict(run.info.run_id, index, INDEX)
    client.set_tag(run.info.run_id, INDEX_TAG, index_digest(index))
    assert check(found_of(client.get_run(run.info.run_id)), store).reason is None
    (stored,) = server.artifacts.rglob(f"*{run.info.run_id}*/artifacts/weights")
    stored.write_bytes(b"w" * 999)
    reason = check(found_of(client.get_run(run.info.run_id)), store).reason
    assert reason == "weights has 999 bytes instead of 1,000"


def test_what_a_host_uploads_it_does_not_download_and_another_downloads_once(
    server, client, tmp_path, monkeypatch
):
    run, index = logged(client, folder_with(tmp_path / "staged", weights=os.urandom(3 << 20)))
    (stored,) = server.artifacts.rglob(f"*{run.info.run_id}*/artifacts/weights")
    digests = {"weights": index["files"]["weights"]["sha256"]}

    def requests():
        text = server.log.read_text()
        return text.count(f'"GET /api/2.0/mlflow-artifacts/artifacts/0/{run.info.run_id}/artifacts/weights')

    assert sha256_of(downloads.tree(run.info.artifact_uri, digests) / "weights") == digests["weights"]
    assert requests() == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    brought = [downloads.tree(run.info.artifact_uri, digests) / "weights" for _ in range(2)]
    assert requests() == 1
    brought[0].chmod(0o644)
    brought[0].write_bytes(b"spoilt by somebody who wrote into it")
    again = downloads.tree(run.info.artifact_uri, digests) / "weights"
    assert sha256_of(again) == digests["weights"]
    assert requests() == 2
    stored.write_bytes(os.urandom(3 << 20))
    shutil.rmtree(tmp_path / "another")
    with pytest.raises(SlmflowError, match="weights was altered"):
        downloads.tree(run.info.artifact_uri, digests)
    assert not list((tmp_path / "another").rglob("*.part"))


def test_downloads_stay_within_their_limit_and_the_latest_used_stay(server, client, tmp_path, monkeypatch):
    monkeypatch.setenv(downloads.LIMIT, "0.0000025")
    files = {f"f{number}": bytes([number]) * 1000 for number in range(3)}
    run, index = logged(client, folder_with(tmp_path / "staged", **files))
    for name in files:
        downloads.tree(run.info.artifact_uri, {name: index["files"][name]["sha256"]})
    kept = {path.name for path in (downloads.folder() / "content").iterdir() if not path.suffix}
    assert kept == {index["files"][name]["sha256"] for name in ("f1", "f2")}


def test_a_missing_artifact_is_missing_and_one_of_an_absent_server_is_not(
    server, client, tmp_path, monkeypatch
):
    run, _ = logged(client, folder_with(tmp_path / "staged", here=b"{}"))
    assert stored_json(run.info.artifact_uri, "here") == {}
    with pytest.raises(SlmflowError, match=r"gone\.json: not there"):
        local_path(f"{run.info.artifact_uri}/gone.json")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="no answer"):
        local_path(f"{run.info.artifact_uri}/here")
    with pytest.raises(UnavailableError, match="no answer"):
        check(found_of(run), ClientStore("0"))


def test_a_request_that_made_two_runs_leaves_one_claim(client):
    """As when the server dies between its work and its answer, and is asked again."""
    tags = {launch.CLAIM_TAG: "the-same"}
    twin, mine = (client.create_run("0", tags=tags) for _ in range(2))
    launch._close_twins(client, mine)
    assert client.get_run(twin.info.run_id).info.status == "KILLED"
    assert client.get_run(mine.info.run_id).info.status == "RUNNING"


@pytest.mark.slow
def test_uploads_and_downloads_go_on_when_the_server_dies_in_the_middle(
    server, client, tmp_path, monkeypatch
):
    staged = folder_with(tmp_path / "staged", weights=os.urandom(1 << 20) * 400)
    death = threading.Timer(0.3, outage, [server])
    death.start()
    run, index = logged(client, staged)
    death.join()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    death = threading.Timer(0.3, outage, [server])
    death.start()
    digests = {"weights": index["files"]["weights"]["sha256"]}
    assert (downloads.tree(run.info.artifact_uri, digests) / "weights").stat().st_size == 400 << 20
    death.join()


@pytest.mark.slow
def test_a_run_reaches_its_champion_and_every_command_works_and_no_record_holds_a_credential(
    server, client, tmp_path
):
    experiment = client.create_experiment("everything")
    more = {"MLFLOW_EXPERIMENT_ID": experiment, "HF_TOKEN": "hf_plantedTokenOfAHub"}
    outputs = []

    def do(module, *words):
        process = begin(server, tmp_path, words, module=module, **more)
        status, output = told(process)
        outputs.append(output)
        assert status == 0, output
        return output

    words = f"overrides={TINY} model.name=everything"
    assert "everything-onnx v1 @champion" in do("steps.register", words)
    assert do("steps.register", words).count("reused, run") == len(STEPS)
    assert finished(experiment) == STEPS
    more_tokens = f"{words} package.max_tokens=7"
    assert "everything-onnx v2 @champion" in do("steps.register", more_tokens)
    assert "to run" not in do("slmflow.commands.plan", more_tokens)
    evaluations = client.search_runs([experiment], "tags.slmflow.step = 'evaluate'")
    ids = ",".join(run.info.run_id for run in evaluations if run.data.tags[KIND_TAG] == "step")
    do("slmflow.commands.compare", f"run_ids={ids}")
    assert "champion v2 → v1" in do("slmflow.commands.rollback", "model=everything-onnx")
    assert "v2 is champion" in do("slmflow.commands.promote", "model=everything-onnx", "version=2")
    do("slmflow.commands.gc")
    mlflow.set_experiment("production of everything")
    champion = mlflow.pyfunc.load_model("models:/everything-onnx@champion", model_config={"tracing": True})
    assert isinstance(champion.predict({"prompt": "a"})[0], str)
    mlflow.flush_trace_async_logging()
    do("steps.evaluate", f"{words} monitoring.limit=5", "traces=production of everything")
    dump = server.database.dump()
    assert "everything-onnx" in dump
    for secret in (PASSWORD, "hf_plantedTokenOfAHub"):
        assert secret not in dump
        assert not any(secret in output for output in outputs)
        for place in (server.artifacts, tmp_path / "cache", server.log):
            found = subprocess.run(["grep", "-rlF", secret, str(place)], capture_output=True, text=True)
            assert found.stdout == ""


@pytest.mark.slow
def test_a_server_that_dies_three_times_in_a_run_costs_retries_and_not_the_run(server, client, tmp_path):
    experiment = client.create_experiment("deaths")
    words = [f"overrides={TINY} model.name=deaths model.source.seed=1"]
    process = begin(server, tmp_path, words, MLFLOW_EXPERIMENT_ID=experiment)
    reader = threading.Thread(target=lambda: outputs.append(told(process)))
    outputs: list[tuple[int, str]] = []
    reader.start()
    for steps in (0, 2, 4):  # done when the server dies; each outage costs the waits between MLflow's retries
        while len(finished(experiment)) < steps:
            assert process.poll() is None, outputs
            time.sleep(0.5)
        outage(server)
    reader.join()
    assert outputs[0][0] == 0, outputs[0][1]
    assert finished(experiment) == STEPS
    found = client.search_runs([experiment])
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(client.search_model_versions("name = 'deaths-onnx'")) == 1
    for run in found:
        if run.data.tags[KIND_TAG] == "step":
            assert check(found_of(run), ClientStore(experiment)).reason is None


@pytest.mark.slow
def test_two_drivers_on_two_checkouts_do_each_step_once_and_make_one_champion(server, client, tmp_path):
    """Each as if on a host of its own: they have the server in common, no cache and no lock."""
    experiment = client.create_experiment("two")
    both = []
    for name in ("here", "there"):
        place = tmp_path / name
        place.mkdir()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(place / "checkout")], check=True)
        words = [f"overrides={TINY} model.name=two model.source.seed=2"]
        both.append(begin(server, place, words, root=place / "checkout", MLFLOW_EXPERIMENT_ID=experiment))
    outputs = [told(process) for process in both]
    assert [status for status, _ in outputs] == [0, 0], outputs
    assert finished(experiment) == STEPS
    statuses = {run.info.status for run in client.search_runs([experiment])}
    assert statuses <= {"FINISHED", "KILLED"}  # a claim that came second is withdrawn before it begins
    assert "closed run" not in "".join(output for _, output in outputs)
    for name in ("two-onnx", "two-pipeline"):
        assert len(client.search_model_versions(f"name = '{name}'")) == 1
        assert client.get_registered_model(name).aliases == {"champion": "1"}


@pytest.mark.slow
def test_a_server_that_stays_away_ends_in_one_line_and_the_command_resumes(server, client, tmp_path):
    experiment = client.create_experiment("stays-away")
    words = [f"overrides={TINY} model.name=away model.source.seed=3"]
    more = {"MLFLOW_EXPERIMENT_ID": experiment, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    process = begin(server, tmp_path, words, **more)
    while "fetch" not in finished(experiment):
        assert process.poll() is None, told(process)
        time.sleep(0.5)
    server.kill()
    status, output = told(process)
    server.start()
    assert status == 1, output
    assert "Traceback" not in output
    assert "to go on where it stopped:\n    mlflow run" in output
    assert output.strip().splitlines()[-1].startswith("slmflow register: ")
    status, output = told(begin(server, tmp_path, words, MLFLOW_EXPERIMENT_ID=experiment))
    assert status == 0, output
    assert "✓ fetch" in output
    assert finished(experiment).count("fetch") == 1
    assert not [run for run in client.search_runs([experiment]) if run.info.status == "RUNNING"]
    assert runs.store_name() == server.uri
