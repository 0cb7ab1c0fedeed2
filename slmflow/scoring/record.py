"""What a scoring leaves on its run: totals, and where its rows came from and went."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.files import sha256_of
from slmflow.scoring.output import COUNTS

if TYPE_CHECKING:
    from slmflow.scoring.work import Work


def totals_of(work: Work) -> dict[str, float]:
    """Rows, errors and tokens of all reports."""
    totals: dict[str, float] = dict.fromkeys(("rows", "errors", *COUNTS), 0)
    for report in work.reports():
        totals["rows"] += 1
        totals["errors"] += report["error"] is not None
        for name in COUNTS:
            totals[name] += report[name] or 0
    return totals


def log(place: str, digest: str, output: Path, uri: str, totals: dict[str, float]) -> None:
    """On the active run: metrics, and input and output as datasets."""
    import mlflow
    from mlflow.data.meta_dataset import MetaDataset

    warnings.filterwarnings("ignore", "The specified dataset source can be interpreted")
    # `mlflow run` has logged the parameters as they were given, and MLflow takes no second value.
    mlflow.log_params({"scored_model": uri, "scored_input": place, "scored_output": str(output)})
    mlflow.log_metrics(totals)
    for one, sha256, context in ((place, digest, "input"), (str(output), sha256_of(output), "output")):
        found = MetaDataset(_source(one), name=Path(one).name[:500], digest=sha256[:32])
        mlflow.log_input(found, context=context)


def _source(place: str) -> Any:
    kind, _, rest = place.partition(":")
    if kind == "table":
        from mlflow.data.spark_dataset_source import SparkDatasetSource

        return SparkDatasetSource(table_name=rest)
    if kind == "delta":
        from mlflow.data.delta_dataset_source import DeltaDatasetSource

        return DeltaDatasetSource(path=rest)
    from mlflow.data.dataset_source_registry import resolve_dataset_source

    return resolve_dataset_source(place)
