"""Keys in pairs: for each ingredient one change that makes another key, and one that does not."""

import dataclasses
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.compose import compose
from slmflow.sources.identity import identity_of
from slmflow.workflow import fingerprint
from slmflow.workflow.closure import ROOT, _code_of, code_of
from slmflow.workflow.fingerprint import differences, flat, ingredients, key_of_ingredients, step_identity
from slmflow.workflow.steps import STEPS


def key(step="export_onnx", overrides="", upstream=None, identity=None, declared=None, model="tiny_phi3"):
    parts = ingredients(
        declared or STEPS[step],
        compose(model=model, overrides=overrides),
        upstream if upstream is not None else {"fetch_run": "a"},
        identity or {},
    )
    return key_of_ingredients(parts)


def test_the_same_twice_is_the_same_key():
    assert key() == key()


def test_another_declared_version_is_another_key():
    assert key() != key(declared=dataclasses.replace(STEPS["export_onnx"], version="2"))


def test_what_a_step_merely_says_of_its_outputs_is_not_in_its_key():
    assert key() == key(declared=dataclasses.replace(STEPS["export_onnx"], content=("other/*",)))


@pytest.mark.parametrize(
    ("step", "overrides"),
    [
        ("fetch", "model.source.seed=1"),
        ("fetch", "model.licence=MIT"),
        ("export_onnx", "export=int4_cpu"),
        ("export_onnx", "export.block_size=64"),
        ("log_pipeline", "model.name=other"),
        ("log_onnx", "package.top_p=0.5"),
        ("evaluate", "evaluate.windows=2"),
        ("register", "gate.mode=off"),
        ("register", "gate.thresholds=[{max_kl:1.0,min_top1:0.1}]"),
    ],
)
def test_configuration_that_a_step_reads_is_in_its_key(step, overrides):
    assert key(step) != key(step, overrides)


@pytest.mark.parametrize(
    ("step", "overrides"),
    [
        ("fetch", "model.name=other"),
        ("fetch", "export=int4_cpu"),
        ("fetch", f"model.source.digest={'0' * 64}"),
        ("export_onnx", "package.top_p=0.5"),
        ("export_onnx", "driver.parallel=7 driver.verify=full driver.cache=false"),
        ("log_pipeline", "export=int4_cpu"),
        ("log_onnx", "evaluate.windows=2"),
        ("evaluate", "gate.mode=off"),
        ("register", "evaluate.windows=2"),
    ],
)
def test_configuration_that_a_step_does_not_read_is_not_in_its_key(step, overrides):
    assert key(step) == key(step, overrides)


def test_a_value_that_is_given_as_it_was_is_the_same_key():
    assert key("export_onnx") == key("export_onnx", "export=fp32_cpu")


def test_the_keys_of_the_upstream_runs_are_in_the_key_and_their_order_is_not():
    assert key(upstream={"fetch_run": "a"}) != key(upstream={"fetch_run": "b"})
    both = {"onnx_run": "a", "pipeline_run": "b"}
    turned = {"pipeline_run": "b", "onnx_run": "a"}
    assert key("register", upstream=both) == key("register", upstream=turned)
    assert key("register", upstream=both) != key("register", upstream={"onnx_run": "b", "pipeline_run": "a"})


def fetch_key(model, overrides, content=None):
    source = compose(model=model, overrides=overrides).config.model.source
    return key("fetch", overrides, {}, content or identity_of(source).content, model=model)


def test_a_local_sources_content_is_in_the_key_and_its_place_and_time_are_not(tiny, tmp_path):
    first = shutil.copytree(tiny, tmp_path / "first" / "model")
    moved = shutil.copytree(tiny, tmp_path / "second" / "model")
    for path in moved.iterdir():
        path.touch()
    keys = [fetch_key("local", f"model.source.path={folder}") for folder in (first, moved)]
    assert keys[0] == keys[1]
    config = moved / "config.json"
    config.write_text(config.read_text().replace("0.02", "0.03"))
    assert fetch_key("local", f"model.source.path={moved}") != keys[0]


def test_a_hubs_commit_is_in_the_key_and_the_branch_that_led_there_is_not():
    def hub(revision, commit):
        words = f"model.source.repo=o/m model.source.revision={revision}"
        return fetch_key("hub", words, {"commit": commit})

    assert hub("main", "1" * 40) == hub("v1.0", "1" * 40)
    assert hub("main", "1" * 40) != hub("main", "2" * 40)


def test_a_commit_needs_no_hub_to_be_resolved():
    words = f"model.source.repo=o/m model.source.revision={'a' * 40}"
    assert identity_of(compose(model="hub", overrides=words).config.model.source).content == {
        "commit": "a" * 40
    }


def test_the_evaluated_texts_content_is_in_the_key_and_its_path_is_not(tmp_path):
    texts = {}
    for name, words in {"a": "same words", "b": "same words", "c": "other words"}.items():
        (tmp_path / name).write_text(words)
        overrides = f"evaluate.text={tmp_path / name}"
        identity = step_identity("evaluate", compose(model="tiny_phi3", overrides=overrides)).content
        texts[name] = key("evaluate", overrides, {}, identity)
    assert texts["a"] == texts["b"]
    assert texts["a"] != texts["c"]


