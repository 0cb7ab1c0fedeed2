"""The words of README for one's own model and for an experiment, and the driver's own program, as they stand there."""

import mlflow
import pytest
from mlflow import MlflowClient

from slmflow.packaging.pipeline_model import log_pipeline_model
from slmflow.workflow import runs
from tests.conftest import make_store, store_uri
from tests.documented import commands, form
from tests.end_to_end.test_adapter import lora
from tests.gguf_maker import write_gguf
from tests.hub_stand_in import hub, repo_of
from tests.typed import checkout, typed

pytestmark = pytest.mark.slow


def lines(*kinds: str) -> list[str]:
    """README's commands of the main entry point with parameters of these kinds."""
    found = [command.text for command in commands() if command.page == "README.md"]
    wanted = tuple(f"mlflow run . --env-manager local -P {kind}" for kind in kinds)
    return [text for text in found if form(text).startswith(wanted)]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project's folder, with the files that README's words name in it, as a newcomer would put them."""
    folder = tmp_path_factory.mktemp("slmflow")
    checkout(folder)
    write_gguf(folder / "My.Q4_K_M.gguf", kinds="Q4_K")
    for name, content in lora(1).files.items():
        (folder / "my-lora").mkdir(exist_ok=True)
        (folder / "my-lora" / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def store(tiny, tmp_path_factory):
    """A store with a registered model named `name`, somebody's champion."""
    folder = tmp_path_factory.mktemp("store")
    make_store(folder)
    (folder / "scratch").mkdir()
    mlflow.set_tracking_uri(store_uri(folder))
    with mlflow.start_run():
        made = log_pipeline_model(tiny, "tiny", folder / "scratch", {"source": "test"})
    version = mlflow.register_model(f"models:/{made}", "name")
    MlflowClient().set_registered_model_alias("name", "champion", version.version)
    mlflow.set_tracking_uri(None)
    return folder


def newest(client, entry):
    """The latest run that `mlflow run` itself made of an entry point."""
    found = client.search_runs(["0"], f"tags.`mlflow.project.entryPoint` = '{entry}'")
    return next(run for run in found if runs.PARENT_TAG not in run.data.tags)


OWN = lines("model:", "adapter -P model:")


def test_readme_names_files_repositories_registered_models_and_adapters():
    assert {form(text).split(" local ")[1] for text in OWN} == {
        "-P model:path",
        "-P model:hub",
        "-P model:mlflow",
        "-P adapter -P model:hub",
    }


@pytest.mark.parametrize("line", OWN)
def test_ones_own_model_is_fetched_by_the_words_of_readme(project, store, client, tiny, tmp_path, line):
    """The first step, by which the words are understood: the rest of the road is that of any model."""
    write_gguf(tmp_path / "name.Q4_K_M.gguf", kinds="Q4_K")
    write_gguf(tmp_path / "name.Q8_0.gguf", kinds="Q8_0")
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.gguf")}
    ggufs = repo_of(tmp_path)
    ggufs.files |= files
    with hub(**{"org__name": repo_of(tiny), "org__name-GGUF": ggufs}) as endpoint:
        done = typed(
            line.replace("mlflow run .", "mlflow run . -e fetch"),
            project,
            store,
            HF_ENDPOINT=endpoint,
            HF_HOME=str(tmp_path / "hf"),
            HF_HUB_OFFLINE="0",
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = newest(client, "fetch")
    (fetch,) = runs.children(run)
    manifest = runs.json_artifact(fetch, "manifest.json")
    assert ("merged into 1 weights" in done.stdout) == ("adapter=" in line)
    assert (".gguf" in str(manifest)) == ("gguf" in line.lower())
    assert "name.Q8_0" not in str(manifest)


def test_an_experiment_and_overrides_are_params_of_the_run_by_their_names(project, store, client, tmp_path):
    words = "-P experiment=tiny -P gate.mode=warn -P package.max_tokens=512"
    done = typed(f"mlflow run {project} --env-manager local {words}", tmp_path, store)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    params = newest(client, "main").data.params
    assert (params["experiment"], params["gate.mode"], params["package.max_tokens"]) == (
        "tiny",
        "warn",
        "512",
    )
    again = typed(f"mlflow run . --env-manager local {words}", project, store)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert again.stdout.count("reused, run") == 7


def test_the_driver_is_a_program_of_its_own(project, store, client):
    (line,) = [
        command.text
        for command in commands()
        if command.page == "README.md" and command.text.startswith("python driver.py")
    ]
    done = typed(f"{line} package.max_tokens=512", project, store)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "tiny-phi3-onnx v1 @champion" in done.stdout
