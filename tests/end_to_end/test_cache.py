"""Work is not done twice, is done again when its result is not what it was, and the plan says which and why."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from driver import graph
from slmflow.quality.cost import busy
from slmflow.sweep import variants
from slmflow.workflow import runs
from slmflow.workflow.item import State
from slmflow.workflow.lookup import open_store
from slmflow.workflow.outputs import INDEX
from slmflow.workflow.parts import part_tag
from slmflow.workflow.plan import make_plan, settle
from slmflow.workflow.tags import NODE_TAG
from tests import warm
from tests.conftest import ROOT, run_warm, store_uri
from tests.end_to_end.test_tiny_workflow import drivers, registry

WORDS = ["-P", "model=tiny_phi3", "-P", "overrides=evaluate=quick"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole run, and its folder as it was left, to damage copies of."""
    store = tmp_path_factory.mktemp("made")
    done = run_warm(WORDS, store)
    assert done.returncode == 0, done.stdout + done.stderr
    return store


@pytest.fixture
def store(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri(made))
    mlflow.set_tracking_uri(store_uri(made))
    yield made
    mlflow.set_tracking_uri(None)


def planned(overrides="evaluate=quick"):
    return make_plan("register", variants(model="tiny_phi3", overrides=overrides), open_store("0"), graph)


def plan(overrides="evaluate=quick"):
    """Item to its state and reason."""
    return {item.name: (item.state, item.reason) for item in planned(overrides)}


def states(**words):
    return {name: state for name, (state, _) in plan(**words).items()}


ALL = ("fetch", "export_onnx", "log_pipeline", "evaluate_pipeline", "log_onnx", "evaluate_onnx", "register")


