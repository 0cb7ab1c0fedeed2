"""optimum's exporter: the traced graph of transformers' own code, fp32 with past."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from slmflow.files import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import OptimumExport
    from slmflow.export import Codes

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def export(
    config: OptimumExport, source: Path, codes: Codes | None, folder: Path, scratch: Path
) -> dict[str, str]:
    """Trace the model, and describe the graph so that the generate() API can run it."""
    from optimum.exporters.onnx import main_export

    task = "text-generation-with-past"
    main_export(
        str(source),
        output=folder,
        task=task,
        device="cpu",
        dtype=config.precision.value,
        do_validation=False,
    )
    for name in TOKENIZER_FILES:  # byte for byte the source's, not what a newer library makes of them
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    description = json.loads((source / "config.json").read_text())
    write_json(folder / "genai_config.json", genai_config(description))
    return {"task": task, "optimum": version("optimum"), "optimum-onnx": version("optimum-onnx")}


def genai_config(model: dict[str, Any]) -> dict[str, Any]:
    """What generate() must know of a traced graph.

    Unlike the builder's, the graph takes position_ids and returns the keys and values grown by the new
    tokens, so the buffers for past and present cannot be shared.
    """
    heads = model["num_attention_heads"]
    return {
        "model": {
            "type": model["model_type"],
            "bos_token_id": model.get("bos_token_id"),
            "eos_token_id": model.get("eos_token_id"),
            "pad_token_id": model.get("pad_token_id") or 0,
            "vocab_size": model["vocab_size"],
            "context_length": model["max_position_embeddings"],
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "head_size": model.get("head_dim") or model["hidden_size"] // heads,
                "hidden_size": model["hidden_size"],
                "num_attention_heads": heads,
                "num_key_value_heads": model.get("num_key_value_heads") or heads,
                "num_hidden_layers": model["num_hidden_layers"],
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": model["max_position_embeddings"], "past_present_share_buffer": False},
    }
