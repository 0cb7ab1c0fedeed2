"""What a command that is no step does around its work: be a run of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from slmflow.errors import one_line
from slmflow.workflow.shell import active_run

if TYPE_CHECKING:
    from mlflow.entities import Run


@contextlib.contextmanager
def command_run(name: str) -> Iterator[Run]:
    """The command's own run, marked as such, so that caches, comparisons and gc pass it by."""
    import mlflow

    from slmflow.tracking import last_words
    from slmflow.workflow import runs
    from slmflow.workflow.tags import KIND_TAG

    with active_run(name) as run:
        mlflow.set_tag(KIND_TAG, "command")
        if runs.is_made_up(run.info.run_name):
            mlflow.set_tag("mlflow.runName", name)
        try:
            yield run
        except BaseException as error:
            with last_words(error):
                mlflow.set_tag(runs.ERROR_TAG, one_line(error))
            raise
