"""Which runtime runs a model folder."""

from __future__ import annotations

from pathlib import Path

from .engine import ENGINES, Engine


def open_engine(folder: Path, name: str = "generate", threads: int = 0) -> Engine:
    """Load a folder with the engine of that name; 0 threads are the physical cores.

    Raises ValueError for another name.
    """
    if name == "generate":
        from .generate import GenerateEngine

        return GenerateEngine(folder, threads)
    if name == "continuous":
        from .continuous import ContinuousEngine

        return ContinuousEngine(folder, threads)
    raise ValueError(f"engine={name!r}: give one of {', '.join(ENGINES)}")
