"""Requests, answers and refusals as the rooms of the stand-in see them."""

from dataclasses import dataclass, field


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    raw: bytes
    headers: dict[str, str]
    words: tuple[str, ...] = ()
    """What the route's pattern found in the path."""
    body: dict = field(default_factory=dict)
    """The JSON body, else the query."""


@dataclass
class Answer:
    status: int
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.body = status, {"error_code": code, "message": message}


def invalid(message: str) -> RefusedError:
    return RefusedError(400, "INVALID_PARAMETER_VALUE", message)


def absent(message: str) -> RefusedError:
    return RefusedError(404, "RESOURCE_DOES_NOT_EXIST", message)
