"""A GGUF file of any family becomes a Hugging Face folder with exactly its weights, or is refused by the tensor."""

import json

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from slmflow.errors import SlmflowError
from slmflow.gguf.config import llama3_divisors
from slmflow.gguf.families import FAMILIES, Place, places
from slmflow.gguf.header import read_gguf
from slmflow.gguf.huggingface import to_huggingface
from slmflow.sources.huggingface import codes_in, make_huggingface
from slmflow.tensors import tensors_in
from tests.gguf_maker import CONTEXT, HEAD, HEADS, HIDDEN, KV_HEADS, byte_level, write_gguf

FAMILY_NAMES = sorted(FAMILIES)


def mixed(name):
    """As `Q4_K_M` files are."""
    return "Q6_K" if "attn_v" in name or "ffn_down" in name else "Q8_0" if "embd" in name else "Q4_K"


def weights_in(folder):
    found = {}
    for name, tensor in tensors_in(folder).items():
        with safe_open(tensor.path, framework="pt") as file:
            found[name] = file.get_tensor(name)
    return found


def made(tmp_path, **options):
    file = write_gguf(tmp_path / "m.gguf", **options)
    to_huggingface(tmp_path / "m.gguf", tmp_path / "hf")
    return file, tmp_path / "hf"


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_holds_exactly_the_files_weights(tmp_path, family, tied):
    file, folder = made(tmp_path, family=family, kinds=mixed, tied=tied)
    weights = weights_in(folder)
    where = places(read_gguf(file.path))
    assert weights.keys() == {place.name for place in where.values()}
    for name, place in where.items():
        expected = file.values[name][place.order(len(file.values[name]))] - np.float32(place.added)
        np.testing.assert_array_equal(weights[place.name].numpy(), expected, err_msg=name)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_transformers_loads_it_and_finds_every_weight_in_its_place(tmp_path, family):
    _, folder = made(tmp_path, family=family, tied=False)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.num_key_value_heads == KV_HEADS
    assert model.config.max_position_embeddings == CONTEXT
    rotary = model.config.rope_parameters
    assert rotary.get("full_attention", rotary)["rope_theta"] == 100000.0


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_the_model_is_what_transformers_own_reader_makes_of_the_file(tmp_path, family):
    """The others it cannot read: it takes Phi-3's attention for Llama's, and every Qwen3's heads for 128 wide."""
    file, folder = made(tmp_path, family=family, tied=False)
    ours = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.path.name).state_dict()
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values.numpy(), theirs[name].float().numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16), ("F32", torch.float32)]
)
def test_floats_keep_their_type(tmp_path, kind, dtype):
    file, folder = made(tmp_path, kinds=kind)
    weights = weights_in(folder)
    assert weights["model.embed_tokens.weight"].dtype == dtype
    np.testing.assert_array_equal(
        weights["model.layers.1.mlp.down_proj.weight"].float().numpy(), file.values["blk.1.ffn_down.weight"]
    )
    assert weights["model.norm.weight"].dtype == torch.float32
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == str(dtype).removeprefix(
        "torch."
    )


def test_weights_that_are_no_numbers_are_refused_by_their_tensor(tmp_path):
    file = write_gguf(tmp_path / "m.gguf", kinds="Q8_0")
    tensor = read_gguf(file.path).tensors["blk.1.ffn_up.weight"]
    content = bytearray(file.path.read_bytes())
    content[tensor.offset : tensor.offset + 2] = np.float16("nan").tobytes()
    file.path.write_bytes(content)
    with pytest.raises(
        SlmflowError, match=r"tensor blk\.1\.ffn_up\.weight of type Q8_0 holds values that are no"
    ):
        to_huggingface(file.path, tmp_path / "hf")


def test_of_several_types_the_pipeline_is_fp32(tmp_path):
    _, folder = made(tmp_path, kinds=lambda name: "F16" if "embd" in name else "Q8_0")
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float32"


def test_a_chat_ends_where_llama_cpp_ends_it_though_the_file_names_its_eos_only(tmp_path):
    """Phi-3 files name `<|endoftext|>`, Gemma's `<eos>`; their turns end with another marker."""

    def tokenizer(writer):
        count = byte_level(writer)  # <|endoftext|> is 0, <|end|> is 4
        writer.kv_data[0].pop("tokenizer.ggml.eos_token_id")
        writer.add_eos_token_id(0)
        return count

    _, folder = made(tmp_path, family="phi3", tokenizer=tokenizer)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 4]


