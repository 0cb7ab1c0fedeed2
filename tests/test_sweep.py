"""One line stands for several configurations, as Hydra's multirun writes them."""

import pytest

from slmflow.errors import SlmflowError
from slmflow.sweep import variants


def labels(**words):
    return [variant.label for variant in variants(**words)]


def exports(**words):
    return [variant.composition.choices["export"] for variant in variants(**words)]


def test_plain_words_are_one_configuration_without_a_label():
    assert labels(model="tiny_phi3") == [""]


def test_each_value_is_a_configuration_and_its_label_sets_it_apart():
    words = {"model": "tiny_phi3", "overrides": "-m export=int8_cpu,int4_cpu"}
    assert labels(**words) == ["export=int8_cpu", "export=int4_cpu"]
    assert exports(**words) == ["int8_cpu", "int4_cpu"]


def test_a_parameter_sweeps_as_an_override_does():
    assert exports(model="tiny_phi3", export="int8_cpu,int4_cpu", overrides="--multirun") == [
        "int8_cpu",
        "int4_cpu",
    ]


@pytest.mark.parametrize(
    "words", [{"export": "int8_cpu,int4_cpu"}, {"overrides": "export=int8_cpu,int4_cpu"}]
)
def test_several_models_or_exports_need_no_flag(words):
    assert exports(model="tiny_phi3", **words) == ["int8_cpu", "int4_cpu"]
    assert labels(model="tiny_phi3,org/name") == ["model=tiny_phi3", "model=org/name"]


def test_two_sweeps_are_their_product():
    words = "-m export=int8_cpu,int4_cpu package.top_p=choice(0.5,1)"
    assert labels(model="tiny_phi3", overrides=words) == [
        "export=int8_cpu package.top_p=0.5",
        "export=int8_cpu package.top_p=1",
        "export=int4_cpu package.top_p=0.5",
        "export=int4_cpu package.top_p=1",
    ]


def test_an_experiment_file_sweeps_and_the_users_word_wins():
    every = exports(overrides="+experiment=precisions")
    assert every[:3] == ["fp32_cpu", "int8_cpu", "int4_cpu"]
    assert len(every) == 11
    assert exports(overrides="+experiment=precisions export=int4_cpu") == ["int4_cpu"]
    assert exports(overrides="+experiment=precisions -m export=int4_cpu,int8_cpu") == [
        "int4_cpu",
        "int8_cpu",
    ]


def test_a_list_is_one_value():
    words = "gate.thresholds=[{max_kl:1.0,min_top1:0.1},{max_kl:2.0,min_top1:0.1}]"
    assert labels(overrides=words) == [""]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluate.windows=1,2", "overrides='-m evaluate.windows=1,2' runs each"),
        ("-m export=int8_cpu,int3", "export=int3 is unknown"),
        ("-m package.top_p=0.5,7", "package.top_p=7"),
        ("export=int8_cpu,", "cannot read 'export=int8_cpu,'"),
        ("export=int8_cpu,int3", "export=int3 is unknown"),
        ("model=tiny_phi3,tiny_phi4", "model=tiny_phi4 is unknown: did you mean tiny_phi3?"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(words, said):
    with pytest.raises(SlmflowError) as refused:
        variants(overrides=words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_parameter_and_an_override_of_the_same_name_are_refused():
    with pytest.raises(SlmflowError, match="give it once"):
        variants(export="int8_cpu", overrides="-m export=int8_cpu,int4_cpu")


@pytest.mark.parametrize("model", ["tiny_phi3", "phi3_mini_4k"])
def test_an_experiments_export_that_the_model_cannot_have_is_left_out_and_told(model):
    found = variants(model=model, overrides="+experiment=compare_quantization")
    assert "export=gguf_cpu" not in [variant.label for variant in found]
    assert len(found) == 5
    assert found[0].left_out == ("export=gguf_cpu is left out: the model is no GGUF file.",)


def test_a_gguf_file_keeps_all_of_them():
    found = variants(overrides="+experiment=compare_quantization")
    assert [variant.label for variant in found][-1] == "export=gguf_cpu"
    assert found[0].left_out == ()


def test_a_repository_that_may_hold_a_gguf_file_keeps_what_the_user_swept():
    words = "model.source.repo=me/model -m export=int8_cpu,gguf_cpu"
    assert len(variants(model="hub", overrides=words)) == 2
    experiment = "model.source.repo=me/model-GGUF +experiment=compare_quantization"
    assert len(variants(model="hub", overrides=experiment)) == 6


def test_a_sweep_of_nothing_that_the_model_can_have_is_refused():
    with pytest.raises(SlmflowError, match="export=gguf_cpu: the model is no GGUF file"):
        variants(model="tiny_phi3", overrides="-m export=gguf_cpu,gguf_fast_cpu")
