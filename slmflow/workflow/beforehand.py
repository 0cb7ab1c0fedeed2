"""What is refused before any step is launched, because it could only fail later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmflow.config.backend import LocalBackendConfig
from slmflow.environments.exporters import refuse_without_environment
from slmflow.errors import SlmflowError
from slmflow.export.supported import refuse_unsupported
from slmflow.sources.preview import config_before
from slmflow.workflow.item import Item, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slmflow.config import SourceConfig


def refuse_beforehand(items: Iterable[Item]) -> None:
    """Raise SlmflowError for what could only fail later.

    That is a plan with a blocked step, a model that its exporter has no right graph of, or an exporter whose
    environment is out of reach.
    Whether a remote machine can make that environment is not known here: the step says so there.
    """
    asked = set()
    for item in items:
        if item.state is State.blocked:
            raise SlmflowError(f"{item.name} is blocked: {item.reason}")
        config = item.composition.config
        name = getattr(config.export, "environment", None)
        runs_here = isinstance(config.backend, LocalBackendConfig)
        if item.node.step == "export_onnx" and item.state is State.run and runs_here and name:
            asked.add(str(name))
        if item.node.step == "export_onnx" and item.upstream["fetch_run"].state is State.run:
            refuse_model(config.export.exporter, config.model.source)
    for name in sorted(asked):
        refuse_without_environment(name)


def refuse_model(exporter: str, source: SourceConfig) -> None:
    """Raise SlmflowError where the config.json of what is to be fetched tells that the export will fail."""
    if (config := config_before(source)) is not None:
        refuse_unsupported(exporter, config)
