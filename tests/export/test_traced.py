"""transformers' own exporter makes a graph that generate() runs, or says by name what it cannot trace."""

import json

import pytest

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.export import export_folder, traced
from slmflow.export.proofs import prove
from slmflow.export.traced import NAMES, refuse_what_it_gets_wrong
from slmflow.export.traced_graph import genai_config
from tests.export.stock import LLAMA3, distance, strong_model

CONFIG = compose(export="traced_fp32").config.export


@pytest.mark.parametrize("architecture", ["llama", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_it_is_proven_the_same(make_model, make_onnx, architecture):
    overrides = f"model.source.architecture={architecture}"
    proofs = prove(make_onnx("traced_fp32", overrides), make_model(overrides), CONFIG.precision)
    assert max(proofs["logits"].values()) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("mistral", {"sliding_window": 16}),
        ("olmo2", {}),
        ("llama", {"rope_parameters": LLAMA3}),
    ],
    ids=["a window", "a class that the builder does not know", "scaled positions"],
)
def test_what_transformers_reads_it_traces(tmp_path, kind, fields):
    source = strong_model(tmp_path / "source", kind, **fields)
    export_folder(CONFIG, source, tmp_path / "onnx", tmp_path)
    assert distance(tmp_path / "onnx", source) < 1e-9


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (
            "phi3",
            {
                "max_position_embeddings": 512,
                "original_max_position_embeddings": 128,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 8,
                    "long_factor": [2.0] * 8,
                    "rope_theta": 10_000.0,
                    "original_max_position_embeddings": 128,
                },
            },
            "rotary scaling longrope",
        ),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "model_type=lfm2, whose layers keep states"),
    ],
)
def test_what_it_gets_wrong_is_refused_by_name_before_it_begins(tmp_path, kind, fields, said):
    source = strong_model(tmp_path / "source", kind, **fields)
    with pytest.raises(SlmflowError, match=f"cannot trace {said}.*choose another export="):
        export_folder(CONFIG, source, tmp_path / "onnx", tmp_path)
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "qwen3_next"}, "model_type=qwen3_next, whose layers keep states"),
        ({"model_type": "falcon_h1"}, "model_type=falcon_h1, whose layers keep states"),
        ({"model_type": "gemma3"}, "model_type=gemma3, which does more than text"),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {
                    "full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            },
            "rotary scaling dynamic",
        ),
    ],
)
def test_it_is_refused_by_its_configuration_alone(tmp_path, config, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SlmflowError, match=f"cannot trace {said}"):
        refuse_what_it_gets_wrong(tmp_path)


def test_a_tracer_that_fails_is_one_line(make_model, tmp_path, monkeypatch):
    def fail(model, place):
        raise ValueError("no rule for aten.x\nand much more")

    monkeypatch.setattr(traced, "_trace", fail)
    with pytest.raises(SlmflowError, match=r"^transformers' exporter failed: no rule for aten.x$"):
        export_folder(CONFIG, make_model(), tmp_path / "onnx", tmp_path)


def test_what_generate_is_told_is_what_the_class_says_and_not_only_the_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral", "num_hidden_layers": 3}))
    said = genai_config(tmp_path, NAMES, "decoder")["model"]["decoder"]
    assert (said["num_attention_heads"], said["num_key_value_heads"], said["num_hidden_layers"]) == (32, 8, 3)
    assert said["head_size"] == 128
