"""A Hugging Face folder from whatever was fetched: what exporters, pipeline and reference read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from slmflow.errors import SlmflowError
from slmflow.files import gguf_files, read_json
from slmflow.sources.packed import packed_method, unpack_folder
from slmflow.sources.text_part import does_more_than_text, take_text_part
from slmflow.sources.tokenizer_class import BY_THE_FILE, drops_rules, linked_by_the_file, name_the_file

if TYPE_CHECKING:
    from pathlib import Path


def codes_in(source: Path) -> str | None:
    """`awq`, `gptq` or `gguf` where the weights are codes that an export can take as they are, else None.

    Raises SlmflowError for a checkpoint that is quantised in another way.
    """
    if _is_huggingface(source):
        return packed_method(source)
    found = gguf_files(source)
    if len(found) > 1:
        raise SlmflowError(
            f"there are {len(found)} GGUF files, {', '.join(path.name for path in found[:4])}: name one, by "
            "model.source.path=/…/file.gguf or model.source.file="
        )
    return "gguf" if found else None


def make_huggingface(source: Path, folder: Path) -> Literal["source", "made", "none"]:
    """Make a Hugging Face folder of a GGUF file or of packed codes, once, for every later step.

    Returns `source` where the source is such a folder already, `made` where `folder` was made from its
    GGUF file, of its AWQ or GPTQ codes, of the text part of a model that does more, or of links where
    transformers would leave out rules of its tokenizer, and `none` where it is another thing (a finished ONNX
    folder).
    Raises SlmflowError for a GGUF file or a quantised checkpoint that cannot be read.
    """
    codes = codes_in(source)
    if codes == "gguf":
        from slmflow.gguf.huggingface import to_huggingface

        to_huggingface(gguf_files(source)[0], folder)
    elif codes:
        unpack_folder(source, folder)
        if drops_rules(folder):
            name_the_file(folder)
    elif not _is_huggingface(source):
        return "none"
    elif does_more_than_text(read_json(source / "config.json")):
        take_text_part(source, folder)
        if drops_rules(folder):
            name_the_file(folder)
        return "made"
    elif drops_rules(source):
        print(f"  its tokenizer_class would leave out rules of tokenizer.json: {BY_THE_FILE} reads them all")
        linked_by_the_file(source, folder)
        return "made"
    return "made" if codes else "source"


def _is_huggingface(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
