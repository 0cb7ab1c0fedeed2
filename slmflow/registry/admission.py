"""What may be registered at all, in every mode of the gate."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError, first_line
from slmflow.registry.names import is_catalog, registered_name

if TYPE_CHECKING:
    from slmflow.config import Config, GateConfig

UNKNOWN = "unknown"


def refuse_early(config: Config, registry: str) -> None:
    """Raise SlmflowError for a licence or a name that could not be registered, before any work is done.

    A licence that the configuration does not know is judged once the weights are there: a GGUF file may state
    it.
    """
    name = registered_name(config.model.name, "onnx", registry)
    if is_catalog(registry):
        refuse_absent_schema(name, registry)
    if config.model.licence != UNKNOWN:
        refuse_licence(config.model.licence, config.gate)


def refuse_absent_schema(name: str, registry: str) -> None:
    """Raise SlmflowError unless Unity Catalog has the schema of a model's name for this user to see."""
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.errors import NotFound, PermissionDenied

    schema = name.rpartition(".")[0]
    try:
        WorkspaceClient(profile=registry.partition("://")[2] or None).schemas.get(schema)
    except (NotFound, PermissionDenied) as error:
        raise SlmflowError(
            f"model.name={name.rpartition('-')[0]}: Unity Catalog has no schema {schema} for this user "
            f"({first_line(error)}); name another, or let its owner grant USE SCHEMA and CREATE MODEL"
        ) from None


def refuse_licence(licence: str | None, gate: GateConfig) -> None:
    """Raise SlmflowError unless a licence is in `gate.licences`, in any case of letters."""
    stated = licence or UNKNOWN
    if stated.lower() not in {allowed.lower() for allowed in gate.licences}:
        raise SlmflowError(
            f"licence {stated} is not in gate.licences, nothing is registered: accept it with "
            f"-P {shlex.quote(f'gate.licences=+{stated}')}, or correct model.licence"
        )
