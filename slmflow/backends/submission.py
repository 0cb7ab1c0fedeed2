"""What is submitted to the Jobs API for one step: a pure function of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmflow.config.backend import DatabricksBackendConfig

ENVIRONMENT_KEY = "slmflow"
ARCHIVE = "project.tar.gz"
SCRIPT = "run_step.py"
REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True)
class StepRun:
    """A step that shall run, as its run and its words."""

    step: str
    parameters: dict[str, str]
    run_id: str
    experiment_id: str
    tracking_uri: str
    registry_uri: str
    attempt: int = 0

    @property
    def token(self) -> str:
        """The idempotency token: a submission whose answer was lost is not done twice."""
        return f"{self.run_id}-{self.attempt}"


def submission(config: DatabricksBackendConfig, folder: str, step: StepRun) -> dict[str, Any]:
    """The body of `POST /api/2.2/jobs/runs/submit`; `folder` holds the archive, script and requirements.

    Parameters are a list that no shell reads. Secrets are named by scope and key: the job reads them, on a
    cluster of its own as the Jobs API resolves `{{secrets/scope/key}}`, elsewhere by the script.
    """
    variables = {
        "MLFLOW_TRACKING_URI": step.tracking_uri,
        "MLFLOW_REGISTRY_URI": step.registry_uri,
        "MLFLOW_EXPERIMENT_ID": step.experiment_id,
        "MLFLOW_RUN_ID": step.run_id,
        **config.environment,
    }
    words = [f"{folder}/{ARCHIVE}"]
    words += [f"--set={name}={value}" for name, value in variables.items()]
    if not config.new_cluster:
        words += [f"--secret={name}={place}" for name, place in config.secrets.items()]
    words += ["--", step.step, *(f"{name}={value}" for name, value in step.parameters.items() if value)]
    task: dict[str, Any] = {
        "task_key": step.step,
        "spark_python_task": {"python_file": f"{folder}/{SCRIPT}", "parameters": words},
    }
    body: dict[str, Any] = {
        "run_name": f"slmflow {step.step} {step.run_id}",
        "idempotency_token": step.token,
        "tasks": [task],
    }
    if config.timeout_minutes:
        body["timeout_seconds"] = 60 * config.timeout_minutes
    requirements = f"{folder}/{REQUIREMENTS}"
    if config.existing_cluster_id:
        task["existing_cluster_id"] = config.existing_cluster_id
        task["libraries"] = [{"requirements": requirements}]
    elif config.new_cluster:
        secrets = {name: f"{{{{secrets/{place}}}}}" for name, place in config.secrets.items()}
        task["new_cluster"] = dict(config.new_cluster)
        if secrets:
            own = config.new_cluster.get("spark_env_vars", {})
            task["new_cluster"]["spark_env_vars"] = {**own, **secrets}
        task["libraries"] = [{"requirements": requirements}]
    else:
        task["environment_key"] = ENVIRONMENT_KEY
        spec = {"environment_version": config.environment_version, "dependencies": [f"-r {requirements}"]}
        body["environments"] = [{"environment_key": ENVIRONMENT_KEY, "spec": spec}]
    return body
