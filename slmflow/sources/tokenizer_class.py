"""Whether the class that a folder names for its tokenizer reads tokenizer.json, or makes rules of its own.

transformers 4 read tokenizer.json for every fast class. transformers 5 makes the rules of some classes anew
from the vocabulary: a folder like SmolLM2's, whose class is GPT2Tokenizer and whose tokenizer.json splits
digits one by one, then gives other ids than the model was trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.files import files_under, link_or_copy, read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

BY_THE_FILE = "PreTrainedTokenizerFast"
"""The class that takes tokenizer.json as it is, in transformers 4 and 5."""
MADE_ANEW = ("GPT2Tokenizer", "GPT2TokenizerFast")
CONFIG = "tokenizer_config.json"


def drops_rules(folder: Path) -> bool:
    """Whether the class that the folder names would leave out rules of its tokenizer.json."""
    if not (folder / CONFIG).is_file() or not (folder / "tokenizer.json").is_file():
        return False
    if read_json(folder / CONFIG).get("tokenizer_class") not in MADE_ANEW:
        return False
    file: dict[str, Any] = read_json(folder / "tokenizer.json")
    before = file.get("pre_tokenizer") or {}
    plain = before.get("type") == "ByteLevel" and before.get("use_regex", True)
    return not plain or file.get("normalizer") is not None


def name_the_file(folder: Path) -> None:
    """Let the folder, which is ours, be read by its tokenizer.json."""
    said = read_json(folder / CONFIG)
    (folder / CONFIG).unlink()  # it may be a link to the source's
    write_json(folder / CONFIG, said | {"tokenizer_class": BY_THE_FILE})


def linked_by_the_file(source: Path, folder: Path) -> None:
    """Make `folder` of links to all that `source` has, but read by its tokenizer.json."""
    for path in files_under(source):
        link_or_copy(path, folder / path.relative_to(source))
    name_the_file(folder)
