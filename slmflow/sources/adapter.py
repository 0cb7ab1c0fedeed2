"""A LoRA adapter, merged into the weights as they are fetched: every later step sees one model.

Done on the file: the merged tensors have the dtype and shape of the old ones, so a copy of the weights gets
their bytes in the old places, one tensor at a time.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.config import AdapterConfig, HubSource
from slmflow.errors import SlmflowError
from slmflow.files import files_under, link_or_copy, read_json
from slmflow.sources.manifest import Taken
from slmflow.tensors import tensors_of, weight_files

if TYPE_CHECKING:
    import torch

LOGGED_BY_PEFT = "peft_adaptor"
"""The field of MLflow's transformers flavour that names the adapter's folder."""
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
    "alora_invocation_tokens": None,
    "layer_replication": None,
    "trainable_token_indices": None,
    "use_qalora": False,
    "lora_bias": False,
}
"""Settings of an adapter that are not merged unless they have this value, or are empty."""
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it was; PiSSA, OLoRA and others change it."""


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
    if adapter.uri:
        return _logged(adapter.uri, folder)
    for path in files_of(adapter):
        shutil.copyfile(path, folder / path.name)
    return Taken(folder, f"local:{Path(adapter.path).name}")


def _logged(uri: str, folder: Path) -> Taken:
    """The adapter of a model that `mlflow.transformers` logged with PEFT; of another artifact its files."""
    from slmflow.sources.mlflow_model import description_in, downloaded

    local = downloaded(uri, "model.adapter.uri", folder.parent / "adapter_download")
    description = description_in(local)
    flavour = description.get("flavors", {}).get("transformers", {})
    if description and LOGGED_BY_PEFT not in flavour:
        raise SlmflowError(
            f"model.adapter.uri={uri}: is a model without an adapter of its own; as a model it is model={uri}"
        )
    for path in _both(local / flavour.get(LOGGED_BY_PEFT, ""), f"model.adapter.uri={uri}"):
        link_or_copy(path, folder / path.name)
    return Taken(folder, f"mlflow:{uri}", commit=description.get("model_id"))


def files_of(adapter: AdapterConfig) -> list[Path]:
    """The two files of an adapter on this machine. Raises SlmflowError when one is not there."""
    return _both(Path(adapter.path).expanduser(), f"model.adapter.path={adapter.path}")


def _both(folder: Path, what: str) -> list[Path]:
    files = [folder / name for name in (CONFIG, WEIGHTS)]
    if missing := [path.name for path in files if not path.is_file()]:
        raise SlmflowError(f"{what}: has no {missing[0]}")
    return files


def merge(model: Path, adapter: Path, folder: Path) -> int:
    """Write `folder`: the Hugging Face folder `model` with W + scale · B·A for each W that is adapted.

    Computed in fp32 and rounded once to the dtype of W. Returns how many weights were. Raises SlmflowError
    for another kind of adapter, and for a tensor that has no place in the model.
    """
    from safetensors import safe_open

    from slmflow.deferred import as_bytes

    scale = scale_of(adapter)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = _pairs(adapter / WEIGHTS)
    count, own = len(pairs), set(weight_files(model))
    if "lm_head.weight" in pairs and read_json(model / "config.json").get("tie_word_embeddings", True):
        raise SlmflowError("the adapter changes lm_head.weight, which this model shares with its embedding")
    with safe_open(adapter / WEIGHTS, framework="pt") as factors:
        for path in files_under(model):
            target = folder / path.relative_to(model)
            places = tensors_of(path) if path in own else {}
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


def scale_of(adapter: Path) -> float:
    """What B·A is multiplied by. Raises SlmflowError for an adapter that is no plain LoRA."""
    try:
        config = read_json(adapter / CONFIG)
        kind = config.get("peft_type")
    except (ValueError, AttributeError):
        raise SlmflowError(f"the adapter's {CONFIG} cannot be read") from None
    if kind != "LORA":
        raise SlmflowError(f"the adapter is of type {kind}: only LORA can be merged")
    for name, plain in REFUSED.items():
        if (value := config.get(name)) and value != plain:
            raise SlmflowError(f"the adapter has {name}={value!r}: only plain LoRA can be merged")
    if (start := config.get("init_lora_weights")) not in PLAIN_STARTS:
        raise SlmflowError(f"the adapter has init_lora_weights={start!r}, which changes the weights below it")
    try:
        rank = config["r"]
        return float(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))
    except (KeyError, TypeError, ZeroDivisionError, ValueError):
        raise SlmflowError(f"the adapter's {CONFIG} does not give r and lora_alpha as numbers") from None


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
    fits = down.dim() == up.dim() == 2 and down.shape[0] == up.shape[1]
    if not fits or (up.shape[0], down.shape[1]) != tuple(weight.shape):
        shapes = [" x ".join(map(str, tensor.shape)) for tensor in (up, down, weight)]
        raise SlmflowError(
            f"the adapter's {name} is {shapes[0]} by {shapes[1]}, the model's {shapes[2]}: it was trained on "
            "another model"
        )
    return (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
