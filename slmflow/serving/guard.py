"""What every request passes: its id, the token, the drain, and the counting."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slmflow.serving.errors import ApiError
from slmflow.serving.metrics import Metrics
from slmflow.serving.origins import refuse_other_sites
from slmflow.serving.settings import Settings

LOG = logging.getLogger("slmflow.serving")
OPEN = ("/", "/health", "/ping")
"""Paths that need no token, and that answer while the front drains."""
ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
GONE = 499
"""The status that is counted for a client that went away before its answer began."""


class Traffic:
    """The requests in progress, and whether new ones are let in."""

    def __init__(self) -> None:
        self.draining = False
        self.requests = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def __enter__(self) -> None:
        self.requests += 1
        self.idle.clear()

    def __exit__(self, *_: object) -> None:
        self.requests -= 1
        if not self.requests:
            self.idle.set()


class Guard:
    """ASGI middleware around all routes; whatever fails below it is answered in OpenAI's shape."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        traffic: Traffic,
        metrics: Metrics,
        settings: Settings,
        route_of: Callable[[str], str],
    ) -> None:
        self._app = app
        self._traffic = traffic
        self._metrics = metrics
        self._settings = settings
        self._token = settings.token.encode()
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = Headers(scope=scope)
        said = headers.get("x-request-id", "")
        request_id = said if ID.fullmatch(said) else uuid.uuid4().hex
        route = self._route_of(scope["path"])
        status = 0
        start = time.perf_counter()

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with self._traffic:
            try:
                self._check(scope["path"], headers)
                await self._app(scope, receive, sent)
            except ApiError as error:
                await error.response()(scope, receive, sent)
            except Exception:
                LOG.exception("request %s to %s failed by a defect", request_id, route)
                if status:
                    raise  # the server cuts the connection: the client must not take a part for the whole
                message = f"a defect of the server; its log says more: request {request_id}"
                await ApiError(500, message).response()(scope, receive, sent)
            finally:
                self._count(route, status or GONE)
        if scope["method"] == "POST":
            seconds = time.perf_counter() - start
            LOG.info("%s %d after %.3f seconds, request %s", route, status or GONE, seconds, request_id)

    def _check(self, path: str, headers: Headers) -> None:
        if path in OPEN:
            return
        if not self._token:
            refuse_other_sites(headers, self._settings.host, self._settings.cors)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        shown = token.strip().encode("utf-8", "surrogateescape")
        if self._token and not (scheme.lower() == "bearer" and hmac.compare_digest(shown, self._token)):
            raise ApiError(
                401,
                "the token is missing or wrong: send Authorization: Bearer <token>",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if self._traffic.draining and path != "/metrics":
            raise ApiError(
                503,
                "the server is ending; ask another, or later",
                code="draining",
                headers={"Connection": "close"},
            )

    def _count(self, route: str, status: int) -> None:
        self._metrics.requests.labels(route, str(status)).inc()
        if status >= 400:
            self._metrics.errors.labels(route, str(status)).inc()
