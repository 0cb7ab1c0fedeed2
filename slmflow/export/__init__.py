"""From what was fetched to a genai folder: one module per exporter, all with one shape."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import ExportConfig

MODULES = {
    "genai": "slmflow.export.genai",
    "gguf": "slmflow.export.gguf",
    "optimum": "slmflow.export.optimum_onnx",
    "traced": "slmflow.export.traced",
    "prebuilt": "slmflow.export.prebuilt",
}


@dataclass(frozen=True)
class Codes:
    """A folder of quantised weights as they were published, which an export can take as they are."""

    kind: str
    """`awq`, `gptq` or `gguf`."""
    folder: Path


class Exporter(Protocol):
    """A module that writes a genai folder."""

    def export(
        self, config: ExportConfig, source: Path, codes: Codes | None, folder: Path, scratch: Path
    ) -> dict[str, str]:
        """Write `folder` from the Hugging Face folder `source` or, where they suit, from its `codes`.

        Returns the exporter's options and versions as text.
        """


def export_folder(
    config: ExportConfig, source: Path, folder: Path, scratch: Path, codes: Codes | None = None
) -> dict[str, str]:
    """Run the exporter that the variant names. Raises SlmflowError when what it wrote is no genai folder."""
    exporter: Exporter = import_module(MODULES[config.exporter])
    record = exporter.export(config, source, codes, folder, scratch)
    for name in ("genai_config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise SlmflowError(f"exporter {config.exporter} left no {name}: the folder cannot be served")
    return record