def test_a_linear_factor_without_a_type_scales_as_in_llama_cpp(tmp_path):
    _, folder = made(tmp_path, change=lambda writer: writer.add_rope_scaling_factor(4.0))
    scaling = json.loads((folder / "config.json").read_text())["rope_scaling"]
    assert scaling == {"rope_type": "linear", "factor": 4.0}


def test_a_folder_of_several_files_says_how_to_choose(tmp_path):
    for name in ("a.gguf", "mmproj.GGUF"):
        write_gguf(tmp_path / name)
    with pytest.raises(SlmflowError, match=r"there are 2 GGUF files, a\.gguf, mmproj\.GGUF: name one, by"):
        codes_in(tmp_path)


@given(heads=st.integers(1, 6), half=st.integers(1, 5))
def test_rows_are_put_back_as_they_were_before_llama_cpp_turned_them(heads, half):
    rows = np.arange(heads * half * 2)
    turned = rows.reshape(heads, 2, half).swapaxes(1, 2).reshape(-1)  # LlamaModel.permute
    np.testing.assert_array_equal(turned[Place("q", heads).order(len(rows))], rows)


def test_llama_3s_frequencies_are_known_by_their_divisors(tmp_path):
    def change(factor):
        def add(writer):
            divisors = llama3_divisors(100000.0, HEAD, factor).astype(np.float32)
            writer.add_tensor("rope_freqs.weight", divisors)

        return add

    _, folder = made(tmp_path, change=change(32.0))
    scaling = json.loads((folder / "config.json").read_text())["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"]) == ("llama3", 32.0)
    frequencies = AutoModelForCausalLM.from_pretrained(folder).model.rotary_emb.inv_freq.numpy()
    plain = 100000.0 ** -(np.arange(0, HEAD, 2) / HEAD)
    np.testing.assert_allclose(plain / frequencies, llama3_divisors(100000.0, HEAD, 32.0), rtol=1e-5)
    write_gguf(tmp_path / "other.gguf", change=change(5.0))
    with pytest.raises(SlmflowError, match="rope_freqs.weight are not those of Llama 3.1 or 3.2"):
        to_huggingface(tmp_path / "other.gguf", tmp_path / "x")


