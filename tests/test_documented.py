"""Every command that README.md and docs/ show is typed by a test, or it says here why none types it."""

import ast
from collections import defaultdict
from fnmatch import fnmatchcase

import pytest

from tests.conftest import ROOT
from tests.documented import commands, commands_of, form

RUNS = "tests/end_to_end/test_literal_runs.py"
MODELS = "tests/end_to_end/test_literal_models.py"
WORDS = "tests/end_to_end/test_literal_words.py"
TINY = "tests/end_to_end/test_tiny_workflow.py"
EXAMPLES = f"{RUNS}::test_a_documented_example_does_what_it_says"
PAGE = "tests/backends/test_submission.py::test_a_command_of_the_page_composes_as_it_stands"
JOB = "tests/backends/test_workspace.py::test_mlflows_own_backend_runs_the_workflow_as_one_job"
REPLAY = "tests/monitoring/test_replay.py::test_the_entry_point_evaluate_replays_with_traces"
LOCAL = "--env-manager local"

TYPED = {
    "mlflow run .": f"{RUNS}::test_the_bare_run_is_the_same_workflow_and_needs_no_more_than_conda_on_the_path",
    "mlflow run . -e register": f"{RUNS}::test_the_bare_register_makes_the_environment_of_conda_yaml_and_runs_in_it",
    "mlflow run . --env-manager virtualenv": f"{RUNS}::test_the_virtualenv_manager_builds_the_environment_and_runs_in_it",
    "mlflow run . --env-manager uv": f"{RUNS}::test_the_uv_manager_builds_the_environment_and_fetches_the_default_model_in_it",
    "mlflow run <git> -v": f"{RUNS}::test_the_project_runs_from_its_git_address_and_below_another_repositorys_root",
    "mlflow run <git> -v --env-manager uv": f"{RUNS}::test_the_project_runs_from_its_git_address_and_below_another_repositorys_root",
    "mlflow run <git>#<folder> -v": f"{RUNS}::test_the_project_runs_from_its_git_address_and_below_another_repositorys_root",
    f"mlflow run . {LOCAL}": f"{TINY}::test_it_succeeds_and_ends_with_the_table_and_the_next_commands",
    f"mlflow run . {LOCAL} -P override": "tests/end_to_end/test_cache.py::test_after_a_run_all_is_cached_and_running_again_launches_nothing",
    f"mlflow run . {LOCAL} -P experiment": f"{WORDS}::test_an_experiment_and_overrides_are_params_of_the_run_by_their_names",
    f"mlflow run . {LOCAL} -P experiment -P override": f"{WORDS}::test_an_experiment_and_overrides_are_params_of_the_run_by_their_names",
    f"mlflow run <folder> {LOCAL} -P experiment": f"{WORDS}::test_an_experiment_and_overrides_are_params_of_the_run_by_their_names",
    f"mlflow run . {LOCAL} -P sweep": "tests/end_to_end/test_driver.py::test_a_sweep_has_one_parent_registers_each_variant_and_promotes_the_recommended_once",
    f"mlflow run . {LOCAL} -P model:path": f"{WORDS}::test_ones_own_model_is_fetched_by_the_words_of_readme",
    f"mlflow run . {LOCAL} -P model:hub": f"{WORDS}::test_ones_own_model_is_fetched_by_the_words_of_readme",
    f"mlflow run . {LOCAL} -P model:mlflow": f"{WORDS}::test_ones_own_model_is_fetched_by_the_words_of_readme",
    f"mlflow run . {LOCAL} -P adapter -P model:hub": f"{WORDS}::test_ones_own_model_is_fetched_by_the_words_of_readme",
    f"mlflow run . {LOCAL} -P override -P sweep": "tests/end_to_end/test_driver.py::test_a_variant_that_fails_does_not_stop_the_others",
    "python driver.py override": f"{WORDS}::test_the_driver_is_a_program_of_its_own",
    f"mlflow run . -e fetch {LOCAL}": EXAMPLES,
    f"mlflow run . -e export_onnx {LOCAL}": EXAMPLES,
    f"mlflow run . -e export_onnx {LOCAL} -P fetch_run": EXAMPLES,
    f"mlflow run . -e log_pipeline {LOCAL} -P fetch_run": EXAMPLES,
    f"mlflow run . -e log_onnx {LOCAL} -P export_run": EXAMPLES,
    f"mlflow run . -e evaluate {LOCAL}": EXAMPLES,
    f"mlflow run . -e evaluate {LOCAL} -P logged_run -P reference_run": EXAMPLES,
    f"mlflow run . -e register {LOCAL}": EXAMPLES,
    f"mlflow run . -e register {LOCAL} -P onnx_run -P pipeline_run": EXAMPLES,
    f"mlflow run . -e compare {LOCAL} -P run_ids": EXAMPLES,
    f"mlflow run . -e compare {LOCAL} -P override -P run_ids": EXAMPLES,
    f"mlflow run . -e plan {LOCAL}": EXAMPLES,
    f"mlflow run . -e gc {LOCAL}": EXAMPLES,
    f"mlflow run . -e reproduce {LOCAL} -P run_id": "tests/end_to_end/test_default_model.py::test_the_run_is_reproduced_from_a_second_clone_in_another_folder",
    f"mlflow run . -e promote {LOCAL}": f"{TINY}::test_a_challenger_is_promoted_rolled_back_and_not_promoted_again_by_a_run",
    f"mlflow run . -e rollback {LOCAL}": f"{TINY}::test_a_challenger_is_promoted_rolled_back_and_not_promoted_again_by_a_run",
    f"mlflow run . -e evaluate {LOCAL} -P traces": REPLAY,
    f"mlflow run . -e evaluate {LOCAL} -P override -P traces": REPLAY,
    f"mlflow run . -e score {LOCAL} -P input -P model_uri -P output -P override": "tests/scoring/test_score.py::test_the_command_as_users_type_it_follows_an_alias",
    f"mlflow run . -e score {LOCAL} -P input -P output -P override": "tests/scoring/test_spark.py::test_ten_thousand_rows_over_two_executors_with_one_killed_on_the_way",
    f"mlflow run . -e serve {LOCAL} -P model_uri": f"{MODELS}::test_our_server_answers_the_readmes_curl",
    "curl": f"{MODELS}::test_our_server_answers_the_readmes_curl",
    "python -m slmflow.serving": "tests/serving/live/test_openai_client.py::test_a_chat_is_answered_with_usage",
    "mlflow models serve": f"{MODELS}::test_serve_answers_from_an_environment_of_the_models_requirements",
    f"mlflow models serve {LOCAL}": "tests/end_to_end/test_default_model.py::test_mlflow_models_serve_answers_a_prompt_and_a_chat",
    "mlflow models predict": f"{MODELS}::test_predict_answers_a_file_in_an_environment_of_its_own",
    "mlflow models predict --env-manager uv": f"{MODELS}::test_predict_answers_a_file_in_an_environment_of_its_own",
    "mlflow models build-docker": f"{MODELS}::test_build_docker_hands_docker_a_folder_whose_image_makes_the_models_environment",
    "mlflow models generate-dockerfile": f"{MODELS}::test_the_generated_folder_builds_an_image_that_serves_the_model",
    f"mlflow run . {LOCAL} -P backend": PAGE,
    f"mlflow run . -e plan {LOCAL} -P backend": PAGE,
    "mlflow run <zip> -e register -b databricks --env-manager uv": JOB,
    "make databricks": JOB,
    "mlflow server": "tests/end_to_end/test_server.py::server",
    "python -m steps.*": "tests/end_to_end/test_shared_server.py::test_a_wrong_password_is_one_line_without_it",
    "conda env *": "tests/test_environments.py::test_conda_yaml_is_solved_and_its_requirements_are_installed_beside_it",
    "make run": f"{RUNS}::test_make_run_is_mlflow_run_in_the_environment_that_make_made",
}
"""The form of a command → the test that types it."""

