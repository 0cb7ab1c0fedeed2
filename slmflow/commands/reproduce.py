"""Build a finished run again from what it recorded, without any cache, and hold every content against it.

    mlflow run . -e reproduce --env-manager local -P run_id=<a driver's run>

Tiny, offline:

    mlflow run . --env-manager local -P model=tiny_phi3      # prints its run id at the end
    mlflow run . -e reproduce --env-manager local -P run_id=<that id>

The commit is checked out anew into a temporary folder, with the logged changes of a dirty tree. Where the
installed versions differ from the recorded ones, an environment of those is made. Every step up to
`evaluate` runs there; nothing is registered. Exit status 1 where a content digest or a fidelity figure
differs; differences of the record (times, host, memory) are listed only.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from slmflow.environments.maker import Purpose, environment
from slmflow.errors import SlmflowError, exit_status
from slmflow.files import sha256_of
from slmflow.overrides import key_of
from slmflow.tracking import raise_problem
from slmflow.words import read_words
from slmflow.workflow import launch, runs
from slmflow.workflow.checkout import (
    COMMIT_TAG,
    DIRTY_TAG,
    FOLDER_TAG,
    PATCH_TAG,
    git,
    installed,
    own_distributions,
)
from slmflow.workflow.closure import ROOT
from slmflow.workflow.command import command_run
from slmflow.workflow.enough import ASKED_TAG
from slmflow.workflow.fingerprint import flat
from slmflow.workflow.outputs import place_of
from slmflow.workflow.steps import STEPS
from slmflow.workflow.tags import KIND_TAG, STEP_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

PARAMETERS = ("run_id",)
RECORDED = Purpose("the recorded versions", "correct pip's configuration, or install them and repeat there")


def run(argv: list[str]) -> int:
    """Rebuild, run, compare. Raises SlmflowError where it cannot be rebuilt, or where content differs."""
    arguments = read_words("reproduce", argv, PARAMETERS).declared
    if not arguments.get("run_id"):
        raise SlmflowError("run_id is missing: give the id of a driver's run, as it printed it")
    with command_run("reproduce") as here, tempfile.TemporaryDirectory(prefix="slmflow-") as scratch:
        original = driver_run(arguments["run_id"])
        clone = check_out(original, Path(scratch))
        python = interpreter(original)
        repeated = repeat(original, clone, python, here)
        findings, record = compare_runs(original, repeated)
        mlflow.log_dict({"findings": findings, "record": record}, "reproduction.json")
        print(f"record: {len(record)} differences (never compared)")
        print("\n".join(f"  {line}" for line in record))
        if findings:
            print("\n".join(f"✗ {line}" for line in findings))
            raise SlmflowError(f"{len(findings)} differences of content, the first: {findings[0]}")
        print(
            f"✓ run {original.info.run_id} is reproduced by run {repeated.info.run_id}: all content is equal"
        )
    return 0


def driver_run(run_id: str) -> Run:
    """The driver's run that an id stands for: its own, or the one of a step that it launched."""
    try:
        found = MlflowClient().get_run(run_id)
        if found.data.tags.get(KIND_TAG) == "step" and runs.PARENT_TAG in found.data.tags:
            found = MlflowClient().get_run(found.data.tags[runs.PARENT_TAG])
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"run_id={run_id}: no such run in {runs.store_name()}") from None
    if found.data.tags.get(KIND_TAG) != "driver":
        raise SlmflowError(f"run_id={run_id}: not a driver's run: only a whole run can be reproduced")
    unfinished = [item["name"] for item in runs.items_of(found) if item["state"] not in ("cached", "done")]
    if unfinished or not runs.items_of(found):
        raise SlmflowError(f"run_id={run_id}: did not finish ({', '.join(unfinished) or 'no step'})")
    return found


def check_out(original: Run, scratch: Path) -> Path:
    """The project's folder in a clone of its own of the recorded commit, with the recorded changes."""
    tags = original.data.tags
    commit = tags.get(COMMIT_TAG)
    if commit is None:
        raise SlmflowError("the run was made outside a git checkout: its code was not recorded")
    if tags.get(DIRTY_TAG) == "true" and tags.get(PATCH_TAG) != "logged":
        raise SlmflowError(f"the run's tree had changes that were not logged: {tags.get(PATCH_TAG)}")
    clone = scratch / "checkout"
    known = git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0
    here = git("rev-parse", "--show-toplevel").stdout.decode().strip() or str(ROOT)
    origin = here if known else tags.get("mlflow.source.git.repoURL", here)
    below = tags.get(FOLDER_TAG, "")
    _checked(
        git("clone", "--quiet", "--no-checkout", origin, str(clone), folder=scratch), f"cannot clone {origin}"
    )
    _checked(
        git("checkout", "--quiet", commit, folder=clone), f"commit {commit[:12]} is not in {origin}: fetch it"
    )
    if tags.get(DIRTY_TAG) == "true":
        patch = runs.local_path_of(original, launch.PATCH)
        apply = ("apply", "--whitespace=nowarn", f"--directory={below}", str(patch))
        _checked(git(*apply, folder=clone), "its changes do not apply")
    return clone / below


def _checked(done: subprocess.CompletedProcess[bytes], what: str) -> None:
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SlmflowError(f"{what}: {said[-1] if said else 'git said nothing'}")


