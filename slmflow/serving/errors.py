"""What goes wrong with a request, in the shape that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
RETRY_SECONDS = 1
"""What Retry-After says where nobody knows better, in seconds."""
WORKER_STATUSES = (400, 404, 413, 429, 500, 503, 504)
"""What a worker may say; anything else is its defect and becomes 500."""


class ApiError(Exception):
    """A request that is answered by an error: HTTP status, one line for the user, OpenAI's fields.

    429 and 503 get a Retry-After unless `headers` has one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind or TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("Retry-After", str(RETRY_SECONDS))

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        fields = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": fields}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body, self.status, self.headers)


def from_worker(said: Any) -> ApiError:
    """The `error` object of a worker's line as an ApiError; anything that is none becomes a 500."""
    if not isinstance(said, dict) or said.get("status") not in WORKER_STATUSES:
        return ApiError(500, "the worker reported an error in a shape that the front does not know")
    retry = said.get("retry_after")
    known = isinstance(retry, int) and not isinstance(retry, bool) and retry >= 0
    return ApiError(
        said["status"],
        str(said.get("message") or "no message"),
        param=_text(said.get("param")),
        code=_text(said.get("code")),
        kind=_text(said.get("type")),
        headers={"Retry-After": str(retry)} if known else None,
    )


def worker_ended() -> ApiError:
    """The worker went away before its answer was complete."""
    return ApiError(503, "the worker ended while it answered; ask again", code="worker_ended")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