NOT_RUN = {
    "make test": "it is what runs these tests",
    "make test-all": "it is what runs these tests",
    "python -m tools.models_page": "its tests are part of the suite; the page is held against them",
    "make bench": "an hour of measuring; its results are in benchmarks/results",
    "python -m benchmarks.*": "measuring; its results are in benchmarks/results",
    "databricks bundle*": "no workspace here; its jobs are carried out by a stand-in",
    "mlflow run <git> -e register -v -b databricks --env-manager uv": "no workspace here; by a zip instead, to a stand-in",
    "mlflow run . -e register -b databricks --env-manager uv": "no workspace here; by a zip instead, to a stand-in",
    "mlflow experiments create": "no workspace here",
    "docker *": "no engine here; the steps of the folder that it is given are carried out",
    "mlflow gc": "MLflow's own; the line that names it is tested",
    "apt-get *": "installs on the machine",
    "pip install": "installs on the machine",
}
"""The form of a command → why no test types it."""


def known(form: str) -> str | None:
    """A test, or a reason, of a command's form."""
    patterns = [pattern for pattern in {**TYPED, **NOT_RUN} if fnmatchcase(form, pattern)]
    return patterns[0] if patterns else None


@pytest.mark.parametrize("command", commands(), ids=lambda command: f"{command.page}: {command.text[:60]}")
def test_a_documented_command_is_typed_by_a_test_or_says_why_none_types_it(command):
    assert known(form(command.text)), f"add {form(command.text)!r} to TYPED, with the test, or to NOT_RUN"


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_is_there_and_speaks_of_what_it_types():
    by_file = defaultdict(dict)
    for command, test in TYPED.items():
        path, _, name = test.partition("::")
        by_file[path][command] = name
    for path, tests in by_file.items():
        text = (ROOT / path).read_text()
        for command, name in tests.items():
            assert name in functions(path), f"{path} has no {name}"
            entry = command.partition(" -e ")[2].split(" ")[0]
            if entry and "examples()" not in text and "mlflow.server" not in text:
                assert entry in text, f"{path} does not type {command}"


