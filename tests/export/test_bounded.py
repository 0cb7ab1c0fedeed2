"""With bounded memory the model builder writes the same bytes, and more of its options give a folder that loads."""

import onnx
import pytest

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.export import bounded, export_folder
from slmflow.export.genai import builder_options, described
from slmflow.export.proofs import prove
from slmflow.files import digests_under
from tests.export.stock import assert_same_graph, stock

QUANTISED = [
    "int8_cpu",
    "int4_cpu",
    "int4_block16_cpu",
    "int4_block128_cpu",
    "int4_rtn_cpu",
    "int4_kquant_cpu",
    "int4_mixed_cpu",
]
STOCK_FAILS_WHEN_TIED = ["int4_asym_cpu", "int4_head8_cpu"]
"""Variants whose folder of a model with a tied head the stock builder leaves with weights that are not there."""
NOT_SHARED_BY_STOCK = ["int8_cpu"]
"""Those whose embedding the stock builder leaves in float, though the head is the same weight."""


def assert_same_bytes(make_model, make_onnx, tmp_path, export, overrides):
    config = compose(model="tiny_phi3", export=export).config.export
    settled = "gemma3" in overrides  # which it cannot read as transformers 5 has it
    theirs = stock(config, make_model(overrides), tmp_path / "stock", settled=settled)
    assert_same_graph(make_onnx(export, overrides), theirs)


@pytest.mark.parametrize("export", ["fp32_cpu", *QUANTISED, "int4_asym_cpu", "int4_head8_cpu"])
def test_each_variant_has_the_bytes_of_the_stock_builder(make_model, make_onnx, tmp_path, export):
    assert_same_bytes(make_model, make_onnx, tmp_path, export, "model.source.architecture=llama")


@pytest.mark.parametrize("export", [v for v in ["fp32_cpu", *QUANTISED] if v not in NOT_SHARED_BY_STOCK])
def test_so_has_each_of_a_tied_model_that_the_stock_builder_can_make(make_model, make_onnx, tmp_path, export):
    overrides = "model.source.architecture=llama model.source.tied=true"
    assert_same_bytes(make_model, make_onnx, tmp_path, export, overrides)


@pytest.mark.parametrize("architecture", ["phi3", "qwen3", "gemma3"])
@pytest.mark.parametrize("export", ["fp32_cpu", "int8_cpu", "int4_cpu", "int4_mixed_cpu"])
def test_so_has_each_architecture(make_model, make_onnx, tmp_path, export, architecture):
    assert_same_bytes(make_model, make_onnx, tmp_path, export, f"model.source.architecture={architecture}")


@pytest.mark.parametrize("export", ["int4_cuda", "fp16_cuda", "int4_dml", "fp16_dml"])
def test_so_has_each_variant_for_a_gpu(make_model, make_onnx, tmp_path, export):
    """Built here, not run: there is no GPU."""
    assert_same_bytes(make_model, make_onnx, tmp_path, export, "model.source.architecture=phi3")


@pytest.mark.parametrize(
    ("export", "overrides"),
    [
        *((export, "") for export in (*STOCK_FAILS_WHEN_TIED, *NOT_SHARED_BY_STOCK)),
        ("int4_cpu", "export.head_bits=8 export.mixed_layers=true"),
        ("int8_cpu", "export.is_symmetric=false"),
        ("int8_cpu", "export.method=rtn"),
    ],
)
def test_options_whose_tied_weights_the_stock_builder_does_not_share_or_cannot_load_are_faithful(
    make_model, tmp_path, export, overrides
):
    tied = make_model("model.source.architecture=llama model.source.tied=true")
    config = compose(model="tiny_phi3", export=export, overrides=overrides).config.export
    assert builder_options(config, described(tied))["shared_embeddings"] == "true"
    export_folder(config, tied, tmp_path / "onnx", tmp_path)
    graph = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph
    assert "model.embed_tokens.weight" not in {weight.name for weight in graph.initializer}
    limit = 1e-5 if export == "int8_cpu" else 1e-3
    assert max(prove(tmp_path / "onnx", tied, config.precision)["logits"].values()) < limit


def test_eight_bits_by_k_quant_are_eight_bits(make_model, make_onnx, tmp_path):
    """The stock builder makes 4-bit weights of precision int8 with this method, without a word."""
    config = compose(model="tiny_phi3", export="int8_cpu", overrides="export.method=k_quant").config.export
    export_folder(config, make_model(), tmp_path / "onnx", tmp_path)
    assert max(prove(tmp_path / "onnx", make_model(), config.precision)["logits"].values()) < 1e-5


def test_blocks_that_do_not_divide_the_rows_are_shared_too(make_model, make_onnx, tmp_path):
    overrides = "model.source.architecture=llama model.source.tied=true"
    tied = described(make_model(overrides))
    config = compose(model="tiny_phi3", export="int4_block128_cpu").config.export
    assert builder_options(config, tied)["shared_embeddings"] == "true"
    folder = make_onnx("int4_block128_cpu", overrides)
    assert max(prove(folder, make_model(overrides), config.precision)["logits"].values()) < 1e-3


def test_sharing_is_refused_where_head_and_embedding_are_different_weights(make_model):
    config = compose(model="tiny_phi3", export="int4_cpu").config.export
    config.shared_embeddings = True
    with pytest.raises(SlmflowError, match="head and embedding are different weights"):
        builder_options(config, described(make_model("model.source.architecture=llama")))


def test_a_folder_whose_tensors_have_other_names_is_still_exported(
    make_model, make_onnx, tmp_path, monkeypatch, capsys
):
    """Then transformers, which knows how to rename them, loads the weights whole."""

    def nothing(folder):
        raise SlmflowError("other names")

    monkeypatch.setattr(bounded, "deferred_model", nothing)
    config = compose(model="tiny_phi3", export="int8_cpu").config.export
    export_folder(config, make_model(), tmp_path / "onnx", tmp_path)
    assert digests_under(tmp_path / "onnx") == digests_under(make_onnx("int8_cpu"))
    assert "the weights are loaded whole: other names" in capsys.readouterr().err
