"""The weights of a model as safetensors files of bounded size, written as they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slmflow.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SHARD_BYTES = 500_000_000
"""At which a file is full; so much is held in memory."""


@dataclass(frozen=True)
class Weight:
    """One tensor; `dtype` by its name in numpy and torch (`bfloat16` too), `data` in C order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def write_shards(weights: Iterable[Weight], folder: Path) -> None:
    """Write files and their index, as transformers names them."""
    from safetensors import serialize_file

    places: dict[str, str] = {}
    shard: list[Weight] = []

    def flush() -> None:
        name = f"model-{len(set(places.values())):05d}.safetensors"
        held = {it.name: {"dtype": it.dtype, "shape": list(it.shape), "data": it.data} for it in shard}
        serialize_file(held, str(folder / name), {"format": "pt"})
        places.update(dict.fromkeys(held, name))
        shard.clear()

    for weight in weights:
        shard.append(weight)
        if sum(len(it.data) for it in shard) > SHARD_BYTES:
            flush()
    if shard:
        flush()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
