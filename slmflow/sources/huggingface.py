"""A Hugging Face folder from whatever was fetched: what exporters, pipeline and reference read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path


def make_huggingface(source: Path, folder: Path) -> Literal["source", "made", "none"]:
    """Make a Hugging Face folder of a GGUF file, once, for every later step.

    Returns `source` where the source is such a folder already, `made` where `folder` was made from its
    GGUF file, and `none` where it is another thing (a finished ONNX folder). Raises SlmflowError for a
    GGUF file that cannot be read.
    """
    if (source / "config.json").is_file() and any(source.glob("*.safetensors")):
        return "source"
    gguf_files = sorted(source.glob("*.gguf"))
    if len(gguf_files) != 1:
        return "none"
    from slmflow.sources.gguf_file import to_huggingface

    to_huggingface(gguf_files[0], folder)
    return "made"
