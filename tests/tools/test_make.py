"""The parts of the tests, and the workflow that runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ACTIONLINT = Path(sys.executable).parent / "actionlint"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # As typed in a shell, also where `make test` runs this.
    env = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(["make", *words], cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("part", "paths"),
    [
        ("serving", "tests/serving"),
        ("end_to_end/test_adapter", "tests/end_to_end/test_adapter.py"),
        ("serving export", "tests/serving tests/export"),
        ("", "tests"),
    ],
)
def test_a_part_is_a_folder_or_a_module_of_the_end_to_end_tests(part, paths):
    done = make("-n", "test-all", f"PART={part}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"--dist loadscope {paths}")
    assert all((ROOT / path).exists() for path in paths.split())


@pytest.mark.parametrize("part", ["nothing", "serving nothing", "end_to_end/nothing", "../tests"])
def test_an_unknown_part_is_one_line_with_the_known_ones_before_any_work(part):
    done = make("test-all", f"PART={part}")
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"PART={part.split()[-1]} is no part of the tests; there are: " in line
    assert " end_to_end/test_adapter " in line
    assert " serving " in line


def test_the_workflow_of_the_project_is_one_that_github_takes(tmp_path):
    done = subprocess.run([ACTIONLINT, *WORKFLOWS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / ".github" / "workflows" / "test.yml"
    broken.parent.mkdir(parents=True)
    shutil.copy(WORKFLOWS[0], broken)
    broken.write_text(broken.read_text().replace("matrix.python", "matrix.pyhton", 1))
    done = subprocess.run([ACTIONLINT, broken], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pyhton" in done.stdout


def test_the_workflow_and_ci_run_what_a_person_types():
    assert "run: make test " in WORKFLOWS[0].read_text()
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"
