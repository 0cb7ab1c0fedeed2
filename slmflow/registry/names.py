"""Names in the registry: of models, and of tags where a registry takes fewer characters."""

from __future__ import annotations

import re

from slmflow.errors import SlmflowError

CATALOG_TAG_LENGTH = 1000
"""Characters of a tag's value in Unity Catalog, as Databricks documents them."""


def registered_name(model: str, candidate: str, registry: str) -> str:
    """`<model>-<candidate>`, checked against the registry that its URI names.

    In Unity Catalog a name has three parts, `catalog.schema.model`, none with a dot of its own. Raises
    SlmflowError when `model` is not of that form there, and for the open Unity Catalog, whose client in
    MLflow 3.17.2 (uc_oss_rest_store.py) implements neither aliases nor tags.
    """
    if re.match(r"uc(:|$)", registry):
        raise SlmflowError(
            f"MLFLOW_REGISTRY_URI={registry}: MLflow sets no aliases and no tags in the open Unity Catalog; "
            "name databricks-uc, a server, or a database"
        )
    if is_catalog(registry) and not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", model):
        raise SlmflowError(
            f"model.name={model}: Unity Catalog ({registry}) takes three parts without further dots; "
            "give backend.schema=<catalog>.<schema>, or the whole model.name"
        )
    return f"{model}-{candidate}"


def is_catalog(registry: str) -> bool:
    """Whether a registry URI names the Unity Catalog of Databricks."""
    return re.match(r"databricks-uc(:|$)", registry) is not None


def registry_tags(tags: dict[str, str], registry: str) -> dict[str, str]:
    """Tags as the registry takes them.

    Unity Catalog has no `. , - = / :` in keys and no long values: such characters become `_`, and what is
    too long (gate.json, which the run keeps too) is left out.
    """
    if not is_catalog(registry):
        return tags
    return {tag_key(key, registry): value for key, value in tags.items() if len(value) <= CATALOG_TAG_LENGTH}


def tag_key(key: str, registry: str) -> str:
    """One key of a tag as the registry takes it."""
    return re.sub(r"[.,\-=/: ]", "_", key) if is_catalog(registry) else key
