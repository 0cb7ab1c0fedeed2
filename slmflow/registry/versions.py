"""Versions of registered models, told apart by what they hold."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

FINGERPRINT_TAG = "slmflow.fingerprint"


@dataclass(frozen=True)
class Registered:
    """One version as it stands in the registry."""

    name: str
    version: str
    alias: str
    """The alias that this run gave or found; empty for none."""
    created: bool
    """False when the same content was registered before."""


def register(
    name: str, model_id: str, run_id: str, tags: dict[str, str], description: str, alias: str
) -> Registered:
    """Make sure that the registry has this content under `name`, with `alias` on it.

    A version whose fingerprint tag is the same holds the same content: it is kept as it is, with the
    evidence that it was registered on, and only the alias is moved, if it stands elsewhere.
    """
    client = MlflowClient()
    version = find(client, name, tags[FINGERPRINT_TAG])
    created = version is None
    if version is None:
        _ensure_model(client, name)
        made = client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run_id,
            tags=tags,
            description=description,
            model_id=model_id,
        )
        version = str(made.version)
    if alias and alias_target(client, name, alias) != version:
        client.set_registered_model_alias(name, alias, version)
    return Registered(name, version, alias, created)


def find(client: MlflowClient, name: str, fingerprint: str) -> str | None:
    """The newest version of `name` with this content, if there is one."""
    found = client.search_model_versions(f"name = '{name}' and tag.`{FINGERPRINT_TAG}` = '{fingerprint}'")
    return max((str(version.version) for version in found), key=int, default=None)


def alias_target(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version that an alias stands on, None when there is none."""
    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return None


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
