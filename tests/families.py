"""A tiny random model of every family's true class, all kinds of its layers in it, as its publishers lay it out."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from slmflow.compose import compose
from slmflow.export import export_folder
from slmflow.sources.huggingface import make_huggingface
from slmflow.sources.random_model import VOCABULARY, save_tokenizer

CONTEXT = 1024
"""Positions; those of models whose rotary scaling begins earlier go beyond what a proof reads."""
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 4,
    "pad_token_id": 0,
}
TIED = {"tie_word_embeddings": True}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500_000.0,
}
YARN = {
    "rope_type": "yarn",
    "type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
    "max_position_embeddings": CONTEXT,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
LONGROPE = {
    "rope_type": "longrope",
    "type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0 + i / 12 for i in range(8)],
    "long_factor": [2.0 + i / 4 for i in range(8)],
    "original_max_position_embeddings": 512,
}
MROPE = {
    "rope_type": "default",
    "rope_theta": 10_000_000.0,
    "partial_rotary_factor": 0.25,
    "mrope_section": [3, 3, 2],
    "mrope_interleaved": True,
}
GRANITE = {"embedding_multiplier": 0.5, "residual_multiplier": 0.9, "logits_scaling": 2.0}
"""By the published 12, 0.22 and 8 a random model would say again what it was told."""
SHORT_CONVOLUTION = {"conv_L_cache": 3, **TIED}
QWEN35 = {
    "head_dim": 64,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "rope_parameters": MROPE,
}
GEMMA4 = {
    **TIED,
    "head_dim": 16,
    "global_head_dim": 32,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": VOCABULARY,
    "final_logit_softcapping": 30.0,
    "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
TOWERS = {
    "qwen3_5": {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 16,
        "patch_size": 4,
    },
    "mistral3": {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
        "image_size": 28,
        "patch_size": 14,
    },
    "gemma4": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "gemma3": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
}
"""The part that sees, by the class of the whole; Gemma 4 Unified has none of its own."""
SEEING = {
    "image_token_id": 900,
    "video_token_id": 901,
    "vision_start_token_id": 902,
    "vision_end_token_id": 903,
}


@dataclass(frozen=True)
class Tiny:
    """A model to be made."""

    kind: str
    """Its `model_type`, of the text part where there are more."""
    fields: dict
    whole: str = ""
    """The `model_type` of the whole where it also sees."""
    text_class: str = ""
    continuous: bool = True
    """Whether the engine `continuous` serves it."""


FAMILIES = {
    "Llama 3.2": Tiny("llama", {"rope_parameters": LLAMA3, **TIED}),
    "Phi-3": Tiny("phi3", {"original_max_position_embeddings": CONTEXT, "sliding_window": 32}),
    "Phi-3.5": Tiny("phi3", {"original_max_position_embeddings": 512, "rope_parameters": LONGROPE}),
    "Phi-4-mini": Tiny(
        "phi3",
        {
            "hidden_size": 128,
            "original_max_position_embeddings": 512,
            "partial_rotary_factor": 0.5,
            "rope_parameters": LONGROPE,
            **TIED,
        },
    ),
    "Qwen2.5": Tiny("qwen2", TIED),
    "Qwen3": Tiny("qwen3", {"head_dim": 16, **TIED}),
    "Qwen3.5": Tiny("qwen3_5_text", {**QWEN35, **TIED}, "qwen3_5", "Qwen3_5ForCausalLM"),
    "Gemma 3": Tiny(
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            **TIED,
        },
        "gemma3",
        "Gemma3ForCausalLM",
    ),
    "Gemma 4": Tiny("gemma4_text", GEMMA4, "gemma4", "Gemma4ForCausalLM"),
    "Gemma 4 Unified": Tiny(
        "gemma4_unified_text",
        {key: value for key, value in GEMMA4.items() if "per_layer" not in key},
        "gemma4_unified",
        "Gemma4UnifiedForCausalLM",
    ),
    "Ministral 3": Tiny(
        "ministral3", {"head_dim": 32, "rope_parameters": YARN}, "mistral3", "Ministral3ForCausalLM"
    ),
    "Mistral": Tiny("mistral", {"sliding_window": 32}),
    "SmolLM3": Tiny("smollm3", {"no_rope_layer_interval": 4, **TIED}),
    "LFM2": Tiny(
        "lfm2",
        {
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
            "conv_dim": 64,
            **SHORT_CONVOLUTION,
        },
    ),
    "LFM2-MoE": Tiny(
        "lfm2_moe",
        {
            "layer_types": ["conv", "full_attention"] * 2,
            "moe_intermediate_size": 64,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_dense_layers": 1,
            **SHORT_CONVOLUTION,
        },
    ),
    "Granite 3": Tiny("granite", {"attention_multiplier": 0.015625, **GRANITE, **TIED}),
    "Granite 4 dense": Tiny(
        "granitemoehybrid",
        {
            "attention_multiplier": 0.0625,
            "shared_intermediate_size": 128,
            "position_embedding_type": "rope",
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "layer_types": ["attention"] * 4,
            **GRANITE,
            **TIED,
        },
    ),
    "OLMo 1": Tiny("olmo", {}),
    "Gemma 1": Tiny("gemma", {"head_dim": 16, **TIED}),
    "Gemma 2": Tiny(
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 32,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 30.0,
            **TIED,
        },
    ),
    "Phi-2": Tiny("phi", {"hidden_size": 128, "partial_rotary_factor": 0.5}),
    "Nemotron": Tiny("nemotron", {"head_dim": 32, "partial_rotary_factor": 0.5}),
    "Ernie 4.5": Tiny("ernie4_5", TIED),
    "HunYuan dense": Tiny("hunyuan_v1_dense", {"head_dim": 16, **TIED}),
}


def make_family(name, folder):
    """Write the model to `folder`; its weights are so strong that each part of it changes the answer."""
    import torch
    from transformers import (
        CONFIG_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    tiny = FAMILIES[name]
    config = {**SIZES, **deepcopy(tiny.fields)}  # transformers adds to them
    torch.manual_seed(0)
    if tiny.whole:
        text = {"model_type": tiny.kind, **config}
        towers = {"vision_config": TOWERS[tiny.whole]} if tiny.whole in TOWERS else {}
        if tiny.whole == "gemma4":
            towers["audio_config"] = None
        seeing = {"image_token_index": 900} if tiny.whole in ("mistral3", "gemma3") else SEEING
        whole = CONFIG_MAPPING[tiny.whole](
            text_config=text, **towers, **seeing, tie_word_embeddings=config["tie_word_embeddings"]
        )
        made = AutoModelForImageTextToText.from_config(whole, dtype=torch.float32)
    else:
        made = AutoModelForCausalLM.from_config(CONFIG_MAPPING[tiny.kind](**config), dtype=torch.float32)
    _strengthen(made, tied=config["tie_word_embeddings"])
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    save_tokenizer(folder, CONTEXT)
    if tiny.kind == "qwen2":  # transformers reads any folder of Qwen 2 by Qwen's own rules
        AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _strengthen(made, *, tied):
    import torch

    seed = torch.Generator().manual_seed(0)

    def normal(like):
        return torch.randn(like.shape, generator=seed)

    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "vision" in name or "visual" in name:
                continue
            if weight.dim() >= 2 and "conv" not in name:
                spread = (0.25 if tied else 0.6) if "embed" in name else 1.5 / weight.shape[-1] ** 0.5
                weight.copy_(normal(weight) * spread)
            elif "norm" in name:
                weight.add_(0.2 * normal(weight))
            elif weight.dim() == 1 and name.endswith(("bias", "sinks")):
                weight.copy_(0.3 * normal(weight))
        for name, buffer in made.named_buffers():
            if "layer_scalar" in name:
                buffer.copy_(0.6 + 0.8 * torch.rand(buffer.shape, generator=seed))
            if "expert_bias" in name:
                buffer.copy_(0.3 * normal(buffer))


def text_and_graph(name, place, export="fp32_cpu"):
    """The model's text part as `fetch` leaves it, and the graph of it."""
    published = make_family(name, place / "published")
    text = place / "text"
    if make_huggingface(published, text) == "source":
        text = published
    export_folder(compose(export=export).config.export, text, place / "onnx", place)
    return text, place / "onnx"


def whole_logits(folder: Path, ids):
    """The logits of the model as published, all its parts, by transformers' own forward."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForCausalLM if config.get_text_config() is config else AutoModelForImageTextToText
    # The plain attention: the fused one leaves a cap on its scores out without a word.
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
