"""What may be registered at all, in every mode of the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError
from slmflow.registry.names import registered_name

if TYPE_CHECKING:
    from slmflow.config import Config, GateConfig

UNKNOWN = "unknown"


def refuse_early(config: Config, registry: str) -> None:
    """Raise SlmflowError for a licence or a name that could not be registered, before any work is done.

    A licence that the configuration does not know is left to `register`: a GGUF file may state it.
    """
    registered_name(config.model.name, "onnx", registry)
    if config.model.licence != UNKNOWN:
        refuse_licence(config.model.licence, config.gate)


def refuse_licence(licence: str | None, gate: GateConfig) -> None:
    """Raise SlmflowError unless a licence is in `gate.licences`, in any case of letters."""
    stated = licence or UNKNOWN
    if stated.lower() not in {allowed.lower() for allowed in gate.licences}:
        raise SlmflowError(
            f"licence {stated} is not in gate.licences, nothing is registered: correct model.licence, "
            "or add it there"
        )
