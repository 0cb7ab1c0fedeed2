"""`mlflow run` exactly as README and model cards write it: bare, by each environment manager, from a git address."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from slmflow.workflow import runs
from slmflow.workflow.steps import STEPS
from tests.conda_stand_in import make_conda
from tests.documented import commands, form
from tests.free_port import free_port
from tests.typed import checkout, git, typed, uv_torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for the module: the tiny model is made once, by the bare command."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project's folder, a checkout of what is on disk."""
    folder = tmp_path_factory.mktemp("slmflow")
    checkout(folder)
    return folder


@pytest.fixture(scope="module")
def conda(tmp_path_factory):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("conda.yaml names Python 3.11, and the stand-in for conda has the one at hand only")
    home = make_conda(tmp_path_factory.mktemp("conda"))
    yield home
    shutil.rmtree(home)  # 2 GB


@pytest.fixture(scope="module")
def bare(conda, project, store):
    """The command of this project's users, in a shell that `conda init` has prepared."""
    return typed(
        "mlflow run . -e register -P model=tiny_phi3", project, store, CONDA_EXE=str(conda / "bin/conda")
    )


def newest(client, entry):
    """The latest run that `mlflow run` itself made of an entry point."""
    found = client.search_runs(["0"], f"tags.`mlflow.project.entryPoint` = '{entry}'")
    return next(run for run in found if runs.PARENT_TAG not in run.data.tags)


def whole(bare, client):
    """The bare command's own run."""
    return client.get_run(re.search(r"^run (\w{32})$", bare.stdout, re.M)[1])


def was_run_in(run, prefix: Path):
    """Whether a run's process had the packages of that environment, which has no tool of development."""
    (here,) = prefix.glob("lib/python3*/site-packages")
    installed = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/installed.txt").splitlines()
    found = {path.stem.rpartition("-")[0].lower().replace("_", "-") for path in here.glob("*.dist-info")}
    assert {line.partition("==")[0] for line in installed} == found
    assert "mlflow" in found
    assert not {"pytest", "ruff", "mypy"} & found
    return True


def environment(root: Path) -> Path:
    (made,) = root.glob("mlflow-*")
    return made


def test_the_bare_register_makes_the_environment_of_conda_yaml_and_runs_in_it(bare, conda, project, client):
    assert bare.returncode == 0, bare.stdout[-3000:] + bare.stderr[-3000:]
    assert "=== Creating conda environment mlflow-" in bare.stderr
    assert "tiny-phi3-onnx v1 @champion" in bare.stdout
    run = whole(bare, client)
    assert run.data.tags["mlflow.project.env"] == "conda"
    assert was_run_in(run, environment(conda / "envs"))
    assert {child.info.status for child in runs.children(run)} == {"FINISHED"}
    assert git("status", "--porcelain", folder=project) == "", "nothing is left beside conda.yaml"


def test_what_it_says_comes_next_works_in_a_new_shell(bare):
    lines = [line.strip() for line in bare.stdout.split("\nNext:\n")[1].splitlines()]
    setup = [line for line in lines if line.startswith(("conda activate ", "export "))]
    assert len(setup) == 2
    home = Path(setup[0].split()[-1]).parent.parent
    for command in [line for line in lines if line.startswith("python -c")]:
        script = "\n".join(["set -e", f". {home}/etc/profile.d/conda.sh", *setup, "which mlflow", command])
        told = subprocess.run(
            ["bash", "-c", script], cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )
        assert told.returncode == 0, told.stderr
        assert told.stdout.startswith(str(home / "envs"))
        assert len(told.stdout.splitlines()) > 1


