"""What users type becomes a checked configuration, or one line that says what is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.compose import compose
from slmflow.config import GenaiExport, HubSource, Precision
from slmflow.errors import SlmflowError
from slmflow.hydra_compose import slug
from slmflow.overrides import CONF, split_overrides

REQUIRED = {
    "hub": "model.source.repo=org/name",
    "local": "model.source.path=/somewhere/model",
    "mlflow": "model.source.uri=models:/name/1",
}


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


OFTEN = {"model": ("smollm2_135m", "local", "phi3_mini_4k_onnx"), "export": ("int8_cpu", "prebuilt")}
"""With these each other choice is tried: all pairs would be hundreds."""
PAIRS = [
    (model, export)
    for model in choices("model")
    for export in choices("export")
    if model in OFTEN["model"] or export in OFTEN["export"]
]


@pytest.mark.parametrize(("model", "export"), PAIRS)
def test_every_model_and_every_export_composes(model, export):
    if compose(model=model, overrides=REQUIRED.get(model, "")).base and export != "prebuilt":
        with pytest.raises(SlmflowError, match=r"model\.base=phi3_mini_4k needs export=prebuilt"):
            compose(model=model, export=export)
        return
    composition = compose(model=model, export=export, overrides=REQUIRED.get(model, ""))
    assert composition.choices["model"] == model
    assert composition.choices["export"] == export


@pytest.mark.parametrize("group", ["evaluate", "gate"])
def test_every_other_choice_composes(group):
    for name in choices(group):
        assert compose(overrides=f"{group}={name}").choices[group] == name


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_composes(name):
    assert compose(overrides=f"+experiment={name}").choices["experiment"] == name


def test_a_model_brings_the_export_that_suits_it_unless_the_user_names_one():
    assert compose(model="phi3_mini_4k").choices["export"] == "int4_cpu"
    assert compose(model="qwen3_0_6b").choices["export"] == "int8_cpu"
    assert compose(model="phi3_mini_4k", overrides="export=int8_cpu").choices["export"] == "int8_cpu"


def test_a_gguf_file_is_exported_as_it_is_unless_the_user_or_an_adapter_says_otherwise():
    path = "model.source.path=/somewhere/My.Q4_K_M.gguf"
    quoted = "'model.source.path=\"/some where/a,b.GGUF\"'"
    file = "model.source.repo=org/name model.source.file=a.gguf"
    assert compose().choices["export"] == "gguf_cpu"
    assert compose(model="local", overrides=path).choices["export"] == "gguf_cpu"
    assert compose(model="local", overrides=quoted).choices["export"] == "gguf_cpu"
    assert compose(model="hub", overrides=file).choices["export"] == "gguf_cpu"
    assert compose(model="local", overrides=REQUIRED["local"]).choices["export"] == "int8_cpu"
    assert compose(model="local", export="int4_cpu", overrides=path).choices["export"] == "int4_cpu"
    assert compose(model="local", overrides=f"{path} export=int4_cpu").choices["export"] == "int4_cpu"
    adapted = f"{path} model.adapter.path=/somewhere/adapter"
    assert compose(model="local", overrides=adapted).choices["export"] == "int8_cpu"


def test_a_prebuilt_model_brings_its_base():
    base = compose(model="phi3_mini_4k_onnx").base
    assert isinstance(base.source, HubSource)
    assert base.source.repo == "microsoft/Phi-3-mini-4k-instruct"
    assert compose(model="phi3_mini_4k_onnx", overrides="model.base=null").base is None


def test_the_overrides_of_a_child_leave_out_what_is_a_parameter_and_compose_the_same():
    words = "model=tiny_phi3 export=int4_cpu gate.mode=warn 'model.licence=a b'"
    first = compose(overrides=words)
    again = compose(**{name: first.choices[name] for name in ("model", "export")}, overrides=first.overrides)
    assert "export" not in first.overrides
    assert again.config == first.config
    assert again.yaml == first.yaml


def test_quoted_values_lists_and_dicts_survive():
    words = '\'model.licence="it is [one], name"\' "gate.thresholds=[{max_kl: 1, min_top1: 0.5}]"'
    config = compose(overrides=words).config
    assert config.model.licence == "it is [one], name"
    assert config.gate.thresholds[0].max_kl == 1.0


def test_types_are_those_of_the_schema():
    export = compose(export="int4_cpu", overrides="export.block_size=16").config.export
    assert isinstance(export, GenaiExport)
    assert export.precision is Precision.int4
    assert export.block_size == 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "phi5"}, r"model=phi5 is unknown: allowed are .*smollm2_135m"),
        ({"export": "int3"}, r"export=int3 is unknown: allowed are .*int8_cpu"),
        ({"overrides": "gate=strict"}, r"gate=strict is unknown: allowed are enforce, off, warn"),
        ({"overrides": "+experiment=none"}, r"experiment=none is unknown: allowed are .*tiny"),
        ({"overrides": "exprot=int8_cpu"}, r"exprot=int8_cpu: there is no such key; did you mean export\?"),
        ({"export": "int8_cpu", "overrides": "export.blok_size=16"}, r"did you mean export\.block_size\?"),
        ({"overrides": "+evaluate.speed=1"}, r"evaluate\.speed: there is no such key; .*evaluate\.window"),
        ({"overrides": "+new.key=1"}, r"new: there is no such key"),
        (
            {"export": "int8_cpu", "overrides": "export.block_size=big"},
            r"export\.block_size=big: must be of type integer",
        ),
        (
            {"export": "int8_cpu", "overrides": "export.block_size=33"},
            r"export\.block_size=33: allowed are 16, 32",
        ),
        (
            {"export": "int8_cpu", "overrides": "export.precision=int5"},
            r"export\.precision=int5: .*\[fp32, fp16, int8, int4, gguf, source\]",
        ),
        ({"overrides": "gate.mode=maybe"}, r"gate\.mode=maybe: .*\[off, warn, enforce\]"),
        ({"overrides": "package.temperature=3"}, r"package\.temperature=3\.0 is out of range: .* 0 to 2"),
        ({"overrides": "evaluate.windows=0"}, r"evaluate\.windows=0 is out of range: allowed is at least 1"),
        ({"overrides": "evaluate.window=5.5"}, r"evaluate\.window=5\.5: must be of type integer"),
        ({"overrides": "model.name='open"}, r"No closing quotation"),
        ({"overrides": "model.source.version"}, r"cannot read 'model\.source\.version'"),
        ({"model": "local"}, r"model\.source\.path is not set: give -P model\.source\.path=…"),
        ({"model": "tiny_phi3", "overrides": "model=local"}, r"as a parameter and in overrides"),
        ({"model": "phi4_mini", "overrides": "model.source.rep=x"}, r"did you mean model\.source\.repo\?"),
        ({"overrides": "export=prebuilt model.base=phi9"}, r"model\.base=phi9: model=phi9 is unknown"),
        ({"overrides": "export=prebuilt model.base=phi3_mini_4k_onnx"}, r"has a base itself"),
        ({"overrides": "model.base=tiny_phi3"}, r"needs export=prebuilt"),
        ({"overrides": "model.name=a/b"}, r"model\.name='a/b': allowed are letters"),
        ({"overrides": "model.name="}, r"model\.name='': allowed are letters"),
        ({"overrides": "model.source.kind=hub"}, r"model\.source\.kind=hub: this model is of kind wheel"),
        (
            {"export": "int8_cpu", "overrides": "export.exporter=optimum"},
            r"export\.exporter=optimum: this export is of kind genai",
        ),
        ({"export": "int8_cpu", "overrides": "export.precision=source"}, r"makes fp32, fp16, int8 or int4"),
        (
            {"export": "int8_cpu", "overrides": "export.precision=fp16"},
            r"with export\.provider='cpu': the CPU kernels widen fp16",
        ),
        (
            {"export": "int8_cpu", "overrides": "export.provider=dml"},
            r"DirectML has no 8-bit MatMulNBits: choose fp16 or int4",
        ),
        (
            {"export": "int8_cpu", "overrides": "export.head_bits=8"},
            r"export\.head_bits=8: keeps a part of an int4 graph at 8 bits",
        ),
        ({"export": "int4_cpu", "overrides": "export.head_bits=4"}, r"head_bits=4: allowed are 8 and null"),
        (
            {"export": "int8_cpu", "overrides": "export.method=gptq"},
            r"export\.method='gptq' makes int4, not .*'int8'",
        ),
        (
            {"export": "int8_cpu", "overrides": "export.method=awq"},
            r"export\.method=awq: .*\[default, rtn, k_quant, gptq\]",
        ),
        ({"overrides": "gate.thresholds=[]"}, r"gate\.thresholds=\[\] judges nothing"),
        ({"overrides": "'model.licence=${oc.env:HOME}'"}, r"a value from the environment would be recorded"),
        ({"model": "local", "overrides": "model.source.path=here"}, r"must be an absolute path"),
        ({"overrides": "evaluate.text=here.txt"}, r"evaluate\.text=here\.txt: must be an absolute path"),
        ({"overrides": "evaluate=null"}, r"evaluate=null: choose one of default, quick"),
        ({"overrides": "model="}, r"model=: choose one of .*tiny_phi3"),
        ({"model": "tiny_phi3", "overrides": "model.source.heads=3"}, r"model\.source\.heads=3 must divide"),
        ({"overrides": "export.level=slow"}, r"export\.level=slow: .*\[exact, precise, fast\]"),
        ({"overrides": "export.precision=int4"}, r"export\.precision='int4': exporter gguf keeps the file's"),
        ({"export": "optimum_fp32", "overrides": "export.precision=int4"}, r"optimum makes fp32 only"),
        ({"overrides": "~model"}, r"~model: a part of the configuration cannot be taken away"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line_that_names_key_value_and_what_is_allowed(arguments, said):
    with pytest.raises(SlmflowError, match=said) as error:
        compose(**arguments)
    assert "\n" not in str(error.value)


@given(st.text(max_size=40))
def test_no_text_of_overrides_ever_fails_with_anything_but_a_line(text):
    try:
        compose(overrides=text)
    except SlmflowError as error:
        assert "\n" not in str(error)


@given(
    st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), max_size=5)
)
def test_words_survive_the_way_into_one_string_and_back(words):
    import shlex

    assert split_overrides(shlex.join(words)) == words


@given(st.text(max_size=60))
def test_a_slug_is_always_a_legal_name(text):
    assert slug(text)
    assert not set(slug(text)) - set("abcdefghijklmnopqrstuvwxyz0123456789._-")


def test_a_slug_is_the_last_part_of_what_it_is_made_from():
    assert slug("org/My-Model_7B") == "my-model_7b"
    assert slug("/path/to/Some Model.Q4_1.gguf") == "some-model.q4_1"
