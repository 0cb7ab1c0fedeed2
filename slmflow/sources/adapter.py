"""A LoRA adapter, merged into the weights as they are fetched: every later step sees one model.

Done on the file: the merged tensors have the dtype and shape of the old ones, so a copy of the weights gets
their bytes in the old places, one tensor at a time.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.config import AdapterConfig, HubSource
from slmflow.errors import SlmflowError
from slmflow.files import files_under, link_or_copy, read_json
from slmflow.sources.manifest import Taken
from slmflow.tensors import tensors_of

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names of the model's own modules."""
REFUSED = {
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""Settings of an adapter that are not merged unless they have this value."""


def take(adapter: AdapterConfig, folder: Path) -> Taken:
    """Bring the adapter's two files here, verified. Raises SlmflowError when there are none."""
    folder.mkdir(parents=True)
    if adapter.repo:
        from slmflow.sources.hub import bring, resolve

        source = HubSource(repo=adapter.repo, revision=adapter.revision)
        commit, files = resolve(source)
        if missing := [name for name in (CONFIG, WEIGHTS) if name not in files]:
            raise SlmflowError(f"model.adapter.repo={adapter.repo}: has no {missing[0]}")
        bring(source, commit, files, [CONFIG, WEIGHTS], folder)
        pins = [] if adapter.revision == commit else [f"model.adapter.revision={commit}"]
        return Taken(folder, f"hub:{adapter.repo}", commit=commit, pins=pins)
    for path in files_of(adapter):
        shutil.copyfile(path, folder / path.name)
    return Taken(folder, f"local:{Path(adapter.path).name}")


def files_of(adapter: AdapterConfig) -> list[Path]:
    """The two files of an adapter on this machine. Raises SlmflowError when one is not there."""
    files = [Path(adapter.path) / name for name in (CONFIG, WEIGHTS)]
    if missing := [path.name for path in files if not path.is_file()]:
        raise SlmflowError(f"model.adapter.path={adapter.path}: has no {missing[0]}")
    return files


def merge(model: Path, adapter: Path, folder: Path) -> int:
    """Write `folder`: the Hugging Face folder `model` with W + scale · B·A for each W that is adapted.

    Computed in fp32 and rounded once to the dtype of W. Returns how many weights were. Raises SlmflowError
    for another kind of adapter, and for a tensor that has no place in the model.
    """
    from safetensors import safe_open

    from slmflow.deferred import as_bytes

    config = read_json(adapter / CONFIG)
    scale = _scale(config)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = _pairs(adapter / WEIGHTS)
    count = len(pairs)
    with safe_open(adapter / WEIGHTS, framework="pt") as factors:
        for path in files_under(model):
            target = folder / path.relative_to(model)
            places = tensors_of(path) if path.suffix == ".safetensors" else {}
            changed = sorted(places.keys() & pairs.keys())
            if not changed:
                link_or_copy(path, target)
                continue
            shutil.copyfile(path, target)
            with safe_open(path, framework="pt") as weights, target.open("r+b") as file:
                for name in changed:
                    down, up = (factors.get_tensor(key) for key in pairs.pop(name))
                    file.seek(places[name].offset)
                    file.write(as_bytes(_merged(name, weights.get_tensor(name), down, up, scale)))
    if pairs:
        raise SlmflowError(f"the adapter changes {min(pairs)}, which the model does not have")
    return count


def _scale(config: dict[str, Any]) -> float:
    if config.get("peft_type") != "LORA":
        raise SlmflowError(f"the adapter is of type {config.get('peft_type')}: only LORA can be merged")
    for name, plain in REFUSED.items():
        if config.get(name) not in (plain, None):
            raise SlmflowError(f"the adapter has {name}={config[name]!r}: only plain LoRA can be merged")
    rank = config["r"]
    return float(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _pairs(path: Path) -> dict[str, tuple[str, str]]:
    """Name of a weight to the names of its factors A (rank, in) and B (out, rank)."""
    keys = sorted(tensors_of(path))
    pairs = {}
    for key in keys:
        module, _, factor = key.removeprefix(PREFIX).rpartition(".lora_")
        if factor not in ("A.weight", "B.weight") or not key.startswith(PREFIX):
            raise SlmflowError(f"the adapter holds {key}, which is no factor of a plain LoRA")
        names = tuple(f"{PREFIX}{module}.lora_{side}.weight" for side in "AB")
        if names[0] not in keys or names[1] not in keys:
            raise SlmflowError(f"the adapter holds {key} without its other factor")
        pairs[f"{module}.weight"] = (names[0], names[1])
    return pairs


def _merged(
    name: str, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float
) -> torch.Tensor:
    if (up.shape[0], down.shape[1]) != tuple(weight.shape):
        raise SlmflowError(
            f"the adapter's {name} is {up.shape[0]} x {down.shape[1]}, the model's {weight.shape[0]} x "
            f"{weight.shape[1]}: it was trained on another model"
        )
    return (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
