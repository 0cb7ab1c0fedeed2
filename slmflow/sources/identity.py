"""What a source's name leads to, found out before anything is fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slmflow.config import AdapterConfig, HubSource
from slmflow.errors import SlmflowError, first_line
from slmflow.files import canonical_digest, remembered_sha256, sha256_of
from slmflow.text import SHIPPED
from slmflow.tracking import raise_problem

if TYPE_CHECKING:
    from slmflow.config import LocalSource, SourceConfig


@dataclass(frozen=True)
class Identity:
    """The content that a source stands for."""

    content: dict[str, str]
    """Commit or digest; empty where the configuration itself says all (a wheel's version, a seed)."""
    pins: list[str] = field(default_factory=list)
    """Overrides that make the same source lead to the same content later."""


def identity_of(source: SourceConfig) -> Identity:
    """Resolve a branch, a path or an alias. Raises SlmflowError when it leads nowhere now."""
    match source.kind:
        case "hub":
            return _hub(source)  # type: ignore[arg-type]
        case "local":
            return _local(source)  # type: ignore[arg-type]
        case "mlflow":
            return _mlflow(source.uri, "model.source.uri")  # type: ignore[attr-defined]
        case "random":
            return Identity({"text": sha256_of(SHIPPED)})  # its tokenizer is trained on it
    return Identity({})


def adapter_identity(adapter: AdapterConfig) -> Identity:
    """The same of an adapter; nothing where there is none."""
    if adapter.repo:
        found = _hub(HubSource(repo=adapter.repo, revision=adapter.revision))
        return Identity(
            {"adapter.commit": found.content["commit"]},
            [pin.replace("model.source.", "model.adapter.") for pin in found.pins],
        )
    if adapter.path:
        from slmflow.sources.adapter import files_of

        digests = {path.name: remembered_sha256(path) for path in files_of(adapter)}
        return Identity({"adapter.digest": canonical_digest(digests)})
    if adapter.uri:
        found = _mlflow(adapter.uri, "model.adapter.uri")
        return Identity({f"adapter.{name}": value for name, value in found.content.items()}, found.pins)
    return Identity({})


def _hub(source: HubSource) -> Identity:
    if re.fullmatch(r"[0-9a-f]{40}", source.revision):
        return Identity({"commit": source.revision})
    from slmflow.sources.hub import resolve

    commit, _ = resolve(source)
    return Identity({"commit": commit}, [f"model.source.revision={commit}"])


def _local(source: LocalSource) -> Identity:
    from slmflow.sources.local import files_of

    digests = {path.name: remembered_sha256(path) for path in files_of(source)}
    return Identity({"digest": canonical_digest(digests)})


def _mlflow(uri: str, field: str) -> Identity:
    if not uri.startswith("models:/") or uri.startswith("models:/m-"):
        return Identity({"uri": uri})
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    name, _, rest = uri.removeprefix("models:/").partition("/")
    client = MlflowClient()
    try:
        if not rest and "@" in name:
            name, _, alias = name.partition("@")
            found = client.get_model_version_by_alias(name, alias)
        else:
            found = client.get_model_version(name, rest)
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"{field}={uri}: {first_line(error)}") from None
    pinned = f"models:/{name}/{found.version}"
    return Identity({"uri": pinned, "model": str(found.source)}, [f"{field}={pinned}"])
