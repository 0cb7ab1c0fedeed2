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

if TYPE_CHECKING:
    from slmflow.config import MlflowSource


def take(source: MlflowSource, folder: Path) -> Taken:
    """Download `models:/…` or `runs:/…` and lay it out as a Hugging Face folder.

    A model logged with the transformers flavour keeps its weights and its tokenizer apart; both are
    gathered. Raises SlmflowError when the URI does not resolve or holds another flavour.
    """
    if not source.uri.startswith(("models:/", "runs:/")):
        raise SlmflowError(f"model.source.uri={source.uri}: must begin with models:/ or runs:/")
    download = folder.parent / "download"  # without it MLflow leaves a copy under TMPDIR
    try:
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=source.uri, dst_path=str(download)))
    except (MlflowException, OSError) as error:
        raise SlmflowError(f"model.source.uri={source.uri}: {first_line(error)}") from None
    card = local / "MLmodel"
    if not card.is_file():
        _gather(local, folder)
        return Taken(folder, f"mlflow:{source.uri}")
    description: dict[str, Any] = yaml.safe_load(card.read_text())
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


def _gather(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in data_in(source):
        link_or_copy(path, folder / path.name)
