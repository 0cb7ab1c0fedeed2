"""conda.yaml is read by each environment manager as it is meant, and the stand-in for conda answers as conda does."""

import json
import subprocess
import sys

import pytest

from slmflow.workflow.report import activation
from tests.conda_stand_in import make_conda
from tests.conftest import ROOT

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The Python that the stand-in has: with another than conda.yaml's, the line that a user would change is changed."""


def conda_yaml():
    text = (ROOT / "conda.yaml").read_text()
    assert "  - python=3.11  #" in text
    return text.replace("python=3.11", f"python={HERE}")


@pytest.fixture(scope="module")
def conda(tmp_path_factory):
    return make_conda(tmp_path_factory.mktemp("a conda"))


def create(conda, folder, name):
    words = [conda / "bin/conda", "env", "create", "-n", name, "--file", folder / "conda.yaml"]
    return subprocess.run(words, cwd="/", capture_output=True, text=True)


def in_shell(script):
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True)


def test_conda_yaml_is_solved_and_its_requirements_are_installed_beside_it(conda, tmp_path):
    (tmp_path / "conda.yaml").write_text(conda_yaml())
    (tmp_path / "requirements.txt").write_text("# nothing: the pins are installed by the slow tests\n")
    done = create(conda, tmp_path, "pins")
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([conda / "bin/conda", "env", "list", "--json"], capture_output=True, check=True)
    assert f"{conda}/envs/pins" in json.loads(listed.stdout)["envs"]
    for enter in (
        f". '{conda}/bin/activate' pins",
        f". '{conda}/etc/profile.d/conda.sh' && conda activate pins",
    ):
        told = in_shell(f"{enter} && which python pip && python -V && python -m pip list --format json")
        assert told.returncode == 0, told.stderr
        python, pip, version, packages = told.stdout.splitlines()
        assert (python, pip) == (f"{conda}/envs/pins/bin/python", f"{conda}/envs/pins/bin/pip")
        assert version.startswith(f"Python {HERE}")
        assert [package["name"] for package in json.loads(packages)] == ["pip"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conda.yaml", "requirements.txt"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f"python={HERE}", "python=3.99", "ResolvePackageNotFound"),
        (f"python={HERE}", f"python={HERE}\n  - numpy", "ResolvePackageNotFound"),
        ("channels:", "chanels:", "EnvironmentSectionNotValid: chanels"),
        ("- conda-forge", "- nobodys", "UnavailableInvalidChannel: nobodys"),
        ("requirements.txt", "absent.txt", "CondaEnvException: Pip failed"),
    ],
)
def test_a_conda_yaml_that_conda_could_not_take_is_refused(conda, tmp_path, old, new, said):
    text = conda_yaml()
    head, tail = text.split("name: slmflow")
    (tmp_path / "conda.yaml").write_text(f"{head}name: slmflow{tail.replace(old, new)}")
    (tmp_path / "requirements.txt").touch()
    done = create(conda, tmp_path, "bad")
    assert done.returncode != 0
    assert said in done.stderr


def test_an_environment_that_is_not_there_is_not_entered(conda):
    told = in_shell(f". '{conda}/bin/activate' nobodys && echo entered")
    assert told.returncode != 0
    assert "Could not find conda environment: nobodys" in told.stderr


def test_mlflow_reads_conda_yaml_for_virtual_environments_without_dropping_a_line(caplog):
    from mlflow.utils.environment import _PythonEnv

    read = _PythonEnv.from_conda_yaml(ROOT / "conda.yaml")
    assert (read.python, read.build_dependencies, read.dependencies) == (
        "3.11",
        ["pip"],
        ["-r requirements.txt"],
    )
    assert not caplog.records


@pytest.mark.parametrize(
    ("made", "base", "said"),
    [
        ("conda-meta", "here", ["conda activate '{prefix}'"]),
        ("bin", "elsewhere", [". '{prefix}'/bin/activate"]),
        ("bin", "here", []),
    ],
)
def test_what_enters_the_environment_of_a_run_is_said_as_its_manager_has_it(
    monkeypatch, tmp_path, made, base, said
):
    prefix = tmp_path / "an environment"
    (prefix / made).mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(sys, "base_prefix", str(prefix) if base == "here" else "/usr")
    assert activation() == [line.format(prefix=prefix) for line in said]
