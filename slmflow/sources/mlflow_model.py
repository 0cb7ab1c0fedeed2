"""Weights that are in MLflow already: a transformers model, or a folder among a run's artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import yaml
from mlflow.exceptions import MlflowException

from slmflow.errors import SlmflowError, first_line
from slmflow.files import files_under, link_or_copy
from slmflow.sources.local import data_in
from slmflow.sources.manifest import Taken
from slmflow.tracking import raise_problem

if TYPE_CHECKING:
    from slmflow.config import MlflowSource


def take(source: MlflowSource, folder: Path) -> Taken:
    """Download `models:/…` or `runs:/…` and lay it out as a Hugging Face folder.

    A model logged with the transformers flavour keeps its weights and its tokenizer apart; both are
    gathered. Raises SlmflowError when the URI does not resolve or holds another flavour.
    """
    local = downloaded(source.uri, "model.source.uri", folder.parent / "download")
    description = description_in(local)
    if not description:
        _gather(local, folder)
        return Taken(folder, f"mlflow:{source.uri}")
    flavour = description.get("flavors", {}).get("transformers")
    if flavour is None or "model_binary" not in flavour:
        flavours = ", ".join(description.get("flavors", {}))
        raise SlmflowError(
            f"model.source.uri={source.uri}: has the flavours {flavours}, "
            "but only transformers models with their weights can be taken"
        )
    _gather(local / flavour["model_binary"], folder)
    for path in files_under(local / "components" / "tokenizer"):
        if not (folder / path.name).exists():
            link_or_copy(path, folder / path.name)
    return Taken(folder, f"mlflow:{source.uri}", commit=description.get("model_id"))


def downloaded(uri: str, key: str, folder: Path) -> Path:
    """What a URI of MLflow leads to, brought below `folder`. Raises SlmflowError naming `key` if nothing."""
    if not uri.startswith(("models:/", "runs:/")):
        raise SlmflowError(f"{key}={uri}: must begin with models:/ or runs:/")
    try:
        # Without a folder MLflow leaves a copy under TMPDIR.
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        raise_problem(error)
        raise SlmflowError(f"{key}={uri}: {first_line(error)}") from None


def description_in(folder: Path) -> dict[str, Any]:
    """What the file MLmodel in a logged model's folder says; nothing where there is none."""
    card = folder / "MLmodel"
    found: dict[str, Any] = yaml.safe_load(card.read_text()) if card.is_file() else {}
    return found


def _gather(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in data_in(source):
        link_or_copy(path, folder / path.name)