def test_the_bare_run_is_the_same_workflow_and_needs_no_more_than_conda_on_the_path(
    bare, conda, project, store
):
    done = typed("mlflow run . -P model=tiny_phi3", project, store, first=str(conda / "bin"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "already exists" in done.stderr
    assert "source activate mlflow-" in done.stderr
    assert done.stdout.count("reused, run") == 7


def test_make_run_is_mlflow_run_in_the_environment_that_make_made(bare, project, store):
    """Without the installation: this environment stands for the one that `make` would make and activate."""
    done = typed("make -o runtime run ACTIVATE=true ARGS='-P model=tiny_phi3'", project, store)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[0] == "true && mlflow run . --env-manager local -P model=tiny_phi3"
    assert done.stdout.count("reused, run") == 7


def test_without_conda_the_bare_run_ends_in_one_line_that_names_it(project, tmp_path):
    done = typed("mlflow run . -P model=tiny_phi3", project, tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "Conda" in line]
    assert "Could not find Conda executable at conda" in line
    assert "Traceback" not in done.stderr


def pyenv_of(folder: Path) -> dict[str, str]:
    """pyenv as it was when the newest Python 3.11 that it knew is the one that it has.

    MLflow asks for the newest 3.11 that pyenv could build; here no source of a Python can be had.
    """
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        pytest.skip("no pyenv on PATH: MLflow's virtualenv cannot make an environment")
    root = subprocess.run([pyenv, "root"], check=True, capture_output=True, text=True).stdout.strip()
    had = list(Path(root, "versions").glob("3.11.*"))
    if not had:
        pytest.skip("pyenv has no Python 3.11")
    for place in ("versions", "share/python-build"):
        (folder / place).mkdir(parents=True)
    for version in had:
        (folder / "share/python-build" / version.name).touch()
        (folder / "versions" / version.name).symlink_to(version)
    return {"PYENV_ROOT": str(folder), "PYTHON_BUILD_ROOT": str(folder)}


def test_the_virtualenv_manager_builds_the_environment_and_runs_in_it(project, store, client, tmp_path):
    done = typed(
        "mlflow run . -e fetch --env-manager virtualenv -P model=tiny_phi3 -P model.source.seed=1",
        project,
        store,
        MLFLOW_ENV_ROOT=str(tmp_path / "envs"),
        **pyenv_of(tmp_path / "pyenv"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert was_run_in(newest(client, "fetch"), environment(tmp_path / "envs"))
    shutil.rmtree(tmp_path / "envs")


@pytest.fixture(scope="module")
def by_uv(project, store, tmp_path_factory):
    """The default model's weights, fetched by pip in an environment that uv made."""
    root = tmp_path_factory.mktemp("envs")
    command = "mlflow run . -e fetch --env-manager uv"
    yield typed(command, project, store, MLFLOW_ENV_ROOT=str(root), **uv_torch()), root
    shutil.rmtree(root)


def test_the_uv_manager_builds_the_environment_and_fetches_the_default_model_in_it(by_uv, client):
    done, root = by_uv
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert was_run_in(newest(client, "fetch"), environment(root))


def test_a_virtual_environment_is_shared_by_its_managers(by_uv, project, store, tmp_path):
    _, root = by_uv
    command = "mlflow run . -e plan --env-manager virtualenv"
    done = typed(
        command,
        project,
        store,
        MLFLOW_ENV_ROOT=str(root),
        **(pyenv_of(tmp_path) if shutil.which("pyenv") else {}),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "✓ fetch                  cached" in done.stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two repositories at an address: this project, and a team's with this project in a folder; its URI, their commits."""
    folder = tmp_path_factory.mktemp("served")
    commits = {}
    for name, below in {"slmflow.git": ".", "team.git": "models/slmflow"}.items():
        (folder / name).mkdir()
        commits[name] = checkout(folder / name, below=below)
        git("tag", "v1.0", folder=folder / name)
    port = free_port()
    command = [
        "git",
        "daemon",
        "--export-all",
        f"--base-path={folder}",
        "--listen=127.0.0.1",
        f"--port={port}",
    ]
    daemon = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        yield f"git://127.0.0.1:{port}", commits
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait()


@pytest.fixture
def team(served):
    """The address of the team's repository, and its commit."""
    address, commits = served
    return f"{address}/team.git", commits["team.git"]


@pytest.mark.parametrize(
    ("place", "version", "manager"),
    [
        ("slmflow.git", "<commit>", ""),
        ("slmflow.git", "v1.0", " --env-manager uv"),
        ("team.git#models/slmflow", "<commit>", ""),
        ("team.git#models/slmflow", "main", ""),
    ],
)
def test_the_project_runs_from_its_git_address_and_below_another_repositorys_root(
    bare, conda, by_uv, served, store, tmp_path, client, place, version, manager
):
    address, commits = served
    commit = commits[place.partition("#")[0]]
    command = (
        f"mlflow run {address}/{place} -v {version.replace('<commit>', commit)}{manager} -P model=tiny_phi3"
    )
    environments = {"MLFLOW_ENV_ROOT": str(by_uv[1]), **uv_torch()}
    done = typed(command, tmp_path, store, CONDA_EXE=str(conda / "bin/conda"), **environments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("reused, run") == 7, "the same files, wherever they lie"
    run = newest(client, "main")
    assert run.data.tags["mlflow.source.git.commit"] == commit
    assert run.data.tags["mlflow.source.name"] == f"{address}/{place}"
    assert run.data.tags["mlflow.project.env"] == (manager.removeprefix(" --env-manager ") or "conda")


def test_what_fails_from_a_git_address_is_resumed_from_it(bare, conda, team, store, tmp_path):
    address, commit = team
    done = typed(
        f"mlflow run {address}#models/slmflow -v {commit} -P model=tiny_phi3 -P export=gguf_cpu",
        tmp_path,
        store,
        CONDA_EXE=str(conda / "bin/conda"),
    )
    assert done.returncode != 0
    again = re.search(r"to go on where it stopped:\n +(.*)", done.stderr)[1]
    assert again == (
        f"mlflow run '{address}#models/slmflow' -v {commit} --env-manager conda -P model=tiny_phi3 -P export=gguf_cpu"
    )


def test_a_run_from_a_folder_below_a_repositorys_root_is_reproduced(
    bare, conda, team, store, tmp_path, client
):
    address, commit = team
    typed(
        f"mlflow run {address}#models/slmflow -v {commit} -P model=tiny_phi3",
        tmp_path,
        store,
        CONDA_EXE=str(conda / "bin/conda"),
    )
    run = newest(client, "main")
    done = typed(
        f"mlflow run {address}#models/slmflow -v {commit} -e reproduce -P run_id={run.info.run_id}",
        tmp_path,
        store,
        CONDA_EXE=str(conda / "bin/conda"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all content is equal" in done.stdout


MORE = (
    "mlflow run . -e evaluate --env-manager local -P model=tiny_phi3",
    "mlflow run . -e register --env-manager local -P model=tiny_phi3",
)
"""As documented, with the tiny model for the default one."""
IDS = re.compile(r"-P (\w+)=<[^>]*>(,<[^>]*>)?")
GIVEN = {
    "fetch_run": ("fetch",),
    "export_run": ("export_onnx",),
    "logged_run": ("log_onnx",),
    "reference_run": ("evaluate_pipeline",),
    "onnx_run": ("evaluate_onnx",),
    "pipeline_run": ("evaluate_pipeline",),
    "run_ids": ("evaluate_pipeline", "evaluate_onnx"),
}
"""Parameter → the steps whose ids it takes."""


def examples() -> list[str]:
    """The documented commands that take ids, or are of the tiny model, or launch nothing; one of each form."""
    found = {form(text): text for text in MORE}
    for text in (command.text for command in commands()):
        alone = (
            text.startswith("mlflow run . -e ") and "--env-manager local" in text and "backend" not in text
        )
        names = {name for name, _ in IDS.findall(text)}
        tiny = "model=tiny_phi3" in text and "traces" not in text
        if alone and (names & GIVEN.keys() or tiny or text.split()[4] in ("plan", "gc")):
            found.setdefault(form(text), text)
    return list(found.values())


def test_the_documents_have_an_example_of_every_step():
    assert {text.split()[4] for text in examples()} >= {*STEPS, "compare", "plan", "gc"}


@pytest.mark.parametrize("example", examples())
def test_a_documented_example_does_what_it_says(bare, project, store, client, example):
    ids = {child.info.run_name: child.info.run_id for child in runs.children(whole(bare, client))}
    command = IDS.sub(lambda found: f"-P {found[1]}=" + ",".join(ids[s] for s in GIVEN[found[1]]), example)
    done = typed(command, project, store)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = newest(client, command.split()[4])
    assert run.info.status == "FINISHED"
    assert run.data.tags.get("mlflow.project.env") is None, "MLflow's mark of an environment that it made"
