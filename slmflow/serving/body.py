"""Bodies of requests: read within bounds of size and time, parsed as strict JSON."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from slmflow.serving.errors import ApiError

CLOSE = {"Connection": "close"}
"""The rest of a refused body is not read: the connection cannot carry another request."""


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body, of at most `limit` bytes, that arrived whole within `seconds`.

    Raises ApiError: 400 for a bad Content-Length, 408 for a slow body, 413 for a large one, 499 for a
    client that went away.
    """
    too_large = ApiError(413, f"the body is larger than {limit} bytes: send less", headers=CLOSE)
    said = request.headers.get("content-length", "0")
    if not (said.isascii() and said.isdigit()):
        raise ApiError(400, "the header Content-Length is not a number", headers=CLOSE)
    if int(said[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        message = f"the body did not arrive within {seconds:g} seconds: send it at once"
        raise ApiError(408, message, headers=CLOSE) from None
    except ClientDisconnect:
        raise ApiError(499, "the client went away") from None
    return bytes(body)


def parse_object(body: bytes) -> tuple[dict[str, Any], str]:
    """A JSON object, and its text on one line without what JSON does not have.

    Raises ApiError 400: what is wrong and where, never the body itself.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} is wrong") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if not isinstance(value, dict):
            raise ApiError(400, f"the body is a JSON {_name(value)}: send a JSON object")
        line = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        line.encode()
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply: send a flatter JSON object") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ApiError(400, f"the body is not JSON: {error.msg} at {where}") from None
    except UnicodeEncodeError:
        raise ApiError(400, "the body has half a surrogate pair in a string: send valid Unicode") from None
    except ValueError:
        raise ApiError(400, "the body has a number with too many digits: send a smaller one") from None
    return value, line


def _refuse_constant(name: str) -> NoReturn:
    raise ApiError(400, f"the body has the constant {name}, which JSON does not have: send a number or null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ApiError(400, "the body has a number that is too large for a float: send a smaller one")
    return value


def _name(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean"}.get(type(value), "number")