def interpreter(original: Run) -> str:
    """A Python with the recorded versions: this one if it has them, else that of an environment of them."""
    recorded = runs.local_path_of(original, launch.ENVIRONMENT).read_text()
    wanted = own_distributions(recorded)
    here = own_distributions(installed())
    if wanted == here:
        print("environment: the recorded versions are installed here")
        return sys.executable
    differing = sorted(set(wanted) ^ set(here))
    print(f"environment: the recorded one, as {', '.join(differing[:4])} … differ", flush=True)
    # With pip, by which `fetch` downloads. A local label such as torch's +cpu names a build, which only
    # some indexes have.
    pins = "".join(f"{line.split('+')[0]}\n" for line in recorded.splitlines())
    return str(environment(pins, RECORDED, is_locked=True).python)


def repeat(original: Run, clone: Path, python: str, here: Run) -> Run:
    """Run the original's words again from the clone, without a cache and short of the registry."""
    words = dict(launch.arguments_of(original))
    fetched = [tuple(item["pins"]) for item in runs.items_of(original) if item["step"] == "fetch"]
    if len(set(fetched)) > 1:
        raise SlmflowError("a sweep over models whose branches were resolved: reproduce one model's run")
    pins = fetched[0] if fetched else ()
    again = _as_much_as(original)
    set_here = [*pins, *again, "driver.cache=false"]
    words = {key: value for key, value in words.items() if key not in map(key_of, set_here)}
    words["overrides"] = " ".join([words.get("overrides", ""), *set_here]).strip()
    step = original.data.tags[STEP_TAG]
    entry = "evaluate" if step == "register" else step
    client = MlflowClient()
    name = f"reproduction of {original.info.run_id[:12]}"
    made = client.create_run(
        original.info.experiment_id, run_name=name, tags={runs.PARENT_TAG: here.info.run_id}
    )
    run_id = made.info.run_id
    command = [python, "-m", "mlflow", "run", str(clone), "-e", entry, "--env-manager", "local"]
    command += ["--experiment-id", original.info.experiment_id, "--run-id", run_id]
    for key, value in words.items():
        command += ["-P", f"{key}={value}"] if value else []
    path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    for variable in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        environment.pop(variable, None)
    print(f"repeating as run {run_id}", flush=True)
    done = subprocess.run(command, env=environment)
    if done.returncode:
        raise SlmflowError(f"the repetition failed: see run {run_id}")
    return client.get_run(run_id)


def _as_much_as(original: Run) -> list[str]:
    """The override by which the repetition asks as many windows and items, however long they take here.

    None for a run of before these were decided by the time: its code knows no such key, and asks what it did.
    """
    ids = [item["run_id"] for item in runs.items_of(original) if item["step"] == "evaluate"]
    decided = any(ASKED_TAG in MlflowClient().get_run(run_id).data.tags for run_id in ids)
    return [f"evaluate.like={original.info.run_id}"] if decided else []


def compare_runs(original: Run, repeated: Run) -> tuple[list[str], list[str]]:
    """Differences of content, and differences of the record, a line each."""
    again = {item["name"]: item["run_id"] for item in runs.items_of(repeated)}
    findings, record = [], []
    for item in runs.items_of(original):
        name = item["name"]
        if item["step"] == "register":
            continue
        if name not in again:
            findings.append(f"{name}: the repetition has no such step")
            continue
        before, now = (MlflowClient().get_run(run_id) for run_id in (item["run_id"], again[name]))
        findings += [f"{name}: {line}" for line in content_differences(item["step"], before, now)]
        record += [f"{name}: {line}" for line in record_differences(before, now)]
    return findings, record


def content_differences(step: str, before: Run, now: Run) -> list[str]:
    """Files of a step's content that differ, and figures that do."""
    sides = [_content(step, run) for run in (before, now)]
    if not sides[0]:
        return ["left no content to compare"]
    lines = []
    for path in sorted({*sides[0], *sides[1]}):
        old, new = (side.get(path) for side in sides)
        if old != new:
            lines.append(f"{path}: {_short(old)} → {_short(new)}")
    return lines


def _content(step: str, run: Run) -> dict[str, Any]:
    files = runs.index_of(run)["files"]
    patterns = STEPS[step].content
    paths = [path for path in files if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)]
    content: dict[str, Any] = {path: files[path].get("sha256") for path in paths}
    if None in content.values():  # a remote store's index has no digests of MLflow's own files
        _, folder = runs.model_of(run)
        content = {path: sha or sha256_of(place_of(path, folder, folder)) for path, sha in content.items()}
    if step == "evaluate":
        evaluation = runs.json_artifact(run, "evaluation.json")
        figures = {part: evaluation.get(part) or {} for part in ("fidelity", "tasks")}
        content |= dict(flat(figures))
    if step.startswith("log_"):
        content["fingerprint"] = runs.json_artifact(run, "logged.json")["fingerprint"]
    return content


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value[:12]}…" if isinstance(value, str) else repr(value)


def record_differences(before: Run, now: Run) -> list[str]:
    """What is true of one execution only, where it differs."""
    old, new = (runs.json_artifact(run, "record.json") for run in (before, now))
    return [f"{name} {old[name]} → {new.get(name)}" for name in old if old[name] != new.get(name)]


if __name__ == "__main__":
    sys.exit(exit_status("reproduce", lambda: run(sys.argv[1:])))
