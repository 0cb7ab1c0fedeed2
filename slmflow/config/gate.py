"""What a candidate must reach, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from slmflow.config.export import Precision
from slmflow.config.ranges import in_range

UNLIMITED = float("inf")


class GateMode(Enum):
    """What `register` does with a candidate that misses a threshold."""

    off = "off"
    """Promotes unjudged."""
    warn = "warn"
    """Registers with the alias `challenger` only."""
    enforce = "enforce"
    """Registers nothing and exits with status 1."""


class Promote(Enum):
    """Who makes a version champion that passed."""

    auto = "auto"
    """`register` itself."""
    manual = "manual"
    """The command `promote`; until then the version is `challenger`."""


class LoadTest(Enum):
    """Where a packaged model is loaded and asked for a few tokens before it is registered."""

    linked = "linked"
    """In an environment of its packaged requirements alone, linked from here; else as `clean`."""
    clean = "clean"
    """In an environment of its packaged requirements alone, installed by uv or pip."""
    here = "here"
    """In a fresh process of this environment."""
    off = "off"
    """Not at all."""


@dataclass
class Threshold:
    """Limits of fidelity for models up to a size, at some precisions."""

    max_parameters: float = UNLIMITED
    """For models with fewer."""
    precisions: list[Precision] = field(default_factory=list)
    """Precisions that this row is for; empty is all."""
    max_kl: float = MISSING
    """Mean KL divergence from the fp32 reference, in nats a token."""
    min_top1: float = MISSING
    max_kl_increase: float = UNLIMITED
    """Margin against a champion of the same source, for the difference and 1.645 of its standard errors."""
    max_top1_decrease: float = 1.0

    def __post_init__(self) -> None:
        for key in ("max_kl", "max_kl_increase"):
            in_range(f"gate.thresholds.{key}", getattr(self, key), 0)
        for key in ("min_top1", "max_top1_decrease"):
            in_range(f"gate.thresholds.{key}", getattr(self, key), 0, 1)


@dataclass
class GateConfig:
    """What a candidate must reach to become champion."""

    mode: GateMode = GateMode.enforce
    promote: Promote = Promote.auto
    load_test: LoadTest = LoadTest.linked
    licences: list[str] = field(default_factory=list)
    """SPDX identifiers that may be registered, in any case; `unknown` admits what nobody stated."""
    thresholds: list[Threshold] = field(default_factory=list)
    """The first row that fits a candidate's size and precision judges its fidelity."""
    min_task_score: float = 0.0
    """Share of the task items; above 0 a candidate without tasks is a miss."""
    min_decode_tokens_per_second: float = 0.0
    max_peak_resident_bytes: float = UNLIMITED
    max_task_score_decrease: float = 1.0
    """Margin against a champion with the same items, for the difference and 1.645 of its standard errors."""
    min_speed_ratio: float = 0.0
    """Decode tokens/s over those of a champion that was measured on the same machine."""
    max_memory_ratio: float = UNLIMITED
    """Peak resident memory over that of a champion that was measured on the same machine."""

    def __post_init__(self) -> None:
        for key in ("min_decode_tokens_per_second", "max_peak_resident_bytes", "min_speed_ratio"):
            in_range(f"gate.{key}", getattr(self, key), 0)
        in_range("gate.max_memory_ratio", self.max_memory_ratio, 0)
        for key in ("min_task_score", "max_task_score_decrease"):
            in_range(f"gate.{key}", getattr(self, key), 0, 1)
