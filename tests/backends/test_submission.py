"""What is uploaded and submitted for a remote step, before anything is reached."""

import base64
import io
import shlex
import subprocess
import sys
import tarfile
import time
from itertools import pairwise

import psutil
import pytest
from databricks.sdk.service.jobs import SubmitTask

from slmflow.backends import archive
from slmflow.backends.archive import project_archive
from slmflow.backends.run_step import run
from slmflow.backends.submission import StepRun, submission
from slmflow.compose import compose
from slmflow.config.backend import DatabricksBackendConfig
from slmflow.errors import SlmflowError
from slmflow.sweep import one_variant
from slmflow.words import CHOICES, read_words
from slmflow.workflow.closure import ROOT

STEP = StepRun(
    "fetch",
    {"model": "tiny_phi3", "overrides": "a='x y' b=[1, 2]", "none": ""},
    "r1",
    "0",
    "databricks",
    "databricks-uc",
)


def body_of(**settings):
    return submission(DatabricksBackendConfig(**settings), "/Workspace/code", STEP)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"existing_cluster_id": "0101-x"},
        {"new_cluster": {"spark_version": "15.4.x-scala2.12", "num_workers": 0}},
    ],
)
def test_a_submission_is_what_the_jobs_api_reads(settings):
    (task,) = body_of(**settings)["tasks"]
    assert SubmitTask.from_dict(task).as_dict() == task, "no key is lost, so none is misspelt"


def test_each_word_reaches_the_step_whole_whatever_is_in_it():
    words = body_of()["tasks"][0]["spark_python_task"]["parameters"]
    assert words[words.index("--") + 1 :] == ["fetch", "model=tiny_phi3", "overrides=a='x y' b=[1, 2]"]


def test_serverless_compute_installs_the_pinned_requirements():
    (environment,) = body_of()["environments"]
    assert environment["spec"] == {
        "environment_version": "2",
        "dependencies": ["-r /Workspace/code/requirements.txt"],
    }


def test_a_secret_is_named_and_never_held():
    secrets = {"HF_TOKEN": "hub/token"}
    assert (
        "--secret=HF_TOKEN=hub/token"
        in body_of(secrets=secrets)["tasks"][0]["spark_python_task"]["parameters"]
    )
    cluster = {"spark_version": "15.4.x-scala2.12", "spark_env_vars": {"A": "b"}}
    task = body_of(secrets=secrets, new_cluster=cluster)["tasks"][0]
    assert task["new_cluster"]["spark_env_vars"] == {"A": "b", "HF_TOKEN": "{{secrets/hub/token}}"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "backend=databricks +backend.secrets.HF_TOKEN=hf_planted",
            "backend.secrets.HF_TOKEN: must be scope/key",
        ),
        ("backend=databricks backend.retries=-1", "backend.retries"),
        ("backend=databricks backend.folder=here", "must be absolute"),
        (
            "backend=databricks backend.existing_cluster_id=x +backend.new_cluster.spark_version=y",
            "exclude each other",
        ),
    ],
)
def test_a_wrong_backend_is_refused_in_one_line_without_the_secret(words, said):
    with pytest.raises(SlmflowError, match=said) as found:
        compose("tiny_phi3", overrides=words)
    assert "hf_planted" not in str(found.value)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("backend.environment.HF_TOKEN=planted", "HF_TOKEN"),
        ("backend.environment='{DB_PASSWORDS: planted}'", "DB_PASSWORDS"),
        ("backend.environment.NAME=hf_plantedPlantedPlantedPlantedPlanted12", "NAME"),
        ("backend.new_cluster='{spark_version: x, spark_env_vars: {MY_API_KEY: planted}}'", "MY_API_KEY"),
    ],
)
def test_a_credential_among_the_settings_is_refused_without_being_told(words, value):
    with pytest.raises(SlmflowError, match=rf"{value}: looks like a credential.*backend\.secrets") as found:
        compose("tiny_phi3", overrides=f"backend=databricks {words}")
    assert "planted" not in str(found.value).lower()


def test_variables_that_hold_no_credential_are_taken_with_a_plus_and_without():
    words = "backend.environment.TOKENIZERS_PARALLELISM=false +backend.environment.MONKEYS=none"
    config = compose("tiny_phi3", overrides=f"backend=databricks {words}").config.backend
    assert config.environment.keys() == {"TOKENIZERS_PARALLELISM", "MONKEYS"}


def test_braces_that_the_service_would_replace_are_refused():
    words = "'evaluate.text=\"/a/{{job.id}}\"'"
    with pytest.raises(SlmflowError, match=r"overrides: evaluate\.text: a job would replace \{\{…\}\}"):
        compose("tiny_phi3", overrides=f"backend=databricks {words}")
    assert compose("tiny_phi3", overrides=words).config.evaluate.text == "/a/{{job.id}}"


def documented() -> list[str]:
    """The commands of docs/databricks.md that run the project, as they stand there."""
    text = (ROOT / "docs" / "databricks.md").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [line for line in lines if line.startswith(("mlflow run", "make databricks"))]


@pytest.mark.parametrize("line", documented())
def test_a_command_of_the_page_composes_as_it_stands(line):
    words = shlex.split(line)
    if words[0] == "make":
        words = shlex.split(words[-1].removeprefix("ARGS="))
    else:
        assert "--env-manager" in words, "the default is conda, which no runtime has"
    assert "--experiment-name" not in words, "the variable names it"
    given = [word for before, word in pairwise(words) if before == "-P"]
    config = one_variant(**read_words("register", given, CHOICES).choices).config
    if "new_cluster" in line:
        assert SubmitTask.from_dict({"new_cluster": config.backend.new_cluster}).new_cluster.num_workers == 0
        assert config.backend.new_cluster["spark_conf"]["spark.master"] == "local[*]"


