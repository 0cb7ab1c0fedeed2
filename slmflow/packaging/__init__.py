"""Writing LoggedModels: what they need to run, and what says where they came from."""

from __future__ import annotations

from importlib.metadata import version


def pinned(*distributions: str) -> list[str]:
    """`name==version` of installed distributions, without a local label such as torch's `+cpu`."""
    return [f"{name}=={version(name).split('+')[0]}" for name in distributions]
