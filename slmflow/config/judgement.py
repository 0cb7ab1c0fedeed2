"""How a candidate is judged: what is measured, and what it must reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from slmflow.config.export import Precision
from slmflow.config.ranges import absolute, in_range


class GateMode(Enum):
    """What `register` does with a candidate that misses a threshold."""

    off = "off"
    """Promotes unjudged."""
    warn = "warn"
    """Registers with the alias `challenger` only."""
    enforce = "enforce"
    """Registers nothing and exits with status 1."""


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


@dataclass
class Threshold:
    """Limits for models up to a size, at some precisions."""

    max_parameters: float = float("inf")
    precisions: list[Precision] = field(default_factory=list)
    """Precisions that this row is for; empty is all."""
    max_kl: float = MISSING
    min_top1: float = MISSING

    def __post_init__(self) -> None:
        in_range("gate.thresholds.max_kl", self.max_kl, 0)
        in_range("gate.thresholds.min_top1", self.min_top1, 0, 1)


@dataclass
class GateConfig:
    """What a candidate must reach to become champion."""

    mode: GateMode = GateMode.enforce
    thresholds: list[Threshold] = field(default_factory=list)
    """The first row that fits a candidate's size and precision judges its fidelity."""
    min_decode_tokens_per_second: float = 0.0

    def __post_init__(self) -> None:
        in_range("gate.min_decode_tokens_per_second", self.min_decode_tokens_per_second, 0)
