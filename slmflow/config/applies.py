"""Whether an export can be made of a model at all, as far as the configuration tells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmflow.config import Config
    from slmflow.config.source import SourceConfig


def reason_against(config: Config, *, guess: bool) -> str:
    """Why the export cannot be made of the model; empty where it can, or where only the work would show.

    `guess` takes a repository of a hub for one without GGUF unless its name or its file says otherwise: for
    a list of exports that nobody wrote for this model.
    """
    if config.export.exporter != "gguf":
        return ""
    if config.model.adapter.given:
        return "an adapter changes the codes of a GGUF file"
    return "" if _may_be_gguf(config.model.source, guess=guess) else "the model is no GGUF file"


def _may_be_gguf(source: SourceConfig, *, guess: bool) -> bool:
    if source.kind == "random":
        return False
    named = str(getattr(source, "member", "") or getattr(source, "file", ""))
    if named:
        return named.lower().endswith(".gguf")
    if source.kind == "hub":
        return not guess or "gguf" in str(getattr(source, "repo", "")).lower()
    path = Path(str(getattr(source, "path", "")))
    if source.kind == "local" and path.is_dir():
        return any(entry.name.lower().endswith(".gguf") for entry in path.iterdir())
    return source.kind != "local" or not path.is_file() or path.name.lower().endswith(".gguf")
