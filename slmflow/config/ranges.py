"""Ranges that values must lie in."""

from __future__ import annotations

from pathlib import Path


def absolute(key: str, path: str) -> None:
    """Raise ValueError naming `key` unless the path is absolute, or begins in the user's home."""
    if not path.startswith("~") and not Path(path).is_absolute():
        raise ValueError(f"{key}={path}: must be an absolute path, steps run in the project's folder")


def in_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise ValueError naming `key`, `value` and the range unless low <= value <= high."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise ValueError(f"{key}={value!r} is out of range: allowed is {allowed}")
