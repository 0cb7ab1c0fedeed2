"""config.json of a GGUF file's model, from its metadata and from the tables that it keeps as tensors."""

from __future__ import annotations

from math import isclose, log, pi, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.errors import SlmflowError
from slmflow.gguf.dimensions import Dimensions, dimensions_of
from slmflow.gguf.families import HEAD, family_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slmflow.gguf.file import GgufFile

DTYPES = {"F16": "float16", "BF16": "bfloat16"}
KNOWN = {
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length"),
    *("rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"),
    *("rope.scaling.finetuned", "tensor_data_layout", "pooling_type", "attention.causal"),
}
"""Keys of a family's metadata that are read, or change nothing."""
OWN_KEYS = {
    "llama": {"rope.scaling.original_context_length"},
    "phi3": {"rope.scaling.original_context_length", "rope.scaling.attn_factor", "attention.sliding_window"},
    "gemma3": {"attention.sliding_window", "mm.tokens_per_image"},
}
PLAIN = {
    "attention.sliding_window_pattern": 6,
    "rope.freq_base_swa": 10000.0,
    "expert_count": 0,
    "expert_used_count": 0,
    "use_parallel_residual": True,
    "rope.scaling.original_context_length": 0,
}
"""Keys that change nothing at these values."""
LLAMA3_FACTORS = (8.0, 32.0)
"""`factor` of Llama 3.1 and 3.2; a GGUF holds the frequencies that came of it, and not the factor."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def config_of(file: GgufFile) -> dict[str, Any]:
    """config.json. Raises SlmflowError for metadata that is missing, or that transformers cannot express."""
    family, sizes, prefix = family_of(file), dimensions_of(file), file.architecture
    _refuse_unknown(file, sizes)
    stored = {tensor.kind.name for tensor in file.tensors.values() if len(tensor.shape) > 1}
    ids = {role: file.token(role, sizes.vocabulary) for role in ("bos", "eos", "padding")}
    common = {
        "architectures": [family.model_class],
        "model_type": family.model_type,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.feed_forward,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head,
        "hidden_act": "silu",
        "max_position_embeddings": sizes.context,
        "rms_norm_eps": _positive(file, f"{prefix}.attention.layer_norm_rms_epsilon"),
        "rope_theta": _positive(file, f"{prefix}.rope.freq_base", 10000.0),
        "vocab_size": sizes.vocabulary,
        "tie_word_embeddings": HEAD not in file.tensors,
        "torch_dtype": DTYPES[stored.pop()] if len(stored) == 1 and stored <= DTYPES.keys() else "float32",
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["padding"],
    }
    scaling = {} if family.model_type == "phi3" else _linear_scaling(file)
    return common | scaling | OWN[file.architecture](file, sizes)


def _refuse_unknown(file: GgufFile, sizes: Dimensions) -> None:
    """Refuse what may change the model's arithmetic in a way that is not known here."""
    prefix = f"{file.architecture}."
    known = KNOWN | OWN_KEYS.get(file.architecture, set())
    for key, value in file.metadata.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name in known:
            continue
        if name in PLAIN and value == PLAIN[name]:
            continue
        raise SlmflowError(
            f"{file.path.name}: metadata {key!r:.80} is {value!r:.40}: it is not known here, and may change "
            "what the model computes; choose another file"
        )
    rotary = file.integer(f"{prefix}rope.dimension_count", sizes.head)
    if rotary % 2 or not 0 < rotary <= sizes.head or (rotary < sizes.head and prefix != "phi3."):
        raise SlmflowError(f"{file.path.name}: {prefix}rope.dimension_count is {rotary} of {sizes.head}")


def _positive(file: GgufFile, key: str, default: float | None = None) -> float:
    if (value := file.number(key, default)) <= 0:
        raise SlmflowError(f"{file.path.name}: {key} is {value}, and should be above 0")
    return value


def _linear_scaling(file: GgufFile) -> dict[str, Any]:
    prefix = f"{file.architecture}.rope.scaling"
    # llama.cpp takes a factor without a type for linear.
    kind = file.text(f"{prefix}.type", "linear" if f"{prefix}.factor" in file.metadata else "none")
    if kind == "none":
        return {}
    if kind != "linear":
        raise SlmflowError(f"{file.path.name}: rotary scaling {kind!r} cannot be read: only linear can")
    factor = _positive(file, f"{prefix}.factor")
    return {"rope_scaling": {"rope_type": "linear", "factor": factor}}


