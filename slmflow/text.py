"""The text that the project ships: fidelity and speed are measured on it, random tokenizers learn from it."""

from __future__ import annotations

from pathlib import Path

from slmflow.errors import SlmflowError

SHIPPED = Path(__file__).parent / "data" / "text.txt"


def shipped_text() -> str:
    """Original prose, dialogue, code and numbers in several registers, under the project's licence."""
    return SHIPPED.read_text(encoding="utf-8")


def text_of(name: str) -> str:
    """The text that `evaluate.text` names: `shipped`, or a path. Raises SlmflowError if it is not UTF-8."""
    if name == "shipped":
        return shipped_text()
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SlmflowError(f"evaluate.text={name}: cannot be read as UTF-8 text: {error}") from None
