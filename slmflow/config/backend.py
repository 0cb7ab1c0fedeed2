"""Where the steps are carried out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from slmflow.config.ranges import in_range

CREDENTIALS = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|APIKEY|(?<![A-Z])KEY)S?(?![A-Z])")
"""In a variable's name, in capitals."""


def is_credential(name: str, value: str) -> bool:
    """Whether an environment variable looks like a credential, by its name or its value."""
    from slmflow.workflow.checkout import SECRETS

    return bool(CREDENTIALS.search(name.upper()) or SECRETS.search(value.encode()))


@dataclass
class BackendConfig:
    """What every backend says of itself."""

    kind: str = MISSING
    schema: str = ""
    """`catalog.schema` of the registered models in Unity Catalog; empty: model.name is taken as it is."""

    def __post_init__(self) -> None:
        if self.schema and not re.fullmatch(r"[\w-]+\.[\w-]+", self.schema):
            raise ValueError(f"backend.schema={self.schema!r}: must be <catalog>.<schema>")


@dataclass
class LocalBackendConfig(BackendConfig):
    """Processes on the driver's machine."""

    kind: str = "local"


@dataclass
class DatabricksBackendConfig(BackendConfig):
    """A Databricks job a step, started and watched by a driver anywhere.

    Compute is serverless unless `new_cluster` or `existing_cluster_id` says otherwise.
    """

    kind: str = "databricks"
    profile: str = ""
    """Section of ~/.databrickscfg; empty: DATABRICKS_HOST and what else the environment says."""
    folder: str = ""
    """Workspace folder for the code; empty: /Workspace/Users/<you>/.slmflow."""
    environment_version: str = "2"
    """Of serverless compute; 2 is the one with Python 3.11."""
    new_cluster: dict[str, Any] = field(default_factory=dict)
    """A cluster as the Jobs API takes it, made for each step. DBR 15.4 LTS is the one with Python 3.11."""
    existing_cluster_id: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of the steps: no secrets."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Environment variable to `scope/key` of a Databricks secret, which only the job reads."""
    retries: int = 1
    """How often a job is started again that died without saying why (a lost machine)."""
    timeout_minutes: int = 0
    """For a job; 0: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("backend.retries", self.retries, 0)
        in_range("backend.timeout_minutes", self.timeout_minutes, 0)
        if self.new_cluster and self.existing_cluster_id:
            raise ValueError("backend.new_cluster and backend.existing_cluster_id exclude each other")
        for name, place in self.secrets.items():
            if not re.fullmatch(r"[\w.@-]+/[\w.@-]+", place):
                # The value may be the secret itself, so it is not repeated.
                raise ValueError(f"backend.secrets.{name}: must be scope/key of a Databricks secret")
        own = self.new_cluster.get("spark_env_vars") or {}
        for place, variables in (("environment", self.environment), ("new_cluster.spark_env_vars", own)):
            for name, value in variables.items():
                if is_credential(str(name), str(value)):
                    raise ValueError(
                        f"backend.{place}.{name}: looks like a credential, which would be recorded; keep it "
                        f"as a Databricks secret and name that by backend.secrets.{name}=scope/key"
                    )
        if self.folder and not self.folder.startswith("/"):
            raise ValueError(
                f"backend.folder={self.folder!r}: must be absolute, such as /Workspace/Shared/slmflow"
            )

    def hardware(self) -> dict[str, str]:
        """What is known, before a step runs, of the machine on which it will."""
        cluster = self.new_cluster
        if self.existing_cluster_id:
            return {"databricks": f"cluster {self.existing_cluster_id}"}
        if cluster:
            node = cluster.get("driver_node_type_id") or cluster.get("node_type_id") or "unnamed"
            return {"databricks": f"{node}, {cluster.get('spark_version', '')}"}
        return {"databricks": f"serverless {self.environment_version}"}
