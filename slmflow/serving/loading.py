"""Which backend a packaged model wants, and the model loaded into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from slmflow.serving.backend import Backend


def load_backend(uri: str, engine: str = "", *, tracing: bool | None = None) -> Backend:
    """Load an MLflow model: our ONNX model, or the transformers pipeline with the chat task.

    Without `engine` and `tracing` as it was logged.

    Raises SlmflowError for another flavour, and MLflow's own errors.
    """
    import mlflow
    from mlflow.models import Model

    flavours = Model.load(uri).flavors
    if "transformers" in flavours:
        from slmflow.serving.pipeline_backend import PipelineBackend

        return PipelineBackend(uri)
    if "python_function" not in flavours:
        raise SlmflowError(f"a model of flavour {', '.join(flavours)}: serve one that slmflow packaged")
    config = ({"engine": engine} if engine else {}) | ({} if tracing is None else {"tracing": tracing})
    model = mlflow.pyfunc.load_model(uri, model_config=config or None)
    try:
        packaged = model.unwrap_python_model()
    except mlflow.MlflowException:
        packaged = None
    if not hasattr(packaged, "runtime"):
        raise SlmflowError("its packaged class is not slmflow's, or an older one: log the model anew")
    from slmflow.serving.onnx_backend import OnnxBackend

    return OnnxBackend(packaged, model)
