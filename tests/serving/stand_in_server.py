"""A server with the real page and made answers: for tests of the page, slow, broken and hostile at will."""

import asyncio
import json
import socket
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from slmflow.serving.page import page_response
from tests.serving.conftest import wait_for

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
SPLIT = "häßlich 🙂 日本語\n\nzweiter Absatz"


def event(text=None, finish=None, **more):
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return f"data: {json.dumps({'choices': choices, **more}, ensure_ascii=False)}\n\n".encode()


def ending(count, finish="stop"):
    usage = {"prompt_tokens": 5, "completion_tokens": count}
    return event("", finish) + event(usage=usage) + b"data: [DONE]\n\n"


class Server:
    """One address, at which one stand-in after the other answers."""

    def __init__(self):
        self.stand_in = None
        routes = [
            Route("/", lambda _: page_response()),
            Route("/health", self.by("health")),
            Route("/v1/models", self.by("models")),
            Route("/v1/chat/completions", self.by("chat"), methods=["POST"]),
        ]
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        config = uvicorn.Config(Starlette(routes=routes), log_level="critical", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        wait_for(lambda: self.server.started)

    def by(self, name):
        async def answer(request):
            return await getattr(self.stand_in, name)(request)

        return answer

    def stop(self):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


class StandIn:
    """Answers by the last message: `html`, `split`, `crlf`, `slow`, `long`, ...; a status; else an echo.

    `gate` holds back the ends of `gated` and `long`."""

    def __init__(self, url):
        self.url = url
        self.asked, self.gone, self.ready, self.token = [], 0, True, ""
        self.gate = threading.Event()

    def refused(self, request):
        return self.token and request.headers.get("authorization") != f"Bearer {self.token}"

    async def health(self, request):
        return JSONResponse({"status": "ok" if self.ready else "loading"}, 200 if self.ready else 503)

    async def models(self, request):
        if self.refused(request):
            return JSONResponse({"error": {"message": "the token is missing or wrong"}}, 401)
        return JSONResponse({"object": "list", "data": [{"id": "smollm2-135m"}]})

    async def chat(self, request):
        body = await request.json()
        self.asked.append(body)
        said = body["messages"][-1]["content"]
        if self.refused(request):
            said = "401"
        if said.isdecimal():
            error = {"error": {"message": f"the stand-in says {said}"}}
            return JSONResponse(error, int(said), {"Retry-After": "7"})
        return StreamingResponse(self.stream(said), media_type="text/event-stream")

    async def stream(self, said):
        if said == "html":
            yield event(HOSTILE) + ending(9)
        elif said == "split":
            for byte in event(SPLIT) + ending(9):
                yield bytes([byte])
                await asyncio.sleep(0.001)
        elif said == "crlf":
            yield (b": a comment\n\n" + event("by CRLF") + ending(2)).replace(b"\n", b"\r\n")
        elif said == "break":
            yield event("half")
            yield b'data: {"error": {"message": "the worker ended while it answered"}}\n\n'
        elif said in ("cut", "short"):
            yield event("half")
            await asyncio.sleep(0.05)
            if said == "cut":
                raise ConnectionError("meant")
        elif said == "long":
            for number in range(120):
                if number == 71:
                    await self.opened()
                yield event(f"line {number}\n")
            yield ending(120, "length")
        elif said == "slow":
            try:
                for number in range(3000):
                    yield event(f"{number} ")
                    await asyncio.sleep(0.02)
            finally:
                self.gone += 1
        else:
            for word in ("You ", "said: ", said):
                if said == "gated" and word == said:
                    await self.opened()
                yield event(word)
                await asyncio.sleep(0.02)
            yield ending(3)

    async def opened(self):
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
