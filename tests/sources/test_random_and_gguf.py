"""Random models repeat byte for byte; a GGUF file becomes a Hugging Face folder with its own weights."""

import json

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.files import digests_under
from slmflow.sources import take
from slmflow.sources.gguf_file import shortest_float32, tensor_name, to_huggingface, unpermute
from slmflow.sources.huggingface import make_huggingface


def make(tmp_path, overrides=""):
    return digests_under(
        take(compose(model="tiny_phi3", overrides=overrides).config.model.source, tmp_path).folder
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(tmp_path):
    first = make(tmp_path / "a")
    assert make(tmp_path / "b") == first
    other = make(tmp_path / "c", "model.source.seed=1")
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3"])
@pytest.mark.parametrize("tied", ["true", "false"])
def test_every_architecture_can_be_made(tmp_path, architecture, tied):
    overrides = f"model.source.architecture={architecture} model.source.tied={tied}"
    source = compose(model="tiny_phi3", overrides=overrides).config.model.source
    folder = take(source, tmp_path).folder
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == architecture
    assert config["tie_word_embeddings"] is (tied == "true")


HEADS, KV_HEADS, HIDDEN, FEED, LAYERS = 4, 2, 64, 96, 2
TOKENS = ["<|endoftext|>", "a", "b", "Ġ", "ab", "1"]


def write_gguf(path, architecture="llama", pre="smollm", seed=0):
    """A tiny llama file in Q4_1 and Q8_0; returns what its tensors dequantise to."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name, shape in {
            "attn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
            "attn_v": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (FEED, HIDDEN),
            "ffn_up": (FEED, HIDDEN),
            "ffn_down": (HIDDEN, FEED),
        }.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
    exact = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
            exact[name] = values
            continue
        kind = gguf.GGMLQuantizationType.Q8_0 if "embd" in name else gguf.GGMLQuantizationType.Q4_1
        packed = quantize(values, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        exact[name] = dequantize(packed, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return exact


def test_a_gguf_file_keeps_exactly_its_weights(tmp_path):
    exact = write_gguf(tmp_path / "tiny.gguf")
    folder = tmp_path / "huggingface"
    assert make_huggingface(tmp_path, folder) == "made"
    weights = load_file(folder / "model.safetensors")
    assert len(weights) == len(exact)
    for name, values in exact.items():
        ours = weights[tensor_name(name)]
        if "attn_q" in name or "attn_k" in name:
            assert sorted(map(bytes, ours)) == sorted(map(bytes, values)), "the same rows in another order"
        else:
            np.testing.assert_array_equal(ours, values)


def test_a_gguf_file_loads_in_transformers_as_it_would_by_transformers_own_reader(tmp_path):
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "tiny.gguf")
    to_huggingface(tmp_path / "tiny.gguf", tmp_path / "ours")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf").state_dict()
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values.numpy(), theirs[name].float().numpy(), err_msg=name)


@given(heads=st.integers(1, 6), half=st.integers(1, 5), columns=st.integers(1, 4), seed=st.integers(0, 99))
def test_unpermute_undoes_what_llama_cpp_does(heads, half, columns, seed):
    rows = np.random.default_rng(seed).standard_normal((heads * half * 2, columns)).astype(np.float32)
    permuted = rows.reshape(heads, 2, half, columns).swapaxes(1, 2).reshape(rows.shape)
    np.testing.assert_array_equal(unpermute(permuted, heads), rows)


def test_a_float32_is_written_as_the_decimal_that_it_stands_for():
    assert shortest_float32(float(np.float32(1e-5))) == 1e-5


def test_another_architecture_or_pre_tokenizer_is_refused_by_name(tmp_path):
    write_gguf(tmp_path / "a.gguf", architecture="mamba")
    with pytest.raises(SlmflowError, match="'mamba' is not supported"):
        to_huggingface(tmp_path / "a.gguf", tmp_path / "out")
    write_gguf(tmp_path / "b.gguf", pre="deepseek-llm")
    with pytest.raises(SlmflowError, match="'deepseek-llm' is not supported"):
        to_huggingface(tmp_path / "b.gguf", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not gguf at all", b"GGUF\x03\x00\x00\x00"])
def test_a_file_that_is_no_gguf_is_refused(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(SlmflowError, match="cannot be read as GGUF"):
        to_huggingface(tmp_path / "x.gguf", tmp_path / "out")


def test_a_tensor_without_a_place_is_refused():
    with pytest.raises(SlmflowError, match=r"blk\.0\.ssm_in\.weight"):
        tensor_name("blk.0.ssm_in.weight")
