"""Ranges that values must lie in."""

from __future__ import annotations


def in_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise ValueError naming `key`, `value` and the range unless low <= value <= high."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise ValueError(f"{key}={value!r} is out of range: allowed is {allowed}")
