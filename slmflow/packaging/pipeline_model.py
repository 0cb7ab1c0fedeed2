"""The transformers candidate: the pipeline flavour with the chat task, logged by path."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import mlflow

from slmflow.packaging import pinned
from slmflow.packaging.weights import add_weights, without_weights
from slmflow.tensors import weight_files

if TYPE_CHECKING:
    from pathlib import Path

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types of safetensors to torch's names."""
REQUIREMENTS = ("mlflow", "transformers", "torch", "tokenizers", "safetensors", "accelerate")


def log_pipeline_model(huggingface: Path, name: str, scratch: Path, metadata: dict[str, Any]) -> str:
    """Log a Hugging Face folder with `task="llm/v1/chat"`; returns the LoggedModel's id.

    By path, so the weights are linked and never loaded. Three arguments close known traps: without
    `pip_requirements` MLflow looks for torchvision, without `torch_dtype` a bf16 checkpoint reloads as
    fp32, without `model_card` it asks the hub.
    """
    import torch
    from huggingface_hub import ModelCard

    # MLflow records the path as the model's name and answers with it: make that path the name.
    weights = without_weights(huggingface, scratch / "named" / name)
    with contextlib.chdir(scratch / "named"):
        info = mlflow.transformers.log_model(
            transformers_model=name,
            name="pipeline",
            task="llm/v1/chat",
            torch_dtype=getattr(torch, dtype_of(huggingface)),
            pip_requirements=pinned(*REQUIREMENTS),
            model_card=ModelCard(card_text(name, metadata)),
            metadata=metadata,
        )
    add_weights(str(info.model_id), huggingface, weights, "model", scratch)
    return str(info.model_id)


def dtype_of(huggingface: Path) -> str:
    """The dtype that config.json states for the weights; where it states none, that of the first of them."""
    config = json.loads((huggingface / "config.json").read_text())
    stated = config.get("torch_dtype") or config.get("dtype")
    return str(stated or _first_dtype(huggingface))


def _first_dtype(huggingface: Path) -> str:
    """As transformers takes it for `dtype="auto"`; float32 where no weight is of a float type."""
    from safetensors import safe_open

    for path in weight_files(huggingface):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 it is no mapping
                if dtype := FLOATS.get(file.get_slice(name).get_dtype()):
                    return dtype
    return "float32"


def card_text(name: str, metadata: dict[str, Any]) -> str:
    """A model card that says where the weights came from."""
    lines = [f"{key}: {value}" for key, value in metadata.items() if value]
    return "\n".join([f"# {name}", "", "Packaged by slmflow.", "", *[f"- {line}" for line in lines], ""])
