"""Which models an exporter makes right graphs of, told from a config.json before anything else is there.

`docs/models.md` has the families as they were tried. Nothing is imported that knows models: a driver asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from collections.abc import Callable

Config = dict[str, Any]
Lack = tuple["Callable[[Config], Any]", str]


def _experts(config: Config) -> Any:
    return config.get("num_local_experts") or config.get("num_experts")


def _mamba(config: Config) -> bool:
    kinds = config.get("layer_types") or config.get("layers_block_type") or ["mamba"]
    return any(kind not in ("attention", "full_attention") for kind in kinds)


GRANITE_HYBRID: tuple[Lack, ...] = (
    (lambda config: _experts(config), "experts beside its shared layers, which the builder drops"),
    (_mamba, "Mamba layers, which the builder has no nodes for"),
)
GEMMA4_UNIFIED: tuple[Lack, ...] = (
    (lambda config: config.get("num_kv_shared_layers"), "layers that share keys and values"),
    (
        lambda config: config.get("use_bidirectional_attention") == "all",
        "attention in both directions: it embeds texts, and does not go on with them",
    ),
)
GEMMA4: tuple[Lack, ...] = (
    (
        lambda config: config.get("hidden_size_per_layer_input", 256),
        "embeddings by layer (hidden_size_per_layer_input, as E2B and E4B have), which the builder drops",
    ),
    (
        lambda config: config.get("enable_moe_block"),
        "experts with GeGLU, which the runtime's CPU has no kernel for",
    ),
    *GEMMA4_UNIFIED,
)
GEMMA3: tuple[Lack, ...] = (
    (
        lambda config: config.get("use_bidirectional_attention"),
        "attention in both directions: it embeds texts, and does not go on with them",
    ),
)
OLMO: tuple[Lack, ...] = (
    (lambda config: config.get("clip_qkv"), "clipped queries, keys and values (clip_qkv)"),
)
BUILDER: dict[str, tuple[Lack, ...]] = {
    **dict.fromkeys(("llama", "mistral", "ministral3", "phi", "phi3", "qwen2", "qwen3", "qwen3_5_text"), ()),
    **dict.fromkeys(("smollm3", "granite", "lfm2", "lfm2_moe", "ernie4_5", "hunyuan_v1_dense"), ()),
    **dict.fromkeys(("gemma", "gemma2", "nemotron"), ()),
    "gemma3_text": GEMMA3,
    "gemma4_text": GEMMA4,
    "gemma4_unified_text": GEMMA4_UNIFIED,
    "granitemoehybrid": GRANITE_HYBRID,
    "olmo": OLMO,
}
"""By `model_type` of the text part: what a model of that kind may have that the builder lacks."""
BY_NAME = {
    "gpt_oss": "its smallest has 20 B parameters, in MXFP4: llama.cpp serves it from its GGUF file",
    "gemma3n_text": "it has embeddings by layer, which the builder drops: take gemma3, or a larger gemma4",
}
"""Models that people ask for: why not, and what would do."""


def refuse_unsupported(exporter: str, config: Config) -> None:
    """Raise SlmflowError, with what is lacking and what would do, where the builder has no right graph.

    The other exporters have refusals of their own.
    """
    if exporter != "genai":
        return
    text: Config = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    kind = str(text.get("model_type") or config.get("model_type"))
    name = next(iter(config.get("architectures") or ()), kind)
    beginning = f"config.json: {name} (model_type={kind}) cannot be exported by the model builder: "
    if (why := BY_NAME.get(kind)) is not None:
        raise SlmflowError(f"{beginning}{why}")
    if kind not in BUILDER:
        raise SlmflowError(
            f"{beginning}it is none of {', '.join(sorted(BUILDER))}; -P export=traced_fp32 takes what "
            "transformers itself can trace, and -e log_pipeline needs no export"
        )
    for has, what in BUILDER[kind]:
        if has(text):
            raise SlmflowError(
                f"{beginning}it has {what}; -P export=traced_fp32 where transformers can trace it, or -e "
                "log_pipeline, which needs no export"
            )
