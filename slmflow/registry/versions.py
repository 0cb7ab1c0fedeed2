"""Versions of registered models, told apart by what they hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from slmflow.registry.aliases import CHALLENGER, CHAMPION, ROLLED_BACK_TAG, Intact, promote, standing
from slmflow.registry.names import is_catalog, registry_tags, tag_key
from slmflow.workflow.locks import held

FINGERPRINT_TAG = "slmflow.fingerprint"


@dataclass(frozen=True)
class Content:
    """What is to be registered, with the evidence for it."""

    name: str
    """The registered model's name."""
    model_id: str
    run_id: str
    """The run that logged the model."""
    tags: dict[str, str]
    """Among them FINGERPRINT_TAG, and `gate`, the gate's word."""
    description: str


@dataclass(frozen=True)
class Registered:
    """One version as it stands in the registry."""

    name: str
    version: str
    alias: str
    """`champion` or `challenger`; empty for neither."""
    created: bool
    """False when the same content was registered before."""
    logged_run: str
    """The run that logged the version's model."""
    rolled_back: str = ""
    """When somebody rolled it back, and so why it is not promoted; empty for never."""

    def as_dict(self) -> dict[str, str | bool]:
        """For `gate.json`."""
        return asdict(self)


@contextlib.contextmanager
def registry_lock(name: str) -> Iterator[None]:
    """Keep this host's other processes from this registered model."""
    with held(f"registry {mlflow.get_registry_uri()} {name}"):
        yield


def register(content: Content, champion: str | None, is_intact: Intact, *, promotes: bool) -> Registered:
    """Make sure that the registry has this content; as champion where it is promoted, else as challenger.

    A version whose fingerprint tag is the same holds the same content: it is kept, with the evidence that
    it was registered on, unless the gate says something else of it today. A version whose model is not
    intact is passed over: the content gets a new one. Where another host made the same version meanwhile,
    the lower number stays. A champion stays champion, and what was rolled back is promoted by hand only.

    `champion` is the one that the decision was made on. Raises Moved when there is another one now.
    """
    client, name = MlflowClient(), content.name
    version, created = _ensure_version(client, content, is_intact)
    number, rolled_back = str(version.version), rolled_back_of(client, version)
    now = standing(client, name)
    if not rolled_back and number != now.champion:
        if now.challenger != number:
            client.set_registered_model_alias(name, CHALLENGER, number)
        if promotes:
            promote(client, name, number, champion, is_intact)
    now = standing(client, name)
    places = {CHAMPION: now.champion, CHALLENGER: now.challenger}
    alias = next((alias for alias, place in places.items() if place == number), "")
    return Registered(name, number, alias, created, str(version.run_id), rolled_back)


def find(client: MlflowClient, name: str, fingerprint: str, is_intact: Intact) -> ModelVersion | None:
    """The oldest version of `name` with this content whose model is intact, if there is one."""
    return next((version for version in _of_content(client, name, fingerprint) if is_intact(version)), None)


def _of_content(client: MlflowClient, name: str, fingerprint: str) -> list[ModelVersion]:
    """Every version with this content, intact or not, oldest first."""
    key = tag_key(FINGERPRINT_TAG, mlflow.get_registry_uri())
    return [version for version in versions_of(client, name) if version.tags.get(key) == fingerprint]


def rolled_back_of(client: MlflowClient, version: ModelVersion) -> str:
    """When a version's content was rolled back; empty for never, or if it was promoted by hand since.

    Its own mark counts, and that of the newest version of the content: one that was made for damaged files
    takes the mark over, and may have been promoted since.
    """
    if own := version.tags.get(ROLLED_BACK_TAG):
        return str(own)
    fingerprint = version.tags.get(tag_key(FINGERPRINT_TAG, mlflow.get_registry_uri()))
    newest = [version] if fingerprint is None else _of_content(client, version.name, fingerprint) or [version]
    return str(newest[-1].tags.get(ROLLED_BACK_TAG, ""))


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a registered model with its tags, oldest first.

    Searched by the name alone, and in Unity Catalog asked for one by one: the search there
    takes one condition, and its answers raise when they are asked for tags.
    """
    bare = is_catalog(mlflow.get_registry_uri())
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += [client.get_model_version(name, v.version) if bare else v for v in page]
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def _ensure_version(client: MlflowClient, content: Content, is_intact: Intact) -> tuple[ModelVersion, bool]:
    """The version with this content and today's evidence, and whether it was made now."""
    name, fingerprint = content.name, content.tags[FINGERPRINT_TAG]
    tags = registry_tags(content.tags, mlflow.get_registry_uri())
    version = find(client, name, fingerprint, is_intact)
    created = version is None
    if version is None:
        _ensure_model(client, name)
        if damaged := _of_content(client, name, fingerprint):
            tags |= {tag: value for tag, value in damaged[-1].tags.items() if tag == ROLLED_BACK_TAG}
        version = client.create_model_version(
            name,
            source=f"models:/{content.model_id}",
            run_id=content.run_id,
            tags=tags,
            description=content.description,
            model_id=content.model_id,
        )
        first = find(client, name, fingerprint, is_intact)
        if first is not None and int(first.version) < int(version.version):
            client.delete_model_version(name, version.version)
            version, created = first, False
    if not created and version.tags.get("gate") != tags["gate"]:
        for key, value in tags.items():
            if key != "gate":
                client.set_model_version_tag(name, version.version, key, value)
        client.update_model_version(name, version.version, content.description)
        # Last: while it is the old one, whoever comes next writes all of it again.
        client.set_model_version_tag(name, version.version, "gate", tags["gate"])
    return version, created


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
