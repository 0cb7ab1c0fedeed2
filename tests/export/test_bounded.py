"""With bounded memory the model builder writes the same bytes, and more of its options give a folder that loads."""

import contextlib
import io

import pytest

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.export import bounded, export_folder
from slmflow.export.genai import builder_options, described
from slmflow.export.proofs import prove
from slmflow.files import digests_under

QUANTISED = [
    "int8_cpu",
    "int4_cpu",
    "int4_block16_cpu",
    "int4_block128_cpu",
    "int4_rtn_cpu",
    "int4_kquant_cpu",
    "int4_mixed_cpu",
]
STOCK_FAILS_WHEN_TIED = ["int8_cpu", "int4_asym_cpu", "int4_head8_cpu"]
"""Variants whose folder of a model with a tied head the stock builder leaves with weights that are not there."""


def stock(config, source, folder):
    """The folder as the stock builder makes it of the same options."""
    from onnxruntime_genai.models import builder

    arguments = (
        "",
        str(source),
        str(folder),
        config.precision.value,
        config.provider.value,
        f"{folder}-cache",
    )
    options = [f"{k}={v}" for k, v in builder_options(config, described(source)).items()]
    with contextlib.redirect_stdout(io.StringIO()):
        builder.create_model(*arguments, **builder.parse_extra_options(*arguments, options))
    return folder


def assert_same_bytes(make_model, make_onnx, tmp_path, export, overrides):
    config = compose(model="tiny_phi3", export=export).config.export
    theirs = stock(config, make_model(overrides), tmp_path / "stock")
    assert digests_under(make_onnx(export, overrides)) == digests_under(theirs)


@pytest.mark.parametrize("export", ["fp32_cpu", *QUANTISED, "int4_asym_cpu", "int4_head8_cpu"])
def test_each_variant_has_the_bytes_of_the_stock_builder(make_model, make_onnx, tmp_path, export):
    assert_same_bytes(make_model, make_onnx, tmp_path, export, "model.source.architecture=llama")


@pytest.mark.parametrize("export", [v for v in ["fp32_cpu", *QUANTISED] if v not in STOCK_FAILS_WHEN_TIED])
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
        *((export, "") for export in STOCK_FAILS_WHEN_TIED),
        ("int4_cpu", "export.head_bits=8 export.mixed_layers=true"),
        ("int8_cpu", "export.is_symmetric=false"),
        ("int8_cpu", "export.method=rtn"),
    ],
)
def test_options_that_the_stock_builder_makes_unloadable_of_a_tied_model_load_and_are_faithful(
    make_model, tmp_path, export, overrides
):
    tied = make_model("model.source.architecture=llama model.source.tied=true")
    config = compose(model="tiny_phi3", export=export, overrides=overrides).config.export
    assert builder_options(config, described(tied))["shared_embeddings"] == "true"
    export_folder(config, tied, tmp_path / "onnx", tmp_path)
    limit = 1e-5 if export == "int8_cpu" else 1e-3
    assert max(prove(tmp_path / "onnx", tied, config.precision)["logits"].values()) < limit


def test_eight_bits_by_k_quant_are_eight_bits(make_model, make_onnx, tmp_path):
    """The stock builder makes 4-bit weights of precision int8 with this method, without a word."""
    config = compose(model="tiny_phi3", export="int8_cpu", overrides="export.method=k_quant").config.export
    export_folder(config, make_model(), tmp_path / "onnx", tmp_path)
    assert max(prove(tmp_path / "onnx", make_model(), config.precision)["logits"].values()) < 1e-5


def test_a_projection_as_wide_as_the_vocabulary_is_not_taken_for_the_head(make_model, tmp_path):
    """The stock builder takes any Linear with as many outputs as there are words for it: here k_proj."""
    wide = make_model(
        "model.source.architecture=llama model.source.layers=1 model.source.hidden_size=1024 "
        "model.source.heads=8 model.source.kv_heads=8"
    )
    config = compose(model="tiny_phi3", export="fp32_cpu").config.export
    export_folder(config, wide, tmp_path / "onnx", tmp_path)
    assert max(prove(tmp_path / "onnx", wide, config.precision)["logits"].values()) < 1e-9


def test_blocks_that_do_not_divide_the_rows_give_the_head_a_weight_of_its_own(make_model):
    tied = described(make_model("model.source.architecture=llama model.source.tied=true"))
    config = compose(model="tiny_phi3", export="int4_block128_cpu").config.export
    assert tied["hidden_size"] == 64
    assert builder_options(config, tied)["shared_embeddings"] == "false"
    config.shared_embeddings = True
    with pytest.raises(SlmflowError, match="must divide the hidden size, 64"):
        builder_options(config, tied)
    with pytest.raises(SlmflowError, match="head and embedding are different weights"):
        builder_options(config, {**tied, "tie_word_embeddings": False})


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
