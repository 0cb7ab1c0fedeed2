"""The routes of the front."""

from __future__ import annotations

import importlib.metadata
import time
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slmflow.serving.answer import Answer
from slmflow.serving.body import parse_object, read_body
from slmflow.serving.errors import ApiError
from slmflow.serving.guard import Guard, Traffic
from slmflow.serving.metrics import Metrics
from slmflow.serving.page import page_response
from slmflow.serving.pool import Pool
from slmflow.serving.settings import Settings
from slmflow.workflow.checkout import git

KINDS = {"/v1/chat/completions": "chat", "/v1/completions": "completion", "/invocations": "invocations"}
"""Routes that a worker answers."""
MODELS = "/v1/models"
PLAIN = ("/", "/health", "/ping", "/version", "/metrics", MODELS)


class Front:
    """The handlers of all routes, with what they share."""

    def __init__(self, settings: Settings, pool: Pool, metrics: Metrics) -> None:
        self.settings = settings
        self.pool = pool
        self.metrics = metrics
        self.traffic = Traffic()
        self._created = int(time.time())
        commit = git("rev-parse", "--short=12", "HEAD")
        self._versions = {
            "mlflow": importlib.metadata.version("mlflow"),
            "slmflow": commit.stdout.decode().strip() or "unknown",
        }

    @property
    def name(self) -> str:
        """The name that the model is served under; empty while it is not known."""
        return self.pool.target.name or str(self.pool.model.get("name") or "")

    async def answer(self, request: Request) -> Answer:
        """A completion, or what MLflow's scoring server answers."""
        route = request.url.path
        raw = await read_body(request, self.settings.max_body_bytes, self.settings.body_seconds)
        body, text = parse_object(raw)
        stream = body.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise ApiError(400, "stream must be true or false", param="stream")
        if KINDS[route] != "invocations":
            self._check_model(body.get("model"))
        stream = bool(stream)
        return Answer(self.pool, self.metrics, route, KINDS[route], text, name=self.name, stream=stream)

    def _check_model(self, said: Any) -> None:
        if said is not None and not isinstance(said, str):
            raise ApiError(400, "model must be a string", param="model")
        name = self.name
        if said and name and said not in self._names():
            raise ApiError(
                404, f"there is no such model; {name!r} is served", param="model", code="model_not_found"
            )

    def _names(self) -> set[str]:
        known = {self.name, str(self.pool.model.get("name") or ""), self.settings.model.uri}
        return known | {self.pool.target.uri}

    async def models(self, request: Request) -> Response:
        """The one model, in OpenAI's list."""
        return JSONResponse({"object": "list", "data": [self._model()] if self.name else []})

    async def model(self, request: Request) -> Response:
        """The one model. Raises ApiError 404 for another id."""
        if request.path_params["id"] not in self._names() - {""}:
            raise ApiError(
                404, f"there is no such model; {self.name!r} is served", param="model", code="model_not_found"
            )
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        said = self.pool.model
        known = ("engine", "context_length", "fingerprint", "flavour", "chat_template")
        return {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "slmflow",
            "version": self._version,
            **{name: said[name] for name in known if name in said},
        }

    @property
    def _version(self) -> str | None:
        worker = self.pool.current
        return (worker.target if worker else self.pool.target).version or None

    async def health(self, request: Request) -> Response:
        """200 while a worker is ready; never asks one."""
        state = "draining" if self.traffic.draining else self.pool.state
        body = {"status": state} | ({"message": self.pool.problem} if state == "failed" else {})
        return JSONResponse(body, 200 if state == "ok" else 503)

    async def version(self, request: Request) -> Response:
        """What runs here."""
        model = {"name": self.name, "version": self._version, "uri": self.settings.model.uri}
        return JSONResponse({**self._versions, "model": model})

    async def metrics_text(self, request: Request) -> Response:
        """All metrics, with the worker's last known numbers where it does not answer at once."""
        await self.pool.stats()
        headers = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        return Response(self.metrics.text(), headers=headers)

    async def page(self, request: Request) -> Response:
        """The page that tries the model. Raises ApiError 404 where it was not installed."""
        page = page_response()
        if page is None:
            raise ApiError(404, "the page is not installed")
        return page

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [Route(path, self.answer, methods=["POST"]) for path in KINDS]
        handlers = (self.page, self.health, self.health, self.version, self.metrics_text, self.models)
        routes += [Route(path, handler) for path, handler in zip(PLAIN, handlers, strict=True)]
        routes.append(Route(MODELS + "/{id:path}", self.model))
        guard = Middleware(
            Guard,
            traffic=self.traffic,
            metrics=self.metrics,
            settings=self.settings,
            route_of=route_of,
        )
        middleware = [guard]
        if self.settings.cors:
            cors = Middleware(
                CORSMiddleware,
                allow_origins=[self.settings.cors],
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )
            middleware.insert(0, cors)
        app = Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: refused})
        app.router.redirect_slashes = False
        return app


def route_of(path: str) -> str:
    """A path as it stands in metrics and logs: one of few, whatever clients send."""
    if path in KINDS or path in PLAIN:
        return path
    return MODELS + "/{id}" if path.startswith(MODELS + "/") else "other"


async def refused(request: Request, error: Exception) -> Response:
    """Starlette's own errors, 404 and 405, in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    what = {404: "there is no such path", 405: f"this path does not take {request.method}"}
    routes = ", ".join((*KINDS, *PLAIN))
    message = f"{what.get(error.status_code, error.detail)}; the server has {routes}"
    return ApiError(error.status_code, message, headers=error.headers).response()
