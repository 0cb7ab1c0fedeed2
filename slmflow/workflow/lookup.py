"""Reading runs, models and aliases: through MLflow's client, or straight from an embedded store.

`import mlflow` and opening its SQL store take 4 s, longer than all that a plan reads. The embedded store
is a sqlite file on this machine, so it is read with the standard library, read-only; whatever that reader
does not understand (another schema, a registry elsewhere) is left to MLflow's client.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from slmflow.tracking import is_absent

TABLES = {
    "runs": ("run_uuid", "name", "status", "artifact_uri", "start_time", "end_time", "experiment_id"),
    "tags": ("key", "value", "run_uuid"),
    "logged_models": ("model_id", "artifact_location", "lifecycle_stage"),
    "model_versions": ("name", "version"),
    "registered_model_aliases": ("name", "alias", "version"),
    "model_version_tags": ("name", "version", "key", "value"),
}
"""Tables and columns of MLflow 3.17.2's schema that the sqlite reader uses."""


@dataclass(frozen=True)
class Found:
    """A run, as far as the cache needs it."""

    run_id: str
    name: str
    status: str
    artifact_uri: str
    start_time: int
    """Milliseconds since 1970."""
    end_time: int | None
    tags: dict[str, str]


class Store(Protocol):
    """What the plan asks of a tracking store and its registry."""

    def runs(self, tag: str, value: str, limit: int = 20) -> list[Found]:
        """Runs of the experiment, not deleted, whose tag has this value; newest first."""

    def run(self, run_id: str) -> Found | None:
        """One run that is not deleted."""

    def model_location(self, model_id: str) -> str | None:
        """Where a LoggedModel's files are; None when it is gone or deleted."""

    def has_version(self, name: str, version: str) -> bool:
        """Whether the registry has this version."""

    def alias(self, name: str, alias: str) -> str | None:
        """The version that an alias stands on."""

    def version_tag(self, name: str, version: str, key: str) -> str | None:
        """A tag of a registered version; None where it has none of that key, or there is no such version."""


def open_store(experiment_id: str) -> Store:
    """The cheapest reader of the store that MLFLOW_TRACKING_URI names."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
    if uri.startswith("sqlite:///") and registry == uri:
        path = Path(uri.removeprefix("sqlite:///"))
        try:
            return SqliteStore(path, experiment_id)
        except sqlite3.Error:
            pass
    return ClientStore(experiment_id)


class SqliteStore:
    """MLflow's sqlite schema, read with the standard library."""

    def __init__(self, path: Path, experiment_id: str) -> None:
        self._uri = f"file:{quote(str(path.resolve()))}?mode=ro"
        self._experiment = int(experiment_id)
        for table, columns in TABLES.items():
            self._all(f"SELECT {', '.join(columns)} FROM {table} LIMIT 0")  # noqa: S608 names of our own

    def _all(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=60)) as database:
            return database.execute(sql, values).fetchall()

    def _found(self, where: str, values: tuple[Any, ...]) -> list[Found]:
        columns = "r.run_uuid, r.name, r.status, r.artifact_uri, r.start_time, r.end_time"
        rows = self._all(
            f"SELECT {columns} FROM {where} AND r.lifecycle_stage = 'active' "  # noqa: S608 names of our own
            "ORDER BY r.start_time DESC, r.run_uuid LIMIT ?",
            values,
        )
        tags = "SELECT key, value FROM tags WHERE run_uuid = ?"
        return [Found(*row, tags=dict(self._all(tags, row[:1]))) for row in rows]  # type: ignore[misc]

    def runs(self, tag: str, value: str, limit: int = 20) -> list[Found]:
        """By the primary key of the tags, (key, run)."""
        where = (
            "tags t JOIN runs r ON r.run_uuid = t.run_uuid WHERE t.key = ? AND t.value = ? "
            "AND r.experiment_id = ?"
        )
        return self._found(where, (tag, value, self._experiment, limit))

    def run(self, run_id: str) -> Found | None:
        """By primary key."""
        return next(iter(self._found("runs r WHERE r.run_uuid = ?", (run_id, 1))), None)

    def model_location(self, model_id: str) -> str | None:
        """By primary key."""
        sql = "SELECT artifact_location FROM logged_models WHERE model_id = ? AND lifecycle_stage = 'active'"
        rows = self._all(sql, (model_id,))
        return rows[0][0] if rows else None

    def has_version(self, name: str, version: str) -> bool:
        """A deleted version stays in the table with a stage of its own."""
        sql = (
            "SELECT 1 FROM model_versions WHERE name = ? AND version = ? "
            "AND current_stage != 'Deleted_Internal'"
        )
        return bool(self._all(sql, (name, int(version))))

    def alias(self, name: str, alias: str) -> str | None:
        """Of the default workspace's registry."""
        sql = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
        rows = self._all(sql, (name, alias))
        return str(rows[0][0]) if rows else None

    def version_tag(self, name: str, version: str, key: str) -> str | None:
        """By primary key, within the default workspace."""
        sql = "SELECT value FROM model_version_tags WHERE name = ? AND version = ? AND key = ?"
        rows = self._all(sql, (name, int(version), key))
        return str(rows[0][0]) if rows else None


class ClientStore:
    """Any store, through MLflow's client."""

    def __init__(self, experiment_id: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._experiment = experiment_id

    def runs(self, tag: str, value: str, limit: int = 20) -> list[Found]:
        """One server-side query."""
        found = self._client.search_runs(
            [self._experiment],
            filter_string=f"tags.`{tag}` = '{value}'",
            max_results=limit,
            order_by=["attributes.start_time DESC"],
        )
        return [found_of(run) for run in found]

    def run(self, run_id: str) -> Found | None:
        """One request."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if is_absent(error):
                return None
            raise
        return found_of(run) if run.info.lifecycle_stage == "active" else None

    def model_location(self, model_id: str) -> str | None:
        """One request."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_logged_model(model_id).artifact_location)
        except MlflowException as error:
            if is_absent(error):
                return None
            raise

    def has_version(self, name: str, version: str) -> bool:
        """One request."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_model_version(name, version)
        except MlflowException as error:
            if is_absent(error):
                return False
            raise
        return True

    def alias(self, name: str, alias: str) -> str | None:
        """One request."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            if is_absent(error) or error.error_code == "INVALID_PARAMETER_VALUE":
                return None
            raise

    def version_tag(self, name: str, version: str, key: str) -> str | None:
        """One request."""
        from mlflow.exceptions import MlflowException

        try:
            tags = self._client.get_model_version(name, version).tags
        except MlflowException as error:
            if is_absent(error):
                return None
            raise
        return None if key not in tags else str(tags[key])


def found_of(run: Any) -> Found:
    """A run of MLflow's client as the cache sees it."""
    return Found(
        run.info.run_id,
        run.info.run_name or "",
        run.info.status,
        run.info.artifact_uri,
        run.info.start_time,
        run.info.end_time,
        dict(run.data.tags),
    )