def test_the_page_has_such_commands():
    assert len(documented()) >= 5


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small project, as git sees it."""
    for name in ("MLproject", "steps/fetch.py", "kept.bin", ".venv/lib/big.so", "mlruns/run"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text(".venv\nmlruns\n")
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (tmp_path / "untracked.txt").write_text("mine")
    monkeypatch.setattr(archive, "ROOT", tmp_path)
    monkeypatch.setattr(
        archive, "git", lambda *words: subprocess.run(["git", "-C", tmp_path, *words], capture_output=True)
    )
    return tmp_path


def test_only_tracked_files_are_uploaded_and_equal_files_give_equal_bytes(checkout):
    first = project_archive()
    with tarfile.open(fileobj=io.BytesIO(first.content)) as packed:
        assert packed.getnames() == [".gitignore", "MLproject", "kept.bin", "steps/fetch.py"]
    (checkout / "MLproject").touch()
    assert project_archive().digest == first.digest
    (checkout / "MLproject").write_text("changed, not committed")
    assert project_archive().digest != first.digest


@pytest.mark.parametrize("name", [".env", "deploy.pem", "credentials.json"])
def test_a_tracked_file_that_is_named_as_credentials_are_is_not_uploaded(checkout, name):
    (checkout / name).write_text("x")
    subprocess.run(["git", "add", "-f", name], cwd=checkout, check=True)
    with pytest.raises(SlmflowError, match="named as credentials are"):
        project_archive()


def test_an_upload_is_bounded(checkout, monkeypatch):
    monkeypatch.setattr(archive, "LIMIT_BYTES", 100)
    with pytest.raises(SlmflowError, match="take large files out of git"):
        project_archive()


def test_without_git_what_to_upload_cannot_be_told(checkout):
    (checkout / ".git").rename(checkout / "was-git")
    with pytest.raises(SlmflowError, match="no git checkout"):
        project_archive()


def test_the_script_on_the_other_side_sets_the_variables_and_tells_the_steps_status(tmp_path, capfd):
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "__init__.py").touch()
    (tmp_path / "steps" / "fetch.py").write_text(
        "import os, sys\nprint(os.environ['NAME'], sys.argv[1:])\nsys.exit(int(sys.argv[1]))\n"
    )
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "steps", "steps")
    words = [str(tmp_path / "code.tar.gz"), "--set=NAME=a=b 'c'", "--", "fetch"]
    assert run([*words, "0", "a='x y'"]) == 0
    assert run([*words, "3"]) == 3
    assert """a=b 'c' ['0', "a='x y'"]""" in capfd.readouterr().out


def test_the_script_needs_nothing_but_the_standard_library():
    code = "import sys; sys.path[:0] = ['slmflow/backends']; import run_step; print('slmflow' in sys.modules, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_where_the_script_stands_in_the_project_nothing_beside_it_hides_the_workspaces_client():
    """As the bundle runs it, with the script's folder first on the path."""
    code = "import sys; sys.path[:0] = ['slmflow/backends']; import run_step; from databricks.sdk import WorkspaceClient"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def project(folder, code):
    """A project whose one step is this."""
    (folder / "steps").mkdir()
    (folder / "steps" / "__init__.py").touch()
    (folder / "steps" / "fetch.py").write_text(code)
    return str(folder)


def test_what_a_step_writes_is_printed_by_the_script_itself_a_progress_bar_as_its_last_state(
    tmp_path, capsys, monkeypatch
):
    """`capsys` sees Python's own output only, as some runtimes do."""
    monkeypatch.delenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", raising=False)
    code = (
        "import os, sys\n"
        "sys.stderr.write('\\r1 %\\r50 %\\r100 %\\n')\n"
        "print('säule', os.environ['MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR'])\n"
        "sys.stdout.write('no newline at its end')\n"
    )
    assert run([project(tmp_path, code), "--", "fetch"]) == 0
    assert capsys.readouterr().out.splitlines() == ["100 %", "säule false", "no newline at its end"]


def test_a_child_of_the_step_that_stays_does_not_keep_the_job(tmp_path):
    code = (
        "import subprocess, sys\n"
        "stays = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(stays.pid))\n"
    )
    assert run([project(tmp_path, code), "--", "fetch"]) == 0
    stays = psutil.Process(int((tmp_path / "pid").read_text()))
    assert stays.is_running()
    stays.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells a child of its parent's death on Linux")
def test_a_step_is_interrupted_when_its_runner_is_killed(tmp_path):
    code = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        f"place = Path({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: (place.joinpath('told').touch(), sys.exit(1)))\n"
        "place.joinpath('runs').touch()\n"
        "time.sleep(60)\n"
    )
    script = "slmflow/backends/run_step.py"
    runner = subprocess.Popen([sys.executable, script, project(tmp_path, code), "--", "fetch"])
    wait_for(tmp_path / "runs")
    runner.kill()
    runner.wait()
    wait_for(tmp_path / "told")


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path.name} does not come")


def test_a_link_to_outside_the_project_is_not_followed(checkout, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "private"
    outside.write_text("mine")
    (checkout / "linked").symlink_to(outside)
    (checkout / "inner").symlink_to("kept.bin")
    subprocess.run(["git", "add", "inner"], cwd=checkout, check=True)
    project_archive()
    subprocess.run(["git", "add", "linked"], cwd=checkout, check=True)
    with pytest.raises(SlmflowError, match="linked: tracked, and a link to outside the project"):
        project_archive()


def test_the_bound_is_one_that_the_service_takes_as_base64():
    assert len(base64.b64encode(bytes(archive.LIMIT_BYTES))) <= 10_000_000
