"""transformers' own exporter makes a graph that generate() runs, or says by name what it cannot trace."""

import pytest

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.export import export_folder
from slmflow.export.proofs import prove
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
