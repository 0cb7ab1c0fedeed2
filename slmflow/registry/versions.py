"""Versions of registered models, told apart by what they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
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
    logged_run: str
    """The run that logged the version's model."""


def register(
    name: str,
    model_id: str,
    run_id: str,
    tags: dict[str, str],
    description: str,
    alias: str,
    is_intact: Callable[[ModelVersion], bool],
) -> Registered:
    """Make sure that the registry has this content under `name`, with `alias` on it.

    A version whose fingerprint tag is the same holds the same content: it is kept, with the evidence
    that it was registered on, unless the gate says something else of it today. A `challenger` that
    becomes `champion` is challenger no more. A version whose model is not intact is passed over: the
    content gets a new one. Where another host made the same version meanwhile, the lower number stays.
    """
    client = MlflowClient()
    version = find(client, name, tags[FINGERPRINT_TAG], is_intact)
    created = version is None
    if version is None:
        _ensure_model(client, name)
        version = client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run_id,
            tags=tags,
            description=description,
            model_id=model_id,
        )
        first = find(client, name, tags[FINGERPRINT_TAG], is_intact)
        if first is not None and int(first.version) < int(version.version):
            client.delete_model_version(name, version.version)
            version, created = first, False
    if not created and version.tags.get("gate") != tags["gate"]:
        for key, value in tags.items():
            client.set_model_version_tag(name, version.version, key, value)
        client.update_model_version(name, version.version, description)
    number = str(version.version)
    if alias and alias_target(client, name, alias) != number:
        client.set_registered_model_alias(name, alias, number)
    if alias == "champion" and alias_target(client, name, "challenger") == number:
        client.delete_registered_model_alias(name, "challenger")
    return Registered(name, number, alias, created, str(version.run_id))


def find(
    client: MlflowClient, name: str, fingerprint: str, is_intact: Callable[[ModelVersion], bool]
) -> ModelVersion | None:
    """The oldest version of `name` with this content whose model is intact, if there is one."""
    found = client.search_model_versions(f"name = '{name}' and tag.`{FINGERPRINT_TAG}` = '{fingerprint}'")
    found = sorted(found, key=lambda version: int(version.version))
    return next((version for version in found if is_intact(version)), None)


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