def test_no_entry_is_left_of_a_command_that_no_page_shows():
    shown = {known(form(command.text)) for command in commands()}
    assert not {*TYPED, *NOT_RUN} - shown


def test_what_is_not_typed_is_said_on_the_page_of_commands():
    page = (ROOT / "docs" / "commands.md").read_text()
    for form_ in NOT_RUN:
        assert " ".join(form_.rstrip("* ").split()[:2]) in page, form_


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "mlflow run . -P overrides='+experiment=tiny gate.mode=warn'",
            "mlflow run . -P experiment -P override",
        ),
        ("mlflow run . -P experiment=tiny -P gate.mode=warn", "mlflow run . -P experiment -P override"),
        ("mlflow run . -P model=hub -P overrides=model.source.repo=org/name", "mlflow run . -P model:hub"),
        ("mlflow run . -P model=org/name:Q4_K_M", "mlflow run . -P model:hub"),
        ("mlflow run . -P model=/weights/My.gguf -P export=int8_cpu", "mlflow run . -P model:path"),
        ("mlflow run . -P model=models:/name@alias", "mlflow run . -P model:mlflow"),
        ("mlflow run . -P overrides='-m export=a,b'", "mlflow run . -P sweep"),
        ("mlflow run . -P export=int8_cpu,int4_cpu", "mlflow run . -P sweep"),
        (
            "mlflow run <git-uri>#sub -v <commit> --env-manager uv",
            "mlflow run <git>#<folder> -v --env-manager uv",
        ),
        ("MLFLOW_TRACKING_URI=x mlflow models serve -m models:/a@champion", "mlflow models serve"),
        ("python driver.py model=tiny_phi3 gate.mode=warn", "python driver.py override"),
        ("python driver.py --cfg job", "python driver.py --cfg"),
    ],
)
def test_two_wordings_of_a_command_have_one_form(text, expected):
    assert form(text) == expected


def test_a_page_is_read_in_its_blocks_their_remarks_and_its_text():
    page = """Run `mlflow run . -e plan` or `mlflow` alone, `plan.json` is no command.

```
make run   # then `mlflow run .`
mlflow run . -e score \\
  -P input=a && curl http://x
```

    python driver.py
"""
    assert commands_of(page) == [
        "make run",
        "mlflow run . -e score    -P input=a",
        "curl http://x",
        "python driver.py",
        "mlflow run . -e plan",
        "mlflow run .",
    ]
