"""The replayed requests as a dataset: the same bytes for the same traces."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slmflow.artifacts import folder_of

if TYPE_CHECKING:
    from mlflow.data.pandas_dataset import PandasDataset

    from slmflow.monitoring.traces import Row


def lines_of(rows: list[Row]) -> bytes:
    """The rows as JSON lines."""
    lines = [
        json.dumps(finite(asdict(row)), sort_keys=True, ensure_ascii=False, allow_nan=False) for row in rows
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest_of(rows: list[Row]) -> str:
    """The sha256 of those lines, as 64 hexadecimal digits."""
    return hashlib.sha256(lines_of(rows)).hexdigest()


def dataset_of(rows: list[Row], source: str, name: str) -> PandasDataset:
    """What `mlflow.log_input` takes; `source` is where the lines are. MLflow keeps 36 digits of a digest."""
    import mlflow
    import pandas as pd
    from mlflow.data.code_dataset_source import CodeDatasetSource

    table: list[dict[str, Any]] = [
        {
            "id": row.id,
            "request": json.dumps(row.request, sort_keys=True, ensure_ascii=False),
            "answer": row.production.text,
        }
        for row in rows
    ]
    digest = digest_of(rows)[:36]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a local path may be read by two of MLflow's classes, which are one
        # MLflow 3.17.2 has no class for a server's artifacts (artifact_dataset_sources.py leaves them out).
        place = source if folder_of(source) else CodeDatasetSource({"uri": source})
        return mlflow.data.from_pandas(pd.DataFrame(table), source=place, name=name, digest=digest)
