"""The front's process: its port, its server, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from slmflow.errors import SlmflowError, one_line
from slmflow.serving.app import Front
from slmflow.serving.errors import ApiError
from slmflow.serving.follow import Target, follow, in_thread
from slmflow.serving.metrics import Metrics
from slmflow.serving.pool import Pool, PoolSettings
from slmflow.serving.process import WorkerProcess
from slmflow.serving.settings import Settings

LOG = logging.getLogger("slmflow.serving")
KEEP_ALIVE_SECONDS = 75
CLOSE_SECONDS = 2
"""What connections get to send their last bytes when the front ends."""


class Protocol(H11Protocol):
    """HTTP/1.1, with OpenAI's shape also for what is no HTTP, and an end to heads that never come whole."""

    head_seconds = 30.0
    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head must come."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, or of a body, whose time is measured where it is read."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        if self._head is not None:
            self._head.cancel()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        waiting = self.conn.their_state is h11.IDLE
        if waiting and self._head is None:
            self._head = self.loop.call_later(self.head_seconds, self._late)
        elif not waiting and self._head is not None:
            self._head.cancel()
            self._head = None

    def _late(self) -> None:
        message = f"the headers did not arrive within {self.head_seconds:g} seconds: send them at once"
        self._refuse(ApiError(408, message))

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, and close."""
        self._refuse(ApiError(400, "the request is not valid HTTP/1.1"))

    def _refuse(self, error: ApiError) -> None:
        body = bytes(error.response().body)
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=error.status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """Uvicorn without its signals: the front drains before it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the port, without listening. Raises OSError, socket.gaierror for an unknown host."""
    family, kind, number, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, number)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def url_of(host: str, bound: socket.socket) -> str:
    """The address that people use."""
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


async def serve(
    settings: Settings,
    bound: socket.socket,
    pool_settings: PoolSettings,
    resolve: Callable[[], Target] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; a second one cuts the drain short. Returns the exit status.

    `resolve` stands in for the registry. Raises SlmflowError when the model URI leads nowhere.
    """
    resolve = resolve or settings.model.resolve
    stop, hurry = asyncio.Event(), asyncio.Event()

    def ask_to_stop() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ask_to_stop)
    resolving, stopped = asyncio.create_task(in_thread(resolve)), asyncio.create_task(stop.wait())
    await asyncio.wait({resolving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not resolving.done():  # a registry that does not answer
        return 0
    target = resolving.result()
    metrics = Metrics()
    pool = Pool(target, _options(settings, pool_settings), metrics)
    front = Front(settings, pool, metrics)
    url = url_of(settings.host, bound)
    pool.on_ready = _announcer(front, url)
    server = Server(
        uvicorn.Config(
            front.app(),
            http=type("Protocol", (Protocol,), {"head_seconds": settings.body_seconds}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    keeper = asyncio.create_task(pool.run())
    tasks = {serving, keeper, stopped}
    if settings.model.moves:
        tasks.add(asyncio.create_task(follow(resolve, settings.follow_seconds, pool.aim, _reporter(metrics))))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    print(f"listening on {url}", flush=True)
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await _drain(front, settings.drain_seconds, hurry)
    late = bool(front.traffic.requests)
    await pool.stop(keeper, kill=late)
    if late:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(front.traffic.idle.wait(), CLOSE_SECONDS)
    server.should_exit = True
    await asyncio.wait({serving})
    for task in tasks - {serving, keeper}:
        task.cancel()
    for task in done:
        task.result()  # a defect of ours keeps its traceback
    LOG.info("ended")
    return 0


async def _drain(front: Front, seconds: float, hurry: asyncio.Event) -> None:
    """Let running requests finish and no new ones begin, for at most `seconds`."""
    front.traffic.draining = True
    count = front.traffic.requests
    LOG.info("ending: %d requests may finish within %g seconds", count, seconds)
    waits = {asyncio.create_task(front.traffic.idle.wait()), asyncio.create_task(hurry.wait())}
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if front.traffic.requests:
        LOG.warning("%d requests were cut off", front.traffic.requests)


def _options(settings: Settings, given: PoolSettings) -> PoolSettings:
    environment = {name: text for name, text in given.environment.items() if name != settings.token_env}
    return replace(
        given,
        options={"engine": settings.engine, **given.options},
        environment=environment,
        load_seconds=settings.load_seconds,
    )


def _announcer(front: Front, url: str) -> Callable[[WorkerProcess], None]:
    """Print what is served when the first worker is ready; later ones are events of the log."""
    json = "-H 'Content-Type: application/json'"

    def announce(worker: WorkerProcess) -> None:
        front.pool.on_ready = lambda worker: None
        settings, version = front.settings, worker.target.version
        token = f' -H "Authorization: Bearer ${settings.token_env}"' if settings.token else ""
        body = '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}'
        print(
            f"slmflow serves {front.name}{f' version {version}' if version else ''}\n"
            f"  model   {settings.model.uri}\n"
            f"  engine  {worker.model.get('engine', 'unknown')}\n"
            f"  url     {url}/v1 (OpenAI), {url}/invocations (MLflow), {url}/ (page), {url}/metrics\n"
            f"  try     curl {url}/v1/chat/completions {json}{token} -d '{body}'",
            flush=True,
        )

    return announce


def _reporter(metrics: Metrics) -> Callable[[Exception], None]:
    """Log a failing registry once for each thing that it says."""
    last = ""

    def report(error: Exception) -> None:
        nonlocal last
        metrics.follow_failures.inc()
        said = one_line(error)
        if said != last:
            kind = logging.WARNING if isinstance(error, SlmflowError) else logging.ERROR
            LOG.log(kind, "%s; what is served stays", said)
        last = said

    return report
