"""How a candidate is judged: what is measured."""

from __future__ import annotations

from dataclasses import dataclass

from slmflow.config.ranges import absolute, in_range


@dataclass
class EvaluateConfig:
    """What is measured, on which text."""

    text: str = "shipped"
    """`shipped`, or the path of a UTF-8 text file."""
    items: str = "shipped"
    """Task items: `shipped`, `none`, the path of a JSONL file, or `dataset:<name>` for one of MLflow's."""
    window: int = 512
    """Tokens of one window; its second half is scored, as llama.cpp does."""
    windows: int = 5
    """Windows at most; the default scores 1,280 tokens."""
    prompt_tokens: int = 64
    new_tokens: int = 48
    repeats: int = 3
    """Measured generations, after one that warms up."""

    def __post_init__(self) -> None:
        if self.text != "shipped":
            absolute("evaluate.text", self.text)
        if self.items not in ("shipped", "none") and not self.items.startswith("dataset:"):
            absolute("evaluate.items", self.items)
        in_range("evaluate.window", self.window, 8)
        for key in ("windows", "prompt_tokens", "repeats"):
            in_range(f"evaluate.{key}", getattr(self, key), 1)
        in_range("evaluate.new_tokens", self.new_tokens, 2)
