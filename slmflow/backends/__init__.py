"""Where the steps of a driver are carried out: as processes here, or as jobs elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from slmflow.config.backend import BackendConfig, DatabricksBackendConfig

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow.entities import Run


class Child(Protocol):
    """A step that is being carried out for a driver."""

    log: Path
    """What it writes, so far."""

    def heartbeat(self) -> str:
        """The heartbeat with which its run begins."""

    def poll(self) -> int | None:
        """The exit status once it has ended; negative for a signal."""

    def new_output(self) -> bytes:
        """What it has written since the last call."""

    def ending(self, status: int) -> str:
        """Why it ended with a status other than 0, where its run does not say."""

    def interrupt(self) -> None:
        """Ask it to stop; returns at once."""

    def stop(self) -> None:
        """Stop it; returns when nothing of it runs any more."""


class Slot(Protocol):
    """Room for one step."""

    def start(self, run: Run, step: str, parameters: dict[str, str], log: Path) -> Child:
        """Carry a step out in it."""

    def release(self) -> None:
        """Give it back unused."""


class Backend(Protocol):
    """What a driver asks of the place where its steps are carried out."""

    def slot(self) -> Slot | None:
        """Room for a step; None while there is none."""


def backend_of(config: BackendConfig) -> Backend:
    """The backend that a configuration names. Raises SlmflowError when it cannot be reached."""
    if isinstance(config, DatabricksBackendConfig):
        from slmflow.backends.databricks import DatabricksBackend

        return DatabricksBackend(config)
    from slmflow.backends.local import LocalBackend

    return LocalBackend()


def new_text(log: Path, start: int) -> bytes:
    """What a log has from a byte on; nothing while it is not there."""
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(start)
        return file.read()
