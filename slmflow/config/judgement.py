"""How a candidate is judged: what is measured, and how long that may take."""

from __future__ import annotations

from dataclasses import dataclass

from slmflow.config.ranges import absolute, in_range

SMALL = 500_000_000
"""Parameters below which a minute is allowed, where nothing else is said."""


@dataclass
class EvaluateConfig:
    """What is measured, on which text, and how much of it."""

    text: str = "shipped"
    """`shipped`, or the path of a UTF-8 text file."""
    items: str = "shipped"
    """Task items: `shipped`, `none`, the path of a JSONL file, or `dataset:<name>` for one of MLflow's."""
    traces: bool = False
    """Ask the items under `mlflow.genai.evaluate`: a trace an item, at some 0.25 s more each."""
    judge: str = ""
    """A model that judges the traced answers too, such as `openai:/gpt-4.1-mini`; needs `traces`."""
    minutes: int | float | str | None = "auto"
    """For the whole step, from the start of its process; what the gate's margins need is asked in any case.
    `auto`: 1 below SMALL parameters, else 10. null: no limit. Only the first evaluation of a model decides by
    it: the others are asked what that was."""
    like: str = ""
    """A run of `evaluate`, or a driver's: as many windows and items as it asked of the same content."""
    window: int = 512
    """Tokens of one window; its second half is scored, as llama.cpp does."""
    windows: int = 5
    """Windows at most; five score 1,275 tokens."""
    prompt_tokens: int = 64
    new_tokens: int = 16
    repeats: int = 5
    """Measured generations, after one that warms up; the fastest is told."""

    def __post_init__(self) -> None:
        if self.text != "shipped":
            absolute("evaluate.text", self.text)
        if self.items not in ("shipped", "none") and not self.items.startswith("dataset:"):
            absolute("evaluate.items", self.items)
        if self.judge and not self.traces:
            raise ValueError(f"evaluate.judge={self.judge}: set evaluate.traces=true, which it judges")
        if self.minutes is not None and self.minutes != "auto":
            if isinstance(self.minutes, (str, bool)):
                raise ValueError(f"evaluate.minutes={self.minutes}: give a number, auto, or null (no limit)")
            in_range("evaluate.minutes", self.minutes, 0)
        in_range("evaluate.window", self.window, 8)
        for key in ("windows", "prompt_tokens", "repeats"):
            in_range(f"evaluate.{key}", getattr(self, key), 1)
        in_range("evaluate.new_tokens", self.new_tokens, 2)

    def minutes_for(self, parameters: int | None) -> float | None:
        """Minutes for a model of a size, an unknown one taken for large; None where there is no limit."""
        if self.minutes == "auto":
            return 1.0 if parameters is not None and parameters < SMALL else 10.0
        return None if self.minutes is None else float(self.minutes)
