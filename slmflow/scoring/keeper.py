"""What a task of Spark's does with its rows; it travels to executors, which do not have this package."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def keeper(folder: str) -> Callable[[Any], None]:
    """What a task does with its rows: a file for each partition, whole or not at all.

    Needs nothing of this package, which executors do not have.
    """

    def keep(rows: Any) -> None:
        import uuid

        import pyarrow as pa
        import pyarrow.parquet as pq

        parts: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            values = row.asDict()
            parts.setdefault(values.pop("part"), []).append(values)
        counts = {name: pa.int64() for name in ("index", "prompt_tokens", "completion_tokens")}
        for part, found in parts.items():
            names = list(found[0])
            schema = pa.schema([(name, counts.get(name, pa.string())) for name in names])
            table = pa.Table.from_pylist(sorted(found, key=lambda one: one["index"]), schema=schema)
            scratch = os.path.join(folder, f".{part:06}.{uuid.uuid4().hex}.tmp")
            pq.write_table(table, scratch)
            os.replace(scratch, os.path.join(folder, f"{part:06}.parquet"))

    keep.__module__ = "__main__"  # so that it travels by value
    return keep
