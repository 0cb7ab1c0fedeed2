"""From a Hugging Face folder to a genai folder: one module per exporter, all with one shape."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import ExportConfig

MODULES = {
    "genai": "slmflow.export.genai",
    "optimum": "slmflow.export.optimum_onnx",
    "prebuilt": "slmflow.export.prebuilt",
}


class Exporter(Protocol):
    """A module that writes a genai folder."""

    def export(self, config: ExportConfig, source: Path, folder: Path, scratch: Path) -> dict[str, str]:
        """Write `folder` from the fetched `source`; returns the exporter's options and versions as text."""


def export_folder(config: ExportConfig, source: Path, folder: Path, scratch: Path) -> dict[str, str]:
    """Run the exporter that the variant names. Raises SlmflowError when what it wrote is no genai folder."""
    exporter: Exporter = import_module(MODULES[config.exporter])
    record = exporter.export(config, source, folder, scratch)
    for name in ("genai_config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise SlmflowError(f"exporter {config.exporter} left no {name}: the folder cannot be served")
    return record
