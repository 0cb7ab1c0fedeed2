"""An adapter, merged into the weights as they are fetched: every later step sees one model.

Done on the file: the merged tensors have the dtype and shape of the old ones, so a copy of the weights gets
their bytes in the old places, one tensor at a time.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.config import AdapterConfig, HubSource
from slmflow.errors import SlmflowError
from slmflow.files import files_under, link_or_copy, read_json
from slmflow.sources.adapter_changes import CONFIG, WEIGHTS, changes_of
from slmflow.sources.manifest import Taken
from slmflow.sources.text_part import own_name
from slmflow.tensors import tensors_in, tensors_of, weight_files

if TYPE_CHECKING:
    from slmflow.sources.adapter_changes import Change

LOGGED_BY_PEFT = "peft_adaptor"
"""The field of MLflow's transformers flavour that names the adapter's folder."""
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


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
    """Write `folder`: the Hugging Face folder `model` with the adapter's changes.

    Returns how many weights were changed. Raises SlmflowError for another kind of adapter, and for a tensor
    that has no place in the model.
    """
    from safetensors import safe_open

    from slmflow.deferred import as_bytes

    changes = _placed(model, changes_of(adapter, tensors_of(adapter / WEIGHTS)))
    folder.mkdir(parents=True, exist_ok=True)
    count, own = len(changes), set(weight_files(model))
    with safe_open(adapter / WEIGHTS, framework="pt") as held:
        for path in files_under(model):
            target = folder / path.relative_to(model)
            places = tensors_of(path) if path in own else {}
            changed = sorted(places.keys() & changes.keys())
            if not changed:
                link_or_copy(path, target)
                continue
            shutil.copyfile(path, target)
            with safe_open(path, framework="pt") as weights, target.open("r+b") as file:
                for name in changed:
                    merged = changes.pop(name).apply(name, weights.get_tensor(name), held.get_tensor)
                    file.seek(places[name].offset)
                    file.write(as_bytes(merged))
    if changes:
        raise SlmflowError(f"the adapter changes {min(changes)}, which the model does not have")
    return count


def _placed(model: Path, changes: dict[str, Change]) -> dict[str, Change]:
    """The changes by the model's own names, also of one that was trained on a model that sees.

    Raises SlmflowError for a weight that stands for two.
    """
    held = tensors_in(model)
    placed = {name if name in held else own_name(name) or name: change for name, change in changes.items()}
    if read_json(model / "config.json").get("tie_word_embeddings", HEAD not in held):
        for name, other in ((HEAD, "embedding"), (EMBEDDING, "head")):
            if name in placed:
                raise SlmflowError(f"the adapter changes {name}, which this model shares with its {other}")
    return placed