@pytest.mark.parametrize(("name", "counts"), [("onnxruntime-genai", True), ("ruff", False)])
def test_versions_of_declared_distributions_are_in_the_key_and_others_are_not(monkeypatch, name, counts):
    before, installed = key(), fingerprint._installed
    monkeypatch.setattr(fingerprint, "_installed", lambda asked: "9.9" if asked == name else installed(asked))
    assert (key() != before) is counts


def test_an_exporters_own_libraries_count_for_it_alone():
    names = {
        variant: STEPS["export_onnx"].distributions(compose(model="tiny_phi3", export=variant).config)
        for variant in ("fp32_cpu", "optimum_fp32")
    }
    assert "environments/optimum" in names["optimum_fp32"]
    assert "environments/optimum" not in names["fp32_cpu"]


def test_the_machine_is_in_the_key_of_what_measures_it_and_of_nothing_else(monkeypatch):
    before = {step: key(step) for step in STEPS}
    monkeypatch.setattr(fingerprint, "machine", lambda: {"cpu": "another"})
    assert [step for step in STEPS if key(step) != before[step]] == ["evaluate"]


TOOL = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from slmflow import typed
BY_NAME = "slmflow.named"
use = 1
"""


@pytest.fixture
def project(tmp_path):
    """A small project with the shape of ours, to change."""
    for name, text in {
        "steps/one.py": "from slmflow.tool import use\n\n\ndef work():\n    from slmflow import late\n",
        "steps/two.py": "import slmflow.other\n",
        "slmflow/__init__.py": "",
        "slmflow/tool.py": TOOL,
        "slmflow/late.py": "from .deep import x\n",
        "slmflow/deep.py": "x = 1  # one\n",
        "slmflow/named.py": "y = 1\n",
        "slmflow/typed.py": "z = 1\n",
        "slmflow/other.py": "z = 1\n",
        "shipped/run.py": '"""Says so."""\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def code(project, ships=()):
    _code_of.cache_clear()
    return _code_of(project, "steps.one", ships)


def test_the_closure_follows_late_relative_and_named_imports_and_not_those_for_types(project):
    assert list(code(project)) == [
        "slmflow/__init__.py",
        "slmflow/deep.py",
        "slmflow/late.py",
        "slmflow/named.py",
        "slmflow/tool.py",
        "steps/one.py",
    ]


@pytest.mark.parametrize(
    "name", ["steps/one.py", "slmflow/tool.py", "slmflow/late.py", "slmflow/deep.py", "slmflow/named.py"]
)
def test_a_change_of_code_in_the_closure_is_another_key(project, name):
    before = code(project)
    with (project / name).open("a") as file:
        file.write("\nadded = 2\n")
    assert [path for path, digest in code(project).items() if before.get(path) != digest] == [name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("slmflow/deep.py", "# comment\nx   =   1"),
        ("slmflow/deep.py", '"""Docstring."""\n\nx = 1\n'),
        ("slmflow/typed.py", "z = 2\n"),
        ("slmflow/other.py", "z = 2\n"),
        ("steps/two.py", "z = 2\n"),
        ("README.md", "new"),
    ],
)
def test_comments_docstrings_layout_and_what_is_not_imported_are_the_same_key(project, name, text):
    before = code(project)
    (project / name).write_text(text)
    assert code(project) == before


def test_a_shipped_file_counts_byte_by_byte(project):
    before = code(project, ("shipped/*.py",))
    (project / "shipped" / "run.py").write_text('"""Says more."""\n')
    assert code(project, ("shipped/*.py",)) != before


def test_no_steps_key_depends_on_the_driver_or_on_another_step():
    for step in STEPS.values():
        files = code_of(f"steps.{step.name}", step.ships)
        assert [path for path in files if path.startswith("steps/")] == [f"steps/{step.name}.py"]
        assert not [path for path in files if path.startswith(("slmflow/workflow/", "slmflow/commands/"))]
        assert all((ROOT / path).is_file() for path in files)
    assert "slmflow/export/genai.py" in code_of("steps.export_onnx")
    assert "slmflow/sources/hub.py" not in code_of("steps.export_onnx")


def test_a_difference_names_key_old_and_new():
    before = {"config": {"export.precision": "int4"}, "installed": {"onnx": "1.22"}, "code": {"a": "1"}}
    now = {"config": {"export.precision": "int8"}, "installed": {"onnx": "1.23"}, "code": {"b": "1"}}
    assert differences(before, now) == [
        "export.precision int4 → int8",
        "onnx 1.22 → 1.23",
        "a is gone",
        "b is new",
    ]
    assert differences(now, now) == []
    assert differences({}, {"upstream": {"fetch_run": "x"}}) == ["fetch_run changed"]


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
NAMES = st.text("abc", min_size=1, max_size=3)
TREES = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda x: st.dictionaries(NAMES, x, max_size=3), max_leaves=8), max_size=4
)


@given(TREES)
def test_keys_do_not_depend_on_the_order_of_their_parts_and_survive_json(value):
    turned = json.loads(json.dumps(dict(reversed(value.items()))))
    assert key_of_ingredients(turned) == key_of_ingredients(value)


@given(TREES)
def test_every_leaf_of_a_configuration_has_its_own_dotted_key(value):
    leaves = list(flat(value))
    assert len({key for key, _ in leaves}) == len(leaves)
