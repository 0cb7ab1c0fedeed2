"""Where the stock builder's graph is wrong ours is right: each fault of docs/export.md's table, with its value."""

import json
import re
from importlib.metadata import version

import onnx
import pytest

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.export import export_folder
from slmflow.sources.huggingface import make_huggingface
from tests.conftest import ROOT
from tests.export.stock import LLAMA3, distance, stock, strong_model
from tests.families import make_family

LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "rope_theta": 10_000.0,
}
SCALED = {"rope_parameters": YARN, "head_dim": 64, "max_position_embeddings": 16_384}
USUAL = SCALED | {"rope_parameters": {k: v for k, v in YARN.items() if not k.startswith("beta")}}
STATED = SCALED | {"rope_parameters": YARN | {"attention_factor": 1.0, "truncate": False}}
CANNOT = {
    "YaRN's usual bounds are zero where they are not written out": ZeroDivisionError,
    "SmolLM3's layers without positions ask for position ids": KeyError,
}
"""Faults by which the stock builder ends before there is a graph."""
FAULTS = {
    "Llama's linear scaling is forgotten": ("llama", {"rope_parameters": LINEAR | {"rope_theta": 10_000.0}}),
    "Llama's YaRN is forgotten": ("llama", SCALED),
    "YaRN's range is not rounded to whole dimensions": ("qwen3", SCALED),
    "YaRN's usual bounds are zero where they are not written out": ("qwen3", USUAL),
    "YaRN's attention_factor is not read": ("qwen3", STATED),
    "Phi-3's window is forgotten": ("phi3", {"sliding_window": 16, "original_max_position_embeddings": 512}),
    "Mistral's window is forgotten": ("mistral", {"sliding_window": 16}),
    "SmolLM3's layers without positions ask for position ids": ("smollm3", {"no_rope_layer_interval": 2}),
    "OLMo 1's mean is not taken away where it normalises": ("olmo", {}),
    "A projection as wide as the vocabulary is taken for the head": (
        "llama",
        {"hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 8},
    ),
    "Gemma 3's local layers are scaled like the global ones": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": LINEAR | {"rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 512,
            "head_dim": 16,
        },
    ),
}
REFUSED = {
    "Granite's experts are dropped": (
        "granitemoehybrid",
        {"layer_types": ["full_attention"] * 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
}
FP32 = compose(export="fp32_cpu").config.export


def told():
    """Fault to the stock graph's KL divergence, as docs/export.md has them."""
    rows = re.findall(r"^\| (.+?) \| KL ([0-9.]+)", (ROOT / "docs" / "export.md").read_text(), re.M)
    return {fault: float(kl) for fault, kl in rows}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_stock_graph_is_wrong_by_what_the_docs_say_and_ours_is_right(fault, tmp_path):
    kind, fields = FAULTS[fault]
    source = strong_model(tmp_path / "source", kind, **fields)
    settled = kind.startswith("gemma3")
    if fault in CANNOT:
        with pytest.raises(CANNOT[fault]):
            stock(FP32, source, tmp_path / "stock", settled=settled)
    else:
        stock_folder = stock(FP32, source, tmp_path / "stock", settled=settled)
        assert distance(stock_folder, source) == pytest.approx(told()[fault], rel=0.05)
    export_folder(FP32, source, tmp_path / "ours", tmp_path)
    assert distance(tmp_path / "ours", source) < 1e-9


@pytest.mark.parametrize("fault", REFUSED)
def test_what_the_stock_builder_leaves_out_is_refused_by_name(fault, tmp_path):
    kind, fields = REFUSED[fault]
    source = strong_model(tmp_path / "source", kind, **fields)
    assert distance(stock(FP32, source, tmp_path / "stock"), source) == pytest.approx(told()[fault], rel=0.05)
    with pytest.raises(
        SlmflowError, match="it has experts beside its shared layers, which the builder drops"
    ):
        export_folder(FP32, source, tmp_path / "ours", tmp_path)


def test_a_scaling_that_the_builder_does_not_know_is_refused_for_llama_too(tmp_path):
    """The stock builder forgets it for Llama, and refuses it for the others."""
    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    source = strong_model(tmp_path / "source", "llama", rope_parameters=scaling)
    stock(FP32, source, tmp_path / "stock")
    with pytest.raises(SlmflowError, match="dynamic RoPE style is not currently supported"):
        export_folder(FP32, source, tmp_path / "ours", tmp_path)


def test_ministral_3_ends_where_its_queries_begin_to_be_scaled_by_their_position(tmp_path):
    """No graph of the builder scales them: beyond that the stock one, told of the whole context, is wrong."""
    source = tmp_path / "source"
    make_huggingface(make_family("Ministral 3", tmp_path / "published"), source)
    export_folder(FP32, source, tmp_path / "ours", tmp_path)
    assert json.loads((tmp_path / "ours" / "genai_config.json").read_text())["model"]["context_length"] == 256


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_positions_are_read_from_where_transformers_5_writes_them(kind, tmp_path):
    """An older library takes a base of 10,000 for one that it does not find."""
    source = strong_model(
        tmp_path / "source", kind, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    )
    config = json.loads((source / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 1e6
    assert "rope_theta" not in config
    export_folder(FP32, source, tmp_path / "onnx", tmp_path)
    assert distance(tmp_path / "onnx", source) < 1e-9
    older = strong_model(
        tmp_path / "older", kind, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    )
    assert distance(tmp_path / "onnx", older) > 0.01


def test_a_window_that_the_models_class_does_not_read_is_nobodys(tmp_path):
    """Any key of a config.json becomes an attribute: a Llama with one attends to everything all the same."""
    source = strong_model(tmp_path / "source", "llama", sliding_window=16)
    assert json.loads((source / "config.json").read_text())["sliding_window"] == 16
    stock(FP32, source, tmp_path / "stock")
    export_folder(FP32, source, tmp_path / "ours", tmp_path)
    assert (tmp_path / "stock" / "model.onnx").read_bytes() == (tmp_path / "ours" / "model.onnx").read_bytes()
    assert distance(tmp_path / "ours", source) < 1e-9


def test_llama_3s_own_scaling_has_the_bytes_of_the_stock_builder(tmp_path):
    source = strong_model(tmp_path / "source", "llama", rope_parameters=LLAMA3)
    stock(FP32, source, tmp_path / "stock")
    export_folder(FP32, source, tmp_path / "ours", tmp_path)
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "stock" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    assert distance(tmp_path / "ours", source) < 1e-9


def test_a_graph_names_the_builder_that_made_it_and_not_the_repository_that_it_is_installed_in(
    make_model, make_onnx, tmp_path
):
    """The stock builder asks git in the folder of site-packages: a checkout of this project, say."""
    stamp = onnx.load(make_onnx("fp32_cpu") / "model.onnx", load_external_data=False).producer_version
    assert re.fullmatch(re.escape(version("onnxruntime-genai")) + r"\+[0-9a-f]{7}", stamp)
    theirs = stock(FP32, make_model(), tmp_path / "stock", own_stamp=True)
    in_checkout = (ROOT / ".git").exists() and (ROOT / ".venv").is_dir()
    other = onnx.load(theirs / "model.onnx", load_external_data=False).producer_version
    assert other != stamp or not in_checkout
