"""The ONNX candidate as a pyfunc model: code by path, explicit signature, no torch."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array, Map

from slmflow.config.export import RUNTIMES
from slmflow.files import files_under, link_or_copy
from slmflow.models.slm_runtime.fields import IGNORED, SAMPLING, SHAPES
from slmflow.packaging import pinned
from slmflow.packaging.weights import add_weights, without_weights

if TYPE_CHECKING:
    from slmflow.config import PackageConfig

MODELS = Path(__file__).resolve().parent.parent / "models"
SHIPPED = r"(chat_model|slm_runtime/\w+)\.py"
"""The files below MODELS that travel with the model."""
EXAMPLES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "The capital of Spain is"},
    "chat": {"messages": [{"role": "user", "content": "What is the capital of Spain?"}], "max_tokens": 32},
}


def requirements(provider: str) -> list[str]:
    """All that a served model needs, as installed here; torch and transformers are not among it."""
    return pinned("mlflow", *RUNTIMES[provider], "numpy", "tokenizers", "jinja2", "llguidance")


def signature() -> ModelSignature:
    """A prompt or a chat, with sampling parameters per row.

    AnyType keeps null as None and admits `stop` as text or list, where the typed chat signature turns
    null into NaN and answers 400 to a plain string.
    """
    anything = AnyType()
    inputs = [
        ColSpec(DataType.string, "prompt", required=False),
        ColSpec(Array(Map(anything)), "messages", required=False),
        *(ColSpec(anything, name, required=False) for name in (*SAMPLING, *SHAPES, *IGNORED)),
    ]
    params = ParamSchema([ParamSpec("requests", DataType.string, "rows")])
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec(anything)]), params=params)


def model_config(name: str, package: PackageConfig, engines: Sequence[str]) -> dict[str, Any]:
    """What the packaged model is told when it is loaded: every key, for MLflow overrides known ones only."""
    wanted = package.engine.value
    if wanted == "auto":
        wanted = "continuous" if "continuous" in engines else "generate"
    # "model" would collide with the run's parameter of that name.
    return {"served_name": name, **asdict(package), "engine": wanted}


def log_onnx_model(
    folder: Path,
    name: str,
    package: PackageConfig,
    scratch: Path,
    metadata: dict[str, Any],
    provider: str = "cpu",
    engines: Sequence[str] = ("generate",),
) -> str:
    """Log the folder with the runtime that serves it; returns the LoggedModel's id.

    `engines` are those that the export proved.

    Nothing is loaded: without an input example MLflow neither runs nor pickles the model. MLflow writes
    the paths that it is given into the model, so it is given names in a folder of their own.
    """
    staged = scratch / "staged"
    weights = without_weights(folder, staged / "onnx")
    for path in files_under(MODELS):
        if re.match(SHIPPED, path.relative_to(MODELS).as_posix()):
            link_or_copy(path, staged / path.relative_to(MODELS))
    # MLflow executes the code once to see that it sets a model, before its own copy is on the path.
    if str(MODELS) not in sys.path:
        sys.path.append(str(MODELS))
    with contextlib.chdir(staged):
        info = mlflow.pyfunc.log_model(
            name="onnx",
            python_model="chat_model.py",
            code_paths=["slm_runtime"],
            artifacts={"onnx": "onnx"},
            signature=signature(),
            pip_requirements=requirements(provider),
            model_config=model_config(name, package, engines),
            metadata=metadata,
        )
    add_weights(str(info.model_id), folder, weights, "artifacts/onnx", scratch)
    return str(info.model_id)
