"""The config.json of a model that is not here yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.config import HubSource, LocalSource
from slmflow.files import read_json

if TYPE_CHECKING:
    from slmflow.config import SourceConfig


def config_before(source: SourceConfig) -> dict[str, Any] | None:
    """As it will be fetched; None for sources that tell nothing before they are, and for a GGUF file.

    Raises SlmflowError where the source leads nowhere.
    """
    if isinstance(source, HubSource):
        from slmflow.sources.hub import config_of

        return config_of(source)
    if isinstance(source, LocalSource):
        from slmflow.sources.local import files_of

        for path in files_of(source):
            if path.name == "config.json":
                found: dict[str, Any] = read_json(path)
                return found
    return None
