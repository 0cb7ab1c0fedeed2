"""The Databricks service as it fails its callers."""

from __future__ import annotations

from databricks.sdk.errors import (
    DeadlineExceeded,
    InternalError,
    TemporarilyUnavailable,
    TooManyRequests,
)
from databricks.sdk.errors.base import DatabricksError

from slmflow.errors import first_line

JOBS = "/api/2.2/jobs/runs"
PASSING = (DeadlineExceeded, InternalError, TemporarilyUnavailable, TooManyRequests)
ERRORS = (DatabricksError, OSError, KeyError, ValueError)
"""What a request may raise: refusals, broken connections, and answers that are none."""


def is_passing(error: BaseException) -> bool:
    """Whether a request may be answered later: 408, 429 and 5xx but 501, and what broke on the way.

    The client has no class of its own for 408 and 502, nor keeps the status: what is of no class is asked
    again as well.
    """
    if isinstance(error, DatabricksError):
        return isinstance(error, PASSING) or type(error) is DatabricksError
    return isinstance(error, (OSError, KeyError, ValueError))


def said(error: BaseException) -> str:
    """What the service says, in one line without the client's own settings."""
    return first_line(error).partition(". Config:")[0]