def test_after_a_run_all_is_cached_and_running_again_launches_nothing(store):
    assert states() == dict.fromkeys(ALL, State.cached)
    before, version = registry(MlflowClient()), len(MlflowClient().search_runs(["0"]))
    done = run_warm(WORDS, store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("reused, run") == 7
    assert "tiny-phi3-onnx v1 @champion" in done.stdout
    assert registry(MlflowClient()) == before
    assert len(MlflowClient().search_runs(["0"])) == version + 1, "the driver's own run"


def test_the_plan_command_says_the_same_and_launches_nothing(store):
    before = len(MlflowClient().search_runs(["0"]))
    done = run_warm(["-e", "plan", *WORDS[:2], "-P", "overrides=evaluate=quick export=int8_cpu"], store)
    assert done.returncode == 0, done.stderr
    assert "✓ fetch                  cached" in done.stdout
    assert "● export_onnx            to run   export.precision fp32 → int8" in done.stdout
    assert "3 cached, 4 run" in done.stdout
    assert len(MlflowClient().search_runs(["0"])) == before + 1, "the command's own run"


@pytest.mark.parametrize(
    ("overrides", "first", "reason"),
    [
        ("evaluate=quick package.top_p=0.5", "log_onnx", "package.top_p 1.0 → 0.5"),
        ("evaluate=quick gate.mode=warn", "register", "gate.mode enforce → warn"),
        ("evaluate=quick model.source.seed=1", "fetch", "model.source.seed 0 → 1"),
        ("evaluate=quick evaluate.windows=2", "evaluate_pipeline", "evaluate.windows"),
    ],
)
def test_a_changed_setting_runs_what_reads_it_and_what_follows_and_names_it(store, overrides, first, reason):
    found = plan(overrides)
    assert found[first][0] is State.run
    assert reason in found[first][1]
    assert found["register"][0] is State.run
    assert all(found[name][0] is State.cached for name in ALL[: ALL.index(first)] if name != "log_onnx")


def indexed_files(store):
    """Every artifact of every finished step, and every file of its LoggedModel."""
    client = MlflowClient()
    for run in client.search_runs(["0"], "tags.slmflow.kind = 'step'"):
        folder = Path(run.info.artifact_uri)
        index = runs.index_of(run)
        names = [name for name in index["files"] if not name.startswith("model/")] + [INDEX]
        yield from ((run.data.tags[NODE_TAG], folder / name) for name in names)
        if index["model"]:
            location = Path(index["model"]["location"])
            inside = [name for name in index["files"] if name.startswith("model/")]
            yield from ((run.data.tags[NODE_TAG], location / name.removeprefix("model/")) for name in inside)


def test_weights_that_several_runs_hold_are_missed_by_each_of_them(store):
    """One inode: the export's folder and the LoggedModel that was made of it."""
    (weights,) = [
        path for node, path in indexed_files(store) if node == "log_onnx" and path.suffix == ".data"
    ]
    assert weights.stat().st_nlink == 2
    content, stat = weights.read_bytes(), weights.stat()
    os.chmod(weights, 0o644)
    weights.write_bytes(b"1" + content[1:])
    found = plan()
    assert "model.onnx.data was altered" in found["export_onnx"][1]
    assert "model.onnx.data was altered" in found["log_onnx"][1]
    weights.write_bytes(content)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGES = {
    "altered": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_artifact_that_is_damaged_makes_its_step_run_again_and_is_named(store, tmp_path, damage):
    files = [(node, path) for node, path in indexed_files(store) if path.stat().st_size]
    assert len(files) > 60
    items = {item.name: item for item in planned()}
    for node, path in files:
        kept = tmp_path / "kept"
        stat = path.stat()
        shutil.copyfile(path, kept)
        os.chmod(path, 0o644)
        DAMAGES[damage](path)
        settle(items[node], open_store("0"))
        assert items[node].state is State.run, path
        assert path.name in items[node].reason
        # Put back in place: the same inode where it still is one, so that links see it too.
        shutil.copyfile(kept, path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.chmod(path, 0o444)
    assert set(states().values()) == {State.cached}


def test_an_alias_that_somebody_moved_is_put_back(store):
    client = MlflowClient()
    client.delete_registered_model_alias("tiny-phi3-onnx", "champion")
    assert plan()["register"] == (
        State.run,
        f"tiny-phi3-onnx@champion is on no version now (run {newest('register')})",
    )
    done = run_warm(WORDS, store)
    assert done.returncode == 0, done.stderr
    assert str(client.get_model_version_by_alias("tiny-phi3-onnx", "champion").version) == "1"


def newest(node):
    (run, *_) = MlflowClient().search_runs(["0"], f"tags.{NODE_TAG} = '{node}'")
    return run.info.run_id


@pytest.mark.slow
def test_a_refactoring_upstream_measures_nothing_anew(store):
    """Another key, the same content: fidelity is taken over by content, cost by content and machine.

    Cost is measured anew where the machine was busy each time that it was measured.
    """
    client = MlflowClient()
    earlier = client.search_runs(
        ["0"], "attributes.run_name = 'evaluate_onnx' and attributes.status = 'FINISHED'"
    )
    done = run_warm(
        [*WORDS[:2], "-P", "overrides=evaluate=quick driver.cache=false", "-e", "log_onnx"], store
    )
    assert done.returncode == 0, done.stderr
    assert "log_onnx was made anew" in plan()["evaluate_onnx"][1]
    done = run_warm(WORDS, store)
    assert done.returncode == 0, done.stderr
    assert "evaluate_onnx     │ fidelity: as run" in done.stdout
    (again, *_) = client.search_runs(["0"], "attributes.run_name = 'evaluate_onnx'", max_results=1)
    key = again.data.tags[part_tag("cost")]
    same = [run for run in earlier if run.data.tags.get(part_tag("cost")) == key]
    assert same
    quiet = any(not busy(runs.json_artifact(run, "evaluation.json")) for run in same)
    assert ("evaluate_onnx     │ cost: as run" in done.stdout) == quiet
    assert "tiny-phi3-onnx v1 @champion" in done.stdout


def test_a_damaged_champion_is_healed_by_running_again(store):
    """Last in the file: the registry gets a second version."""
    client = MlflowClient()
    version = client.get_model_version_by_alias("tiny-phi3-onnx", "champion")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    weights = Path(model.artifact_location) / "artifacts" / "onnx" / "model.onnx.data"
    weights.unlink()
    done = run_warm(WORDS, store)
    assert done.returncode == 0, done.stderr
    healed = client.get_model_version_by_alias("tiny-phi3-onnx", "champion")
    assert int(healed.version) == int(version.version) + 1
    answer = mlflow.pyfunc.load_model("models:/tiny-phi3-onnx@champion").predict({"prompt": "Once"})
    assert isinstance(answer[0], str)
    assert set(states().values()) == {State.cached}


@pytest.mark.slow
def test_gc_is_dry_and_keeps_what_versions_stand_on(store):
    loose = run_warm(["-e", "fetch", "-P", "model=tiny_phi3", "-P", "overrides=model.source.seed=9"], store)
    assert loose.returncode == 0, loose.stderr
    dry = run_warm(["-e", "gc"], store)
    assert dry.returncode == 0, dry.stderr
    assert "FINISHED  fetch" in dry.stdout
    assert "nothing was deleted: add -P delete=true" in dry.stdout
    before = registry(MlflowClient())
    done = run_warm(["-e", "gc", "-P", "delete=true"], store)
    assert done.returncode == 0, done.stderr
    assert "mlflow gc --backend-store-uri" in done.stdout
    assert registry(MlflowClient()) == before
    assert states() == dict.fromkeys(ALL, State.cached), plan()
    assert "0 runs and 0 LoggedModels" in run_warm(["-e", "gc"], store).stdout
    purge = next(line.strip() for line in done.stdout.splitlines() if line.strip().startswith("mlflow gc"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", purge], check=True, cwd=store, env={**os.environ, "PATH": path})
    assert set(states().values()) == {State.cached}, "freed disk is not what the champion stands on"


def test_bad_words_of_the_commands_are_refused_in_one_line(store):
    for command, word, said in (
        ("gc", "delete=yes", "slmflow gc: delete=yes: must be true or false"),
        ("plan", "step=exprot", "slmflow plan: step=exprot: must be one of fetch"),
        ("plan", "model=phi9", "slmflow plan: model=phi9 is unknown"),
        ("reproduce", "run_id=", "slmflow reproduce: run_id is missing"),
        ("reproduce", f"run_id={'0' * 32}", "no such run in sqlite"),
    ):
        program = [warm.python(), "-m", f"slmflow.commands.{command}", word]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_drivers_run_has_a_page_with_every_step_and_every_step_has_a_card(store):
    (first, *_) = drivers(MlflowClient())
    page = mlflow.artifacts.load_text(f"{first.info.artifact_uri}/report.html")
    for item in runs.items_of(first):
        assert item["name"] in page
        assert item["run_id"][:12] in page
        card = mlflow.artifacts.load_text(
            f"{runs.MlflowClient().get_run(item['run_id']).info.artifact_uri}/card.html"
        )
        assert "finished" in card
