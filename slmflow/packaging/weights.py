"""The weights of a LoggedModel: brought there without a copy where that can be, and found again.

`log_model` copies what it is given twice: to a folder of its own, and from there to the store. So it is
given everything but the weights, which are then hard-linked into a local store, or uploaded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from slmflow import downloads
from slmflow.artifacts import folder_of, local_path
from slmflow.errors import SlmflowError, first_line
from slmflow.files import files_under, link_or_copy
from slmflow.tracking import raise_problem, uploading

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = (".onnx", ".safetensors")
SHARED = (*WEIGHTS, ".data", ".onnx_data")
"""Files that are linked into a LoggedModel; the small ones go the way of MLflow's own copies."""
MLMODEL = "MLmodel"


def without_weights(source: Path, staged: Path) -> list[Path]:
    """Link or copy a folder's files to `staged`, except its weights, which are returned."""
    staged.mkdir(parents=True, exist_ok=True)
    files = files_under(source)
    for path in files:
        if path.suffix not in SHARED:
            link_or_copy(path, staged / path.relative_to(source))
    return [path for path in files if path.suffix in SHARED]


def add_weights(model_id: str, source: Path, weights: list[Path], inside: str, scratch: Path) -> None:
    """Bring the weights of `source` to `inside` of a LoggedModel, and put the true size into its MLmodel.

    Says so where they had to be copied: another file system, or one without hard links.
    """
    client = MlflowClient()
    location = client.get_logged_model(model_id).artifact_location
    folder = folder_of(location)
    target = folder if folder is not None else scratch / "upload"
    copied = 0
    for path in weights:
        if not link_or_copy(path, target / inside / path.relative_to(source)):
            copied += path.stat().st_size
    if folder is None:
        link_or_copy(local_path(f"{location}/{MLMODEL}"), target / MLMODEL)
    card = Model.load(str(target / MLMODEL))
    card.model_size_bytes = (card.model_size_bytes or 0) + sum(path.stat().st_size for path in weights)
    card.save(str(target / MLMODEL))
    if folder is None:
        with uploading():
            client.log_model_artifacts(model_id, str(target))
        for path in files_under(target):
            downloads.sent(f"{location}/{path.relative_to(target).as_posix()}", path)
    elif copied:
        print(f"  {copied / 1e6:.0f} MB were copied: the store's file system does not take hard links")


def location_of(model_id: str) -> str:
    """The artifact URI of a LoggedModel. Raises SlmflowError when there is none."""
    try:
        return str(MlflowClient().get_logged_model(model_id).artifact_location)
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"models:/{model_id}: {first_line(error)}; log it again") from None


def weights_of(model_id: str) -> Path:
    """The folder of a LoggedModel: the stored one itself where the store is local, else downloaded.

    Raises SlmflowError when it has no weights: a version without them would register without a word.
    """
    try:
        folder = local_path(location_of(model_id))
    except SlmflowError as error:
        raise SlmflowError(f"models:/{model_id}: {first_line(error)}; log it again") from None
    refuse_weightless(model_id, folder)
    return folder


def refuse_weightless(model_id: str, folder: Path) -> None:
    """Raise SlmflowError when a LoggedModel's folder has no weights."""
    if not any(path.suffix in WEIGHTS and path.stat().st_size for path in files_under(folder)):
        raise SlmflowError(f"models:/{model_id}: has no weights ({' or '.join(WEIGHTS)}); log it again")
