"""A Hugging Face folder from whatever was fetched: what exporters, pipeline and reference read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from pathlib import Path


def huggingface_folder(source: Path, scratch: Path) -> Path:
    """The source itself if it is a Hugging Face folder, else one made from its GGUF file in `scratch`.

    Raises SlmflowError for a folder that has neither.
    """
    if (source / "config.json").is_file() and any(source.glob("*.safetensors")):
        return source
    gguf_files = sorted(source.glob("*.gguf"))
    if len(gguf_files) == 1:
        from slmflow.sources.gguf_file import to_huggingface

        folder = scratch / "huggingface"
        to_huggingface(gguf_files[0], folder)
        return folder
    found = ", ".join(sorted(path.name for path in source.iterdir())[:6])
    raise SlmflowError(
        f"source holds neither config.json with safetensors nor one GGUF file: it holds {found}"
    )
