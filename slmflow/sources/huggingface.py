"""A Hugging Face folder from whatever was fetched: what exporters, pipeline and reference read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from slmflow.sources.packed import packed_method, unpack_folder

if TYPE_CHECKING:
    from pathlib import Path


def make_huggingface(source: Path, folder: Path) -> Literal["source", "made", "none"]:
    """Make a Hugging Face folder of a GGUF file or of packed codes, once, for every later step.

    Returns `source` where the source is such a folder already, `made` where `folder` was made from its
    GGUF file or its AWQ or GPTQ codes, and `none` where it is another thing (a finished ONNX folder).
    Raises SlmflowError for a GGUF file or a quantised checkpoint that cannot be read.
    """
    if packed_method(source):
        unpack_folder(source, folder)
        return "made"
    if (source / "config.json").is_file() and any(source.glob("*.safetensors")):
        return "source"
    gguf_files = sorted(source.glob("*.gguf"))
    if len(gguf_files) != 1:
        return "none"
    from slmflow.sources.gguf_file import to_huggingface

    to_huggingface(gguf_files[0], folder)
    return "made"
