"""What a driver would submit to a Databricks workspace, without reaching it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.backends.archive import project_archive
from slmflow.backends.submission import submission
from slmflow.backends.workspace import check_store, code_folder, step_run
from slmflow.workflow.item import State
from slmflow.workflow.plan import parameters_of

if TYPE_CHECKING:
    from slmflow.config.backend import DatabricksBackendConfig
    from slmflow.workflow.item import Item


def submissions(items: list[Item], config: DatabricksBackendConfig) -> list[dict[str, Any]]:
    """A request body for each step that is to run; in angle brackets what is not known yet.

    Raises SlmflowError where a job could not reach the tracking store or the code cannot be packed.
    """
    check_store()
    folder = code_folder(config, "<you>", project_archive())
    ids = {item.name: item.run_id or f"<run of {item.name}>" for item in items}
    found = []
    for item in items:
        if item.state is State.run:
            step = step_run(f"<run of {item.name}>", "<experiment>", item.node.step, parameters_of(item, ids))
            found.append(submission(config, folder, step))
    return found
