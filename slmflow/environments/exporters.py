"""The environments of exporters that do not fit beside the others: `environments/` of this project."""

from __future__ import annotations

from slmflow.environments.maker import Environment, Purpose, check, environment
from slmflow.files import canonical_digest, digests_under
from slmflow.workflow.closure import ROOT

FOLDER = ROOT / "environments"


def exporter_environment(name: str) -> Environment:
    """The environment of `environments/<name>`, made now unless there is one. Raises SlmflowError."""
    return environment(_requirements(name), _purpose(name), is_locked=True)


def refuse_without_environment(name: str) -> None:
    """Raise SlmflowError, before any work, where it is not there and cannot be made; nothing is installed."""
    check(_requirements(name), _purpose(name))


def environment_digest(name: str) -> str:
    """What a result that was made there depends on: the lock, and the programs that run in it."""
    return canonical_digest(digests_under(FOLDER / name))


def _requirements(name: str) -> str:
    return (FOLDER / name / "requirements.txt").read_text()


def _purpose(name: str) -> Purpose:
    otherwise = "connect to an index once, or choose another export=, such as traced_fp32 or fp32_cpu"
    return Purpose(f"exporter {name}", otherwise)