def _llama(file: GgufFile, sizes: Dimensions) -> dict[str, Any]:
    own: dict[str, Any] = {"attention_bias": False, "mlp_bias": False}
    if "rope_freqs.weight" not in file.tensors:
        return own
    divisors = _floats(file, "rope_freqs.weight")
    theta = file.number("llama.rope.freq_base", 10000.0)
    for factor in LLAMA3_FACTORS:
        if np.allclose(divisors, llama3_divisors(theta, 2 * len(divisors), factor), rtol=1e-4):
            return own | {"rope_scaling": {"rope_type": "llama3", "factor": factor, **LLAMA3}}
    raise SlmflowError(
        f"{file.path.name}: the frequencies in rope_freqs.weight are not those of Llama 3.1 or 3.2"
    )


def llama3_divisors(theta: float, size: int, factor: float) -> NDArray[np.float64]:
    """What Llama 3 divides each of a head's `size` / 2 rotary frequencies by.

    `Llama3Model.generate_extra_tensors` of convert_hf_to_gguf.py, `_compute_llama3_parameters` of
    transformers.
    """
    low, high, original = LLAMA3.values()
    wavelengths = 2 * pi * theta ** (np.arange(0, size, 2) / size)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _phi3(file: GgufFile, sizes: Dimensions) -> dict[str, Any]:
    original = file.integer("phi3.rope.scaling.original_context_length", sizes.context)
    rotary = file.integer("phi3.rope.dimension_count", sizes.head)
    own: dict[str, Any] = {
        "original_max_position_embeddings": original,
        "sliding_window": file.integer("phi3.attention.sliding_window", 0) or None,
        "partial_rotary_factor": rotary / sizes.head,
        "pad_token_id": file.metadata.get("tokenizer.ggml.padding_token_id", 0),
    }
    if (kind := file.text("phi3.rope.scaling.type", "longrope")) not in ("longrope", "none"):
        raise SlmflowError(f"{file.path.name}: rotary scaling {kind!r} of a phi3 model cannot be read")
    if "rope_factors_long.weight" not in file.tensors:
        return own
    stretched = sizes.context / max(1, original)
    expected = sqrt(1 + log(stretched) / log(original)) if stretched > 1 and original > 1 else 1.0
    if not isclose(found := file.number("phi3.rope.scaling.attn_factor", expected), expected, rel_tol=1e-4):
        raise SlmflowError(
            f"{file.path.name}: phi3.rope.scaling.attn_factor is {found}, and longrope's is {expected:.6g}"
        )
    factors = {
        f"{name}_factor": [float(str(value)) for value in _floats(file, f"rope_factors_{name}.weight")]
        for name in ("short", "long")
    }
    for name, values in factors.items():
        if len(values) != rotary // 2:
            raise SlmflowError(f"{file.path.name}: {len(values)} rotary factors ({name}) for {rotary // 2}")
    return own | {"rope_scaling": {"type": "longrope", **factors}}


def _qwen2(file: GgufFile, sizes: Dimensions) -> dict[str, Any]:
    return {"use_sliding_window": False}


def _qwen3(file: GgufFile, sizes: Dimensions) -> dict[str, Any]:
    return {"attention_bias": False, "use_sliding_window": False}


def _gemma3(file: GgufFile, sizes: Dimensions) -> dict[str, Any]:
    every = 6
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        # llama.cpp knows the 27 B model, which scales otherwise, by its layers.
        "query_pre_attn_scalar": sizes.hidden // sizes.heads if sizes.layers == 62 else sizes.head,
        "rope_theta": file.number("gemma3.rope.freq_base", 1000000.0),
        "rope_local_base_freq": 10000.0,
        "sliding_window": file.integer("gemma3.attention.sliding_window"),
        "layer_types": [
            "sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(sizes.layers)
        ],
        "attention_bias": False,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    }


def _floats(file: GgufFile, name: str) -> NDArray[np.float32]:
    if name not in file.tensors or file.tensors[name].kind.name != "F32":
        raise SlmflowError(f"{file.path.name}: {name} is missing, or is no F32")
    return file.tensors[name].rows().view(np.float32).reshape(-1)


OWN = {"llama": _llama, "phi3": _phi3, "qwen2": _qwen2, "qwen3": _qwen3, "gemma3": _gemma3}
"""What a family's config.json has that the others' have not."""
