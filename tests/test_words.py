"""What a user types, one level of quoting, is what the configuration holds."""

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmflow.compose import compose
from slmflow.config.fields import takes_list, takes_text
from slmflow.errors import SlmflowError
from slmflow.overrides import quoted, token_of, value_of
from slmflow.sweep import variants
from slmflow.words import CHOICES, read_words
from tests.conftest import ROOT

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


def config(*words):
    (variant,) = variants(**read_words("register", list(words), CHOICES).choices)
    return variant.composition.config


def test_a_key_of_the_configuration_is_a_parameter_in_each_form_that_it_comes_in():
    for words in (
        ["gate.mode=warn", "package.max_tokens=512"],
        ["--gate.mode", "warn", "--package.max_tokens", "512"],
        ["--gate.mode=warn", "--package.max_tokens=512"],
        ["overrides=gate.mode=warn package.max_tokens=512"],
        ["overrides=gate.mode=warn", "--package.max_tokens", "512"],
    ):
        found = config("model=tiny_phi3", *words)
        assert found.gate.mode.value == "warn"
        assert found.package.max_tokens == 512


def test_groups_and_experiments_are_parameters_too():
    found = config("experiment=tiny", "--gate", "off", "--evaluate", "default")
    assert found.model.name == "tiny-phi3"
    assert found.gate.mode.value == "off"
    assert found.evaluate.window == 512


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "my terms, v2",
        "it's mine",
        'the "other" one',
        "[a, b]",
        "{a: b}",
        "a=b",
        "\\",
        "c:\\'x",
        "true",
        "1e3",
        "ü",
    ],
)
def test_a_text_needs_no_quotes_for_hydra(value):
    assert (
        config("model=tiny_phi3", "--model.licence", value, f"gate.licences=+{value}").model.licence == value
    )


@given(TEXT)
def test_hydra_reads_every_quoted_text_as_it_was(text):
    token = f"model.licence={quoted(text)}"
    assert value_of(token) == text


@settings(max_examples=25)
@given(TEXT)
def test_every_text_reaches_the_configuration(text):
    if "${" in text or text in ("", "null"):
        return
    words = read_words("register", ["--model.licence", text], CHOICES)
    assert compose(model="tiny_phi3", overrides=words.overrides).config.model.licence == text


def test_what_is_no_text_is_hydras_to_read():
    rows = "[{max_kl: 1.0, min_top1: 0.1}]"
    found = config(
        "--gate.thresholds",
        rows,
        "--model.source.sha256",
        "",
        "backend=databricks",
        "backend.secrets.HF_TOKEN=a/b",
    )
    assert [row.max_kl for row in found.gate.thresholds] == [1.0]
    assert found.backend.secrets == {"HF_TOKEN": "a/b"}


def test_the_schema_tells_texts_and_lists():
    assert takes_text("model.licence")
    assert takes_text("model.source.path")
    assert takes_text("model.base")
    assert takes_text("backend.environment.ANY")
    assert not any(
        takes_text(key) for key in ("gate.mode", "package.max_tokens", "gate.licences", "no.such", "gate")
    )
    assert not takes_text("evaluate.minutes"), "auto is a text, 3 a number"
    assert takes_list("gate.licences")
    assert not takes_list("gate.mode")


@pytest.mark.parametrize(("value", "minutes"), [("3", 3), ("0.5", 0.5), ("auto", "auto"), ("null", None)])
def test_minutes_are_a_number_auto_or_none(value, minutes):
    assert config("--evaluate.minutes", value).evaluate.minutes == minutes


def test_a_licence_is_added_to_the_list_by_one_word():
    before = config().gate.licences
    assert config("gate.licences=+gemma").gate.licences == [*before, "gemma"]
    assert config("--gate.licences", "+[gemma, llama3.2]").gate.licences == [*before, "gemma", "llama3.2"]
    assert config("gate.licences=[gemma]").gate.licences == ["gemma"]
    one = compose(overrides="gate.licences=+gemma")
    assert compose(overrides=one.overrides).config == one.config


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gate.moed=warn"], "gate.moed=warn: there is no such key; did you mean gate.mode?"),
        (["--gate.moed", "warn"], "gate.moed=warn: there is no such key; did you mean gate.mode?"),
        (["exprot=int8_cpu"], "unknown argument 'exprot=int8_cpu': did you mean export=…?"),
        (["fetch_rum=1"], "unknown argument 'fetch_rum=1'"),
        (["gate=strict"], "gate=strict is unknown: allowed are enforce, off, warn"),
        (["experiment=tinny"], "experiment=tinny is unknown: allowed are"),
        (["--gate.mode"], "--gate.mode has no value"),
        (["gate.mode"], "unknown argument 'gate.mode'"),
        (["gate.mode=warn", "--gate.mode", "off"], "gate.mode is there twice"),
        (["gate.mode=warn", "overrides=gate.mode=off"], "gate.mode is given as a parameter and in overrides"),
        (
            ["experiment=tiny", "overrides=+experiment=tiny"],
            "experiment is given as a parameter and in overrides",
        ),
        (["package.top_p=0.5,1"], "several values for one key: overrides='-m package.top_p=0.5,1'"),
        (["gate.mode=+warn"], "gate.mode=+warn: "),
        (["~model=1"], "a part of the configuration cannot be taken away"),
    ],
)
def test_what_is_wrong_is_one_line(words, said):
    with pytest.raises(SlmflowError) as refused:
        config(*words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_command_that_reads_no_configuration_takes_its_own_words_only():
    assert read_words("gc", ["delete=yes"], ("delete",)).typed == {"delete": "yes"}
    with pytest.raises(SlmflowError, match=r"unknown argument 'gate.mode=warn': gc takes delete=…$"):
        read_words("gc", ["gate.mode=warn"], ("delete",))


def test_with_a_flag_every_value_is_hydras():
    words = read_words("register", ["-m", "model=tiny_phi3", "package.top_p=0.5,1"], CHOICES)
    assert [variant.label for variant in variants(**words.choices)] == [
        "package.top_p=0.5",
        "package.top_p=1",
    ]


def test_what_was_typed_is_kept_for_the_command_that_repeats_it():
    words = read_words("register", ["model=", "--gate.mode", "warn", "overrides=a.b=1"], CHOICES)
    assert words.typed == {"overrides": "a.b=1", "gate.mode": "warn"}


def test_a_token_of_a_null_or_a_group_is_left_to_hydra():
    assert token_of("model.base", "null") == "model.base=null"
    assert token_of("gate", "warn") == "gate=warn"


def python(program, *words, cwd, **environment):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=cwd, env=env, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_folder_in_which_mlflow_run_was_typed_is_found_through_the_shells_between(tmp_path):
    own = "from slmflow.words import typed_folder; print(typed_folder())"
    assert python(own, cwd=tmp_path) == str(tmp_path)
    launch = "import subprocess, sys; subprocess.run(['bash', '-c', sys.argv[1] + '; true', *sys.argv[2:]], cwd='/')"
    inner = f'{sys.executable} -c "{own}"'
    assert python(launch, inner, cwd=tmp_path, MLFLOW_RUN_ID="1") == str(tmp_path)
