"""The files of a LoggedModel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from slmflow.artifacts import local_path
from slmflow.errors import SlmflowError, first_line
from slmflow.files import files_under

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = (".onnx", ".safetensors")


def weights_of(model_id: str) -> Path:
    """The folder of a LoggedModel: the stored one itself where the store is local.

    Raises SlmflowError when it has no weights: a version without them would register without a word.
    """
    try:
        folder = local_path(MlflowClient().get_logged_model(model_id).artifact_location)
    except (MlflowException, SlmflowError) as error:
        raise SlmflowError(f"models:/{model_id}: {first_line(error)}; log it again") from None
    if not any(path.suffix in WEIGHTS and path.stat().st_size for path in files_under(folder)):
        raise SlmflowError(f"models:/{model_id}: has no weights ({' or '.join(WEIGHTS)}); log it again")
    return folder