def longrope(attn_factor):
    def add(writer):
        writer.add_rope_scaling_orig_ctx_len(CONTEXT // 4)
        writer.add_rope_scaling_attn_factors(attn_factor)
        for name, value in (("long", 4.0), ("short", 1.5)):
            writer.add_tensor(f"rope_factors_{name}.weight", np.full(HEAD // 2, value, np.float32))

    return add


def test_phi_3s_long_contexts_keep_their_factors(tmp_path):
    expected = float(np.sqrt(1 + np.log(4) / np.log(CONTEXT // 4)))
    _, folder = made(tmp_path, family="phi3", change=longrope(expected))
    config = json.loads((folder / "config.json").read_text())
    assert config["original_max_position_embeddings"] == CONTEXT // 4
    assert config["rope_scaling"]["long_factor"] == [4.0] * (HEAD // 2)
    assert AutoModelForCausalLM.from_pretrained(folder).config.rope_scaling["short_factor"][0] == 1.5
    write_gguf(tmp_path / "other.gguf", family="phi3", change=longrope(2.0))
    with pytest.raises(SlmflowError, match="attn_factor is 2.0, and longrope's is"):
        to_huggingface(tmp_path / "other.gguf", tmp_path / "x")


def other(key, value):
    def change(writer):
        writer.kv_data[0].pop(key, None)
        if value is not None:
            add = writer.add_string if isinstance(value, str) else writer.add_uint32
            add(key, value)

    return change


BAD = {
    "architecture": ({"family": "mamba"}, "architecture 'mamba' is not supported: only llama, phi3"),
    "scaling": ({"change": other("llama.rope.scaling.type", "yarn")}, "rotary scaling 'yarn'"),
    "layers": ({"change": other("llama.block_count", 3)}, "it has no tensor blk.2."),
    "countless layers": ({"change": other("llama.block_count", 4_000_000_000)}, "should be from 1 to 1024"),
    "no heads": ({"change": other("llama.attention.head_count", 0)}, "head_count is 0"),
    "other heads": (
        {"change": other("llama.attention.head_count", 16)},
        "rope.dimension_count is 64 of 16",
    ),
    "context": (
        {"change": other("llama.context_length", 200_000_000)},
        "context_length of 200000000 with heads of 64 is beyond any model",
    ),
    "countless positions": ({"change": other("llama.context_length", 4_000_000_000)}, "should be from 1 to"),
    "odd heads": ({"change": other("llama.attention.key_length", 63)}, "heads of 63 for keys must be even"),
    "other values": ({"change": other("llama.attention.value_length", 32)}, "as wide as those for values"),
    "old scaling": (
        {"change": other("llama.rope.scale_linear", 4)},
        r"'llama\.rope\.scale_linear' is 4: it is not",
    ),
    "attention scale": ({"change": other("llama.attention.scale", 2)}, r"'llama\.attention\.scale' is 2"),
    "experts": ({"change": other("llama.expert_count", 8)}, r"'llama\.expert_count' is 8"),
    "partial rotary": (
        {"change": other("llama.rope.dimension_count", 32)},
        "rope.dimension_count is 32 of 64",
    ),
    "odd rotary": (
        {"family": "phi3", "change": other("phi3.rope.dimension_count", 0)},
        "rope.dimension_count is 0 of 64",
    ),
    "softcap": (
        {"family": "gemma3", "change": other("gemma3.final_logit_softcapping", 30)},
        r"'gemma3\.final_logit_softcapping' is 30",
    ),
    "theta": ({"change": other("llama.rope.freq_base", 0)}, "rope.freq_base is 0.0, and should be above 0"),
    "template": ({"change": other("tokenizer.chat_template", 5)}, "chat_template is 5, and should be text"),
    "eot": (
        {"change": other("tokenizer.ggml.eot_token_id", 5_000_000)},
        "eot_token_id is 5000000, and there are",
    ),
    "hidden": (
        {"change": other("llama.embedding_length", 16_000_000)},
        "heads of 4000000 is beyond any model",
    ),
    "feed forward": (
        {"change": other("llama.feed_forward_length", 1024)},
        r"ffn_gate\.weight of type Q4_1 has the shape \[512, 256\], and by the metadata it is \[1024, 256\]",
    ),
    "no epsilon": (
        {"change": other("llama.attention.layer_norm_rms_epsilon", None)},
        "has no llama.attention.layer_norm_rms_epsilon",
    ),
    "unknown tensor": (
        {"change": lambda writer: writer.add_tensor("blk.0.ssm_in.weight", np.ones(32, np.float32))},
        r"tensor 'blk\.0\.ssm_in\.weight' has no place in a llama model",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_model_that_we_know_is_refused_by_name(tmp_path, name):
    options, said = BAD[name]
    write_gguf(tmp_path / "m.gguf", **options)
    with pytest.raises(SlmflowError, match=said) as error:
        to_huggingface(tmp_path / "m.gguf", tmp_path / "hf")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "hf" / "model.safetensors").exists()


def test_codes_are_told_from_other_folders(tmp_path):
    assert codes_in(tmp_path) is None
    write_gguf(tmp_path / "m.gguf")
    assert codes_in(tmp_path) == "gguf"
    assert make_huggingface(tmp_path, tmp_path / "hf") == "made"
    assert codes_in(tmp_path / "hf") is None
    assert make_huggingface(tmp_path / "hf", tmp_path / "x") == "source"


def test_the_values_of_norms_in_f16_are_taken_too(tmp_path):
    file, folder = made(tmp_path, norms="F16")
    assert weights_in(folder)["model.norm.weight"].dtype == torch.float16
    np.testing.assert_allclose(
        weights_in(folder)["model.norm.weight"].numpy(), file.values["output_norm.weight"], rtol=1e-3
    )


def test_the_maker_and_the_package_agree_on_a_tokenizer(tmp_path):
    """A file's tokens are as many as its embedding has rows."""
    file, _ = made(tmp_path, tokenizer=byte_level)
    assert len(read_gguf(file.path).texts("tokenizer.ggml.tokens")) == len(file.values["token_embd.weight"])
    assert file.values["token_embd.weight"].shape[1] == HIDDEN == HEADS * HEAD
    q8 = GGMLQuantizationType.Q8_0
    assert dequantize(np.zeros((1, 34), np.uint8), q8).shape == (1, 32)
