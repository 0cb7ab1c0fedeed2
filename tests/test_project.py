"""MLproject, the step modules, the graph, conf/ and the pinned environment say the same."""

import ast
import hashlib
import subprocess
import sys
from importlib import import_module

import pytest
import yaml

from driver import graph
from slmflow.overrides import CONF
from slmflow.words import CHOICES
from slmflow.workflow.graph import needed_for
from slmflow.workflow.steps import OPTIONAL_INPUTS
from slmflow.workflow.steps import STEPS as DECLARED
from tests.conftest import ROOT
from tests.imports import imported_by

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
STEPS = sorted(path.stem for path in (ROOT / "steps").glob("*.py") if path.stem != "__init__")
WITHIN = {"replay": "evaluate"}
"""Commands that are reached through a step's entry point, by a parameter of theirs."""
EXTRA = {"evaluate": ["traces"]}
COMMANDS = sorted(p.stem for p in (ROOT / "slmflow" / "commands").glob("*.py") if p.stem != "__init__")


def test_mlproject_declares_main_and_every_step_module():
    assert set(PROJECT["entry_points"]) == {"main", *STEPS, *COMMANDS} - set(WITHIN)
    assert set(DECLARED) == set(STEPS)


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {*WITHIN}))
def test_a_command_is_declared_with_its_parameters_and_opens_with_its_command(command):
    entry = PROJECT["entry_points"][command]
    declared = list(import_module(f"slmflow.commands.{command}").PARAMETERS)
    assert list(entry["parameters"]) == declared
    words = ["python", "-m", f"slmflow.commands.{command}", *(f"{n}={{{n}}}" for n in declared)]
    assert entry["command"].split() == words
    docstring = ast.get_docstring(ast.parse((ROOT / "slmflow" / "commands" / f"{command}.py").read_text()))
    assert f"mlflow run . -e {command} --env-manager local" in docstring


@pytest.mark.parametrize(("command", "step"), WITHIN.items())
def test_a_command_within_a_step_takes_what_the_steps_entry_point_passes(command, step):
    module = import_module(f"slmflow.commands.{command}")
    assert list(PROJECT["entry_points"][step]["parameters"]) == list(module.PARAMETERS)
    assert f"mlflow run . -e {step} --env-manager local -P {EXTRA[step][0]}=" in module.__doc__


def test_every_output_that_a_repetition_must_make_again_is_declared_of_a_known_step():
    for step in DECLARED.values():
        assert (ROOT / "steps" / f"{step.name}.py").is_file()
        assert all(accepted in DECLARED for steps in step.inputs.values() for accepted in steps)
        assert set(step.of_model) <= set(step.inputs)
        assert all(list(ROOT.glob(pattern)) for pattern in step.ships)


@pytest.mark.parametrize("step", STEPS)
def test_an_entry_point_declares_and_passes_the_choices_and_its_upstream_ids(step):
    entry = PROJECT["entry_points"][step]
    declared = [*CHOICES, *DECLARED[step].inputs, *EXTRA.get(step, [])]
    assert list(entry["parameters"]) == declared
    assert all(spec == {"type": "string", "default": ""} for spec in entry["parameters"].values())
    assert entry["command"].split() == ["python", "-m", f"steps.{step}", *(f"{n}={{{n}}}" for n in declared)]


def test_main_is_register_without_ids():
    command = PROJECT["entry_points"]["main"]["command"]
    assert command.split() == ["python", "driver.py", *(f"{n}={{{n}}}" for n in CHOICES)]


@pytest.mark.parametrize("step", STEPS)
def test_a_steps_docstring_opens_with_its_command_and_a_tiny_one(step):
    docstring = ast.get_docstring(ast.parse((ROOT / "steps" / f"{step}.py").read_text()))
    assert f"mlflow run . -e {step} --env-manager local" in docstring
    assert "-P model=tiny_phi3" in docstring


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_opens_with_the_command_that_runs_it(path):
    assert f"mlflow run . --env-manager local -P experiment={path.stem}" in path.read_text()


@pytest.mark.parametrize("with_pipeline", [True, False])
def test_every_node_comes_after_what_it_needs_and_needs_what_its_step_takes(with_pipeline):
    seen = {}
    for node in needed_for("register", graph(with_pipeline)):
        assert set(node.needs) <= set(DECLARED[node.step].inputs)
        assert set(DECLARED[node.step].inputs) - set(node.needs) <= set(OPTIONAL_INPUTS)
        for parameter, need in node.needs.items():
            assert seen[need.name] in DECLARED[node.step].inputs[parameter]
        seen[node.name] = node.step


@pytest.mark.parametrize(
    ("step", "names"),
    [
        ("fetch", ["fetch"]),
        ("log_onnx", ["fetch", "export_onnx", "log_onnx"]),
        ("log_pipeline", ["fetch", "log_pipeline"]),
    ],
)
def test_an_entry_point_runs_what_it_needs_and_no_more(step, names):
    assert [node.name for node in needed_for(step, graph(True))] == names


def test_conda_yaml_carries_the_digest_of_the_requirements():
    digest = hashlib.sha256((ROOT / "requirements.txt").read_bytes()).hexdigest()
    text = (ROOT / "conda.yaml").read_text()
    assert f"# requirements.txt sha256: {digest}" in text, "run `make lock`"
    assert yaml.safe_load(text)["dependencies"][-1] == {"pip": ["-r requirements.txt"]}


def loaded_by(statement):
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_driver_starts_without_torch_and_the_refusal_of_bad_input_without_mlflow():
    heavy = {"torch", "transformers", "onnxruntime", "onnxruntime_genai", "optimum"}
    assert not heavy & loaded_by("import slmflow.workflow.driver")
    assert not (heavy | {"mlflow"}) & loaded_by("import slmflow.workflow.shell, slmflow.compose")


def test_what_ships_in_the_onnx_model_imports_neither_ours_nor_torch():
    for path in (ROOT / "slmflow" / "models").rglob("*.py"):
        for name in imported_by(path):
            assert name.split(".")[0] not in {"slmflow", "steps", "torch", "transformers"}, path


def test_importing_the_package_switches_telemetry_off_and_keeps_the_users_word():
    program = "import os, slmflow; print(*(os.environ[name] for name in slmflow.TELEMETRY_OFF))"
    env = {"PATH": "/usr/bin", "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["true", "0", "1", "1"]


def test_importing_the_package_spreads_mlflows_retries_and_keeps_the_users_word():
    name = "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER"
    program = f"import os, slmflow; print(os.environ[{name!r}])"
    for env, seconds in (({}, "10"), ({name: "2"}, "2")):
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=ROOT, env={"PATH": "/usr/bin", **env}, capture_output=True, text=True
        )
        assert done.stdout.split() == [seconds]


def test_no_tracked_file_is_over_its_room():
    for path in (*ROOT.glob("slmflow/**/*.py"), *ROOT.glob("steps/*.py")):
        assert len(path.read_text().splitlines()) <= 300, f"{path}: one noun a module, about 250 lines"
