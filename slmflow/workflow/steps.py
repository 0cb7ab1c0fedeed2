"""The steps: what each needs, which part of the configuration it reads, and what its result depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slmflow.config.export import RUNTIMES
from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from slmflow.config import Config

Distributions = Callable[["Config"], tuple[str, ...]]


@dataclass(frozen=True)
class Step:
    """One entry point of the project, as the cache sees it."""

    name: str
    version: str
    """Raise it when the step shall be done again although none of its other ingredients shows why."""
    inputs: dict[str, tuple[str, ...]]
    """Upstream parameter to the steps whose runs it accepts; each takes the id of one finished run."""
    config: tuple[str, ...]
    """The keys of the resolved configuration that the step reads; all below them count."""
    ignored: tuple[str, ...]
    """Keys below those that do not change the result: what they name is in the key by its content."""
    distributions: Distributions
    """Installed distributions whose version can change the result, and folders of `environments/`."""
    content: tuple[str, ...]
    """Patterns of the artifacts that a repetition must make again byte by byte; all else is record."""
    of_model: tuple[str, ...] = ()
    """Upstream parameters that stand for one LoggedModel, not only for its content."""
    ships: tuple[str, ...] = ()
    """Patterns of the project's files that the step reads instead of importing them."""
    of_machine: bool = False
    """Whether the machine is part of the key, as the result holds times and memory."""


def _fetches(config: Config) -> tuple[str, ...]:
    reads = ("gguf", "numpy", "safetensors", "tokenizers")
    computes = config.model.source.kind == "random" or config.model.adapter.given
    return (*reads, "torch", "transformers") if computes else reads


def _exports(config: Config) -> tuple[str, ...]:
    proofs = (
        "onnx",
        *RUNTIMES[config.export.provider.value],
        "numpy",
        "torch",
        "transformers",
        "tokenizers",
        "jinja2",
    )
    exporters = {
        "genai": ("onnx-ir",),
        "gguf": ("onnx-ir", "gguf"),
        "optimum": ("environments/optimum",),
        "traced": ("onnx-ir", "onnxscript"),
        "prebuilt": (),
    }
    return (*proofs, *exporters[config.export.exporter])


def _constant(*names: str) -> Distributions:
    return lambda config: names


_FROM_FETCH: dict[str, tuple[str, ...]] = {"fetch_run": ("fetch",)}

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            name="fetch",
            version="1",
            inputs={},
            config=("model.source", "model.adapter", "model.licence", "model.base"),
            # Where it is and which branch it was: the key has the commit or digest that they led to.
            ignored=(
                "model.source.digest",
                "model.source.revision",
                "model.source.path",
                "model.source.uri",
                "model.adapter.digest",
                "model.adapter.revision",
                "model.adapter.path",
                "model.adapter.uri",
            ),
            distributions=_fetches,
            content=(
                "source/*",
                "adapter/*",
                "base/*",
                "huggingface/*",
                "base_huggingface/*",
                "manifest.json",
                "base_manifest.json",
            ),
        ),
        Step(
            name="export_onnx",
            version="1",
            inputs=_FROM_FETCH,
            config=("export",),
            ignored=(),
            distributions=_exports,
            content=("onnx/*", "export.json"),
            ships=("slmflow/data/calibration.txt",),
        ),
        Step(
            name="log_pipeline",
            version="1",
            inputs=_FROM_FETCH,
            config=("model.name",),
            ignored=(),
            distributions=_constant(
                "mlflow", "transformers", "torch", "tokenizers", "safetensors", "accelerate"
            ),
            content=("model/model/*", "model/components/*", "model/requirements.txt"),
        ),
        Step(
            name="log_onnx",
            version="1",
            inputs={"export_run": ("export_onnx",)},
            config=("model.name", "package"),
            ignored=(),
            distributions=_constant(
                "mlflow", "onnxruntime-genai", "onnxruntime", "numpy", "tokenizers", "jinja2", "llguidance"
            ),
            content=("model/artifacts/*", "model/code/*", "model/chat_model.py", "model/requirements.txt"),
            ships=("slmflow/models/chat_model.py", "slmflow/models/slm_runtime/*.py"),
        ),
        Step(
            name="evaluate",
            version="1",
            inputs={"logged_run": ("log_onnx", "log_pipeline"), "reference_run": ("evaluate",)},
            config=("evaluate",),
            ignored=("evaluate.text", "evaluate.items"),  # their content is in the key
            distributions=_constant(
                "mlflow", "onnxruntime-genai", "onnxruntime", "numpy", "tokenizers", "torch", "transformers"
            ),
            content=("reference/*",),
            of_model=("logged_run",),
            of_machine=True,
        ),
        Step(
            name="register",
            version="1",
            inputs={"onnx_run": ("evaluate",), "pipeline_run": ("evaluate",)},
            config=("model.name", "gate"),
            ignored=(),
            distributions=_constant(),
            content=(),
            of_model=("onnx_run", "pipeline_run"),
        ),
    )
}

OPTIONAL_INPUTS = ("reference_run", "pipeline_run")
"""Empty for the pipeline, which makes the reference itself, and for a prebuilt model without a base."""


def upstream_ids(step: str, arguments: dict[str, str]) -> dict[str, str]:
    """The upstream ids among an entry point's arguments, without the empty ones; none for a driver.

    Raises SlmflowError when some that the step needs are given and others are not.
    """
    inputs = STEPS[step].inputs
    ids = {name: arguments[name] for name in inputs if arguments.get(name)}
    missing = [name for name in inputs if name not in ids and name not in OPTIONAL_INPUTS]
    if ids and missing:
        raise SlmflowError(f"{', '.join(ids)} is given, but {missing[0]} is not: give both, or neither")
    return ids
