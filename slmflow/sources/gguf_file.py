"""GGUF, read: header and tensors by the `gguf` package, turned into a Hugging Face folder.

transformers can read GGUF too, but takes 16 s for the default model where this takes 4, and labels the
tokenizer as Llama's, which makes ONNX Runtime's tokenizer emit −1 ids without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.errors import SlmflowError
from slmflow.files import write_json
from slmflow.sources.gguf_tokenizer import save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TENSOR_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def parameters(path: Path) -> int:
    """The number of weights in a GGUF file."""
    return int(sum(int(np.prod(tensor.shape)) for tensor in _reader(path).tensors))


def to_huggingface(path: Path, folder: Path) -> None:
    """Write config.json, model.safetensors (fp32, exactly the file's weights) and the tokenizer.

    Raises SlmflowError when the file is not GGUF or its architecture is not llama's.
    """
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    reader = _reader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise SlmflowError(f"{path.name}: architecture {architecture!r} is not supported: only llama is")
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise SlmflowError(f"{path.name}: rotary scaling {scaling!r} is not supported yet")
    config = llama_config(metadata, tied=not any(t.name == "output.weight" for t in reader.tensors))
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, NDArray[np.float32]] = {}
    for tensor in reader.tensors:
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        weights[tensor_name(tensor.name)] = unpermute(values, heads[part]) if part in heads else values
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"], "do_sample": False},
    )
    save_tokenizer(metadata, folder)


def tensor_name(name: str) -> str:
    """The Hugging Face name of a llama tensor; raises SlmflowError for one that llama does not have."""
    if name in TENSOR_NAMES:
        return TENSOR_NAMES[name]
    match name.split("."):
        case ["blk", layer, part, kind] if part in BLOCK_NAMES and kind == "weight":
            return f"model.layers.{layer}.{BLOCK_NAMES[part]}.{kind}"
    raise SlmflowError(f"tensor {name!r} has no place in a llama model")


def unpermute(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k in Hugging Face's order: GGUF interleaves the two halves of each rotary head.

    The inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    rows = values.shape[0]
    shaped = values.reshape(heads, rows // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(shaped.swapaxes(1, 2)).reshape(values.shape)


def llama_config(metadata: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    """config.json of a llama model from GGUF metadata."""

    def value(key: str, default: Any = None) -> Any:
        return metadata.get(f"llama.{key}", default)

    heads = value("attention.head_count")
    hidden = value("embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv", heads),
        "head_dim": value("rope.dimension_count", hidden // heads),
        "hidden_act": "silu",
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": shortest_float32(value("attention.layer_norm_rms_epsilon")),
        "rope_theta": shortest_float32(value("rope.freq_base", 10000.0)),
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }


def shortest_float32(value: float) -> float:
    """The shortest decimal that a float32 stands for: GGUF stores 1e-5 as 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _reader(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, IndexError, OSError) as error:
        raise SlmflowError(f"{path.name}: cannot be read as GGUF: {error}") from None
