"""What makes a traced graph a genai folder: its description, and the source's own tokenizer."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slmflow.files import write_json

if TYPE_CHECKING:
    from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Names:
    """What a graph calls its keys and values; `%d` is the layer."""

    past_key: str
    past_value: str
    present_key: str
    present_value: str


def complete(source: Path, folder: Path, description: dict[str, Any]) -> None:
    """Write the description beside `model.onnx` in `folder`, and bring the tokenizer."""
    for name in TOKENIZER_FILES:  # byte for byte the source's, not what another library makes of them
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    write_json(folder / "genai_config.json", description)


def genai_config(source: Path, names: Names, kind: str | None = None) -> dict[str, Any]:
    """What generate() must know of the traced graph of a Hugging Face folder.

    Unlike the builder's, the graph takes position_ids and returns the keys and values grown by the new
    tokens, so the buffers for past and present cannot be shared. `kind` is the model type by which
    generate() chooses how to feed the graph; the model's own if not given.
    """
    from transformers import AutoConfig

    model = AutoConfig.from_pretrained(source)
    heads = model.num_attention_heads
    return {
        "model": {
            "type": kind or model.model_type,
            "bos_token_id": model.bos_token_id,
            "eos_token_id": model.eos_token_id,
            "pad_token_id": model.pad_token_id or 0,
            "vocab_size": model.vocab_size,
            "context_length": model.max_position_embeddings,
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "head_size": getattr(model, "head_dim", None) or model.hidden_size // heads,
                "hidden_size": model.hidden_size,
                "num_attention_heads": heads,
                "num_key_value_heads": getattr(model, "num_key_value_heads", None) or heads,
                "num_hidden_layers": model.num_hidden_layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": names.past_key,
                    "past_value_names": names.past_value,
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": names.present_key,
                    "present_value_names": names.present_value,
                },
            },
        },
        "search": {"max_length": model.max_position_embeddings, "past_present_share_buffer": False},
    }
