"""The files of a LoggedModel."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from slmflow.errors import SlmflowError
from slmflow.files import files_under

WEIGHTS = (".onnx", ".safetensors")


def weights_of(model_id: str) -> Path:
    """The folder of a LoggedModel: the stored one itself where the store is local.

    Raises SlmflowError when it has no weights: a version without them would register without a word.
    """
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{model_id}"))
    except (MlflowException, OSError) as error:
        raise SlmflowError(f"models:/{model_id}: {str(error).splitlines()[0]}; log it again") from None
    if not any(path.suffix in WEIGHTS and path.stat().st_size for path in files_under(folder)):
        raise SlmflowError(f"models:/{model_id}: has no weights ({' or '.join(WEIGHTS)}); log it again")
    return folder
