"""Why a request gets no answer."""

from __future__ import annotations


class BadRequestError(ValueError):
    """A request that cannot be answered; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class OverloadedError(Exception):
    """There is no room now; asking again later may help."""


class TimedOutError(Exception):
    """The request's deadline passed before its answer was whole."""


class CancelledError(Exception):
    """Nobody waits for the answer any more."""
