"""What an adapter does to each weight: LoRA and all that PEFT merges exactly with it.

That is rsLoRA, DoRA, embeddings, several ranks and alphas by pattern, biases, and copies of whole modules.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError
from slmflow.files import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import torch

    Read = Callable[[str], torch.Tensor]
    """A tensor of the adapter by its name."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names of the model's own modules."""
REFUSED = (
    "fan_in_fan_out",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
"""Settings of an adapter that cannot be merged unless they are empty."""
BIASES = ("none", "all", "lora_only")
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it was; PiSSA, OLoRA and others change it."""
PARTS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_embedding_A": "embedding_down",
    "lora_embedding_B": "embedding_up",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
"""What peft calls a module's parts, by ours."""
WHOLE = "whole"
"""A copy of the weight that was trained itself."""
SAME = "same"
"""A copy of the weight as it was, which peft saves with adapted embeddings."""
EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class Change:
    """What is done to one weight of the model."""

    parts: dict[str, str]
    """The adapter's tensors by their parts: those of PARTS, WHOLE and SAME."""
    scale: float

    def apply(self, name: str, weight: torch.Tensor, read: Read) -> torch.Tensor:
        """The changed weight, computed in fp32 and rounded once.

        Raises SlmflowError where the adapter was trained on another weight.
        """
        of = {part: read(key).float() for part, key in self.parts.items()}
        for part in (WHOLE, SAME):
            if part in of and of[part].shape != weight.shape:
                raise _misfit(name, weight, of[part])
        if WHOLE in of:
            return of[WHOLE].to(weight.dtype)
        if SAME in of and not of[SAME].to(weight.dtype).equal(weight):
            raise SlmflowError(
                f"the adapter holds another {name} than the model: it was trained on another one"
            )
        return (_adapted(name, weight, of, self.scale) if of.keys() - {SAME} else weight).to(weight.dtype)


def _adapted(name: str, weight: torch.Tensor, of: dict[str, torch.Tensor], scale: float) -> torch.Tensor:
    """W + scale · B·A in fp32, its rows given their trained lengths where there are some."""
    is_embedding = "embedding_up" in of
    down, up = (of[f"embedding_{side}" if is_embedding else side] for side in ("down", "up"))
    if not (down.dim() == up.dim() == 2 and down.shape[0] == up.shape[1]):
        raise _misfit(name, weight, up, down)
    delta = scale * (up @ down)
    if is_embedding:
        delta = delta.T
    if delta.shape != weight.shape:
        raise _misfit(name, weight, up, down)
    changed = weight.float() + delta
    if (magnitude := of.get("magnitude")) is not None:
        # DoRA trains the length of a vector apart from its direction (arXiv 2402.09353): of a row of a
        # projection, of a column of an embedding (peft's `get_weight_norm`).
        lengths = changed.norm(dim=0 if is_embedding else 1, keepdim=True)
        changed = changed * (magnitude.reshape(lengths.shape) / lengths)
    return changed


def changes_of(folder: Path, keys: Iterable[str]) -> dict[str, Change]:
    """What an adapter of a folder, with tensors of these names, does to which weight.

    Raises SlmflowError for an adapter that peft would not merge into the weights exactly.
    """
    config = checked_config(folder)
    found: dict[str, dict[str, str]] = {}
    for key in sorted(keys):
        name, part = _place(key, config)
        found.setdefault(name, {})[part] = key
    for name, parts in found.items():
        _refuse_halves(name, parts)
    return {
        name: Change(parts, _scale(config, name.removesuffix(".weight"))) for name, parts in found.items()
    }


def _place(key: str, config: dict[str, Any]) -> tuple[str, str]:
    """The model's weight that a tensor of the adapter belongs to, and as which part."""
    own = key.removeprefix(PREFIX)
    for said, part in PARTS.items():
        if own.endswith(f".{said}") and key.startswith(PREFIX):
            return f"{own.removesuffix(f'.{said}')}.weight", part
    own = own.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
    module, _, kind = own.rpartition(".")
    copied = (str(name) for name in config.get("modules_to_save") or ())
    if key.startswith(PREFIX):
        if any(module == name or module.endswith(f".{name}") for name in copied):
            return own, WHOLE
        if kind == "bias" and config.get("bias") in BIASES[1:]:
            return own, WHOLE
        if kind == "weight" and module.rpartition(".")[2] in EMBEDDINGS:
            return own, SAME
    raise SlmflowError(f"the adapter holds {key}, which is no part of a LoRA that can be merged")


def checked_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json. Raises SlmflowError for a kind of adapter that cannot be merged exactly."""
    try:
        config: dict[str, Any] = read_json(folder / CONFIG)
        kind = config.get("peft_type")
    except (ValueError, AttributeError):
        raise SlmflowError(f"the adapter's {CONFIG} cannot be read") from None
    if kind != "LORA":
        raise SlmflowError(f"the adapter is of type {kind}: only LORA can be merged")
    for name in REFUSED:
        if value := config.get(name):
            raise SlmflowError(
                f"the adapter has {name}={value!r}, which cannot be merged into the weights exactly"
            )
    if (bias := config.get("bias", "none")) not in BIASES:
        raise SlmflowError(f"the adapter has bias={bias!r}: known are {', '.join(BIASES)}")
    if (start := config.get("init_lora_weights")) not in PLAIN_STARTS:
        raise SlmflowError(f"the adapter has init_lora_weights={start!r}, which changes the weights below it")
    _scale(config, "")
    return config


def _scale(config: dict[str, Any], module: str) -> float:
    """What B·A of a module is multiplied by: its own rank and alpha where a pattern gives them."""
    try:
        rank = _by_pattern(config.get("rank_pattern"), module, config["r"])
        alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
        return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    except (KeyError, TypeError, ZeroDivisionError, ValueError, re.error):
        raise SlmflowError(f"the adapter's {CONFIG} does not give r and lora_alpha as numbers") from None


def _by_pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that a module's name ends with (peft's `get_pattern_key`)."""
    fits = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(fits, default)


def _refuse_halves(name: str, parts: dict[str, str]) -> None:
    if WHOLE in parts and len(parts) > 1:
        raise SlmflowError(f"the adapter changes {name} by factors, and holds a trained copy of it too")
    if parts.keys() <= {WHOLE, SAME}:
        return
    factors = [part for part in parts if part.endswith(("down", "up"))]
    if not factors:
        raise SlmflowError(f"the adapter holds {next(iter(parts.values()))} without factors")
    if len(factors) == 1:
        raise SlmflowError(f"the adapter holds {parts[factors[0]]} without its other factor")


def _misfit(name: str, weight: torch.Tensor, *tensors: torch.Tensor) -> SlmflowError:
    theirs, own = (
        " by ".join(" x ".join(map(str, tensor.shape)) for tensor in group) for group in (tensors, [weight])
    )
    return SlmflowError(
        f"the adapter's {name} is {theirs}, the model's {own}: it was trained on another model"
    )
