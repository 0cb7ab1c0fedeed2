"""One figure held against its limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One figure held against its limit."""

    name: str
    value: float | None
    """None when it was not measured; such a check does not fail unless it is required."""
    limit: float
    sense: str
    """`<=` or `>=`: how the value must stand to the limit."""
    against: str = ""
    """Where the limit comes from, for people; empty for the configuration."""
    required: bool = False
    reason: str = ""
    """Why it cannot be held against anything although it must be; such a check does not pass."""

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit; NaN never is."""
        if self.reason:
            return False
        if self.value is None:
            return not self.required
        return self.value <= self.limit if self.sense == "<=" else self.value >= self.limit

    def __str__(self) -> str:
        if self.reason:
            return f"{self.name} cannot be compared: {self.reason}"
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        against = f", {self.against}" if self.against else ""
        return f"{self.name} {value} (must be {self.sense} {self.limit:.4g}{against})"
