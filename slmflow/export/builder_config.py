"""A configuration of transformers 5 as the model builder of onnxruntime-genai 0.18.0 reads one."""

from __future__ import annotations

from typing import Any

from slmflow.export.fields import fields_of

SAME_TEXT = {
    "Gemma4ForCausalLM": "Gemma4UnifiedForConditionalGeneration",
    "Gemma4UnifiedForCausalLM": "Gemma4UnifiedForConditionalGeneration",
    "Ministral3ForCausalLM": "MistralForCausalLM",
    "Qwen3_5ForCausalLM": "Qwen3_5ForConditionalGeneration",
}
"""Language models that the builder knows by the name of another class with the same text part."""


def settle(config: Any) -> list[str]:
    """Change what transformers 5 says of a model to what the builder reads of it.

    Returns what people should know of the change.
    """
    notes = []
    text = config.get_text_config()
    kind = str(text.model_type)
    config.architectures = [SAME_TEXT.get(name, name) for name in config.architectures]
    scaling = getattr(text, "rope_parameters", None) or {}
    if "full_attention" in scaling and kind.startswith("gemma3"):
        # The builder knows Gemma 3's two kinds of layers as transformers 4 told of them.
        text.rope_local_base_freq = scaling["sliding_attention"]["rope_theta"]
        text.rope_parameters = scaling["full_attention"]
    if kind.startswith("gemma4"):
        # The builder knows what differs by layer as transformers told of it before 5.15.
        text.allow_global_per_layer_attribute_access = True
        whole = text.per_layer_config[text.layer_types.index("full_attention")]
        text.global_head_dim, text.num_global_key_value_heads = whole.head_dim, whole.num_key_value_heads
        text.moe_intermediate_size = (
            text.intermediate_size
        )  # its width of any feed-forward, where there is one
    if getattr(text, "mtp_num_hidden_layers", 0):
        text.mtp_num_hidden_layers = 0  # a second graph, which drafts tokens: nobody here runs it
    if scaling.get("llama_4_scaling_beta"):
        # Queries are scaled by their position from there on, which no graph of the builder does.
        whole = text.max_position_embeddings
        text.max_position_embeddings = scaling["original_max_position_embeddings"]
        notes.append(
            f"the context is {text.max_position_embeddings:,} tokens of {whole:,}: beyond them queries are "
            "scaled by their position (llama_4_scaling_beta), which the builder's graph does not do"
        )
    # The builder takes the windows from the kinds of layers alone, which Phi-3 and Mistral do not list. A
    # Llama's key of that name is read by nobody.
    window = getattr(text, "sliding_window", None) if "sliding_window" in fields_of(type(text)) else None
    if window and window < text.max_position_embeddings and getattr(text, "layer_types", None) is None:
        text.layer_types = ["sliding_attention"] * text.num_hidden_layers
    return notes
