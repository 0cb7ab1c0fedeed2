"""transformers' own exporter: the traced graph of its forward, fp32 with past. It calls itself experimental.

A second exporter, not a second reader: the library that reads the folder is the reference's.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, first_line
from slmflow.export.traced_graph import Names, complete, genai_config

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import TracedExport
    from slmflow.export import Codes

PAST, NEW = 16, 4
"""Tokens of the traced pass: those that are there already, and those that come."""
NAMES = Names(
    "input.past_key_values.layers.%d.keys",
    "input.past_key_values.layers.%d.values",
    "output.past_key_values.layers.%d.keys",
    "output.past_key_values.layers.%d.values",
)
ATTENTION = {"full_attention", "sliding_attention"}
"""Kinds of layers that keep keys and values, and nothing else."""
WITH_STATES = (
    *("mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "bamba", "zamba", "zamba2", "rwkv", "xlstm"),
    *("recurrent_gemma", "nemotron_h", "minimax", "lfm2", "lfm2_moe"),
)
"""Models whose layers keep more, and do not list their kinds."""


def export(
    config: TracedExport, source: Path, codes: Codes | None, folder: Path, scratch: Path
) -> dict[str, str]:
    """Trace the model, and describe the graph so that the generate() API can run it.

    Raises SlmflowError, before the weights are loaded, for a model of which the graph fails or is wrong.
    """
    refuse_what_it_gets_wrong(source)
    description = genai_config(source, NAMES, "decoder")
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, use_safetensors=True
    ).eval()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _trace(model, folder / "model.onnx")
    except Exception as error:  # torch.export raises what its tracing meets
        raise SlmflowError(f"transformers' exporter failed: {first_line(error)}") from error
    complete(source, folder, description)
    return {name: version(name) for name in ("transformers", "torch", "onnxscript")}


def _trace(model: Any, place: Path) -> None:
    import torch
    from transformers import DynamicCache
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    # Some tokens after others, in several rows: no axis has a size that could be taken for a fixed one.
    ids = torch.arange(2 * (PAST + NEW)).reshape(2, -1)
    with torch.no_grad():
        # Plain layers, whole even where attention slides: the cache of a window cannot be traced.
        past = model(input_ids=ids[:, :PAST], past_key_values=DynamicCache(), use_cache=True).past_key_values
    inputs = {
        "input_ids": ids[:, PAST:],
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(PAST, PAST + NEW)[None].repeat(2, 1),
        "past_key_values": past,
        "use_cache": True,
    }
    OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True, output_path=place))


def refuse_what_it_gets_wrong(source: Path) -> None:
    """Raise SlmflowError for a model whose traced graph is known to fail or to be wrong."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source)
    scaling = getattr(config, "rope_parameters", None) or {}
    scalings = [scaling, *(of_layers for of_layers in scaling.values() if isinstance(of_layers, dict))]
    moving = [one["rope_type"] for one in scalings if one.get("rope_type") in ("longrope", "dynamic")]
    wrong = None
    if config.get_text_config() is not config:
        wrong = f"model_type={config.model_type}, which does more than text"
    elif moving:
        wrong = f"rotary scaling {moving[0]}, whose tables depend on the length of the prompt"
    elif config.model_type in WITH_STATES or set(getattr(config, "layer_types", None) or ()) - ATTENTION:
        wrong = f"model_type={config.model_type}, whose layers keep states"
    elif getattr(config, "hidden_size_per_layer_input", 0) or getattr(config, "num_kv_shared_layers", 0):
        wrong = f"model_type={config.model_type} with per-layer embeddings or shared keys and values"
    if wrong:
        raise SlmflowError(f"transformers' exporter cannot trace {wrong}: choose another export=")
