"""Speaks the protocol of a worker without a model: it says the words of the prompt again.

Words of its command line beside the real worker's: `load=<seconds>`, `broken=<version>` (a version that does
not load), `log=<file>` (a line for each start, request, cancellation and end). What a prompt begins with
decides: `die` exits in the middle, `full` is refused with 429, `slow` waits 0.1 s a word, `late` fails after
two chunks, `garbage` sends no JSON, `nan` answers NaN, `who` says which model and process this is.
"""

import asyncio
import json
import os
import signal
import sys
import time

WORDS = dict(word.split("=", 1) for word in sys.argv[1:])
URI = WORDS["model_uri"]
RUNNING: set[asyncio.Task] = set()


def log(text: str) -> None:
    if "log" in WORDS:
        with open(WORDS["log"], "a") as file:
            file.write(f"{URI} {os.getpid()} {text}\n")


def send(writer, value) -> None:
    writer.write(json.dumps(value).encode() + b"\n")


def prompt_of(kind: str, body: dict) -> str:
    if kind == "completion":
        return body["prompt"]
    if kind == "invocations":
        return body["inputs"][0]
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else json.dumps(content)


def refusal(status: int, message: str, kind: str = "invalid_request_error") -> dict:
    return {"error": {"status": status, "message": message, "type": kind, "param": None, "code": None}}


async def answer(said: dict, writer) -> None:
    kind, body = said["kind"], said["body"]
    start = time.monotonic()
    prompt = prompt_of(kind, body)
    words = f"{URI} {os.getpid()}".split() if prompt.startswith("who") else prompt.split()
    stream = body.get("stream") is True
    if prompt.startswith("full"):
        return send(writer, refusal(429, "the queue is full", "rate_limit_error"))
    if prompt.startswith("garbage"):
        return writer.write(b"no JSON\n")
    pause = 0.1 if prompt.startswith("slow") else 0.002
    first = 0.0
    for number, word in enumerate(words):
        await asyncio.sleep(pause)
        first = first or time.monotonic() - start
        if prompt.startswith("die") and number == 1:
            await writer.drain()
            os._exit(1)
        if prompt.startswith("late") and number == 2:
            return send(writer, refusal(500, "the engine stopped", "server_error"))
        if stream:
            chunk = {
                "object": "chat.completion.chunk",
                "model": said.get("name"),
                "system_fingerprint": URI,
                "choices": [{"index": 0, "delta": {"content": word + " "}}],
            }
            send(writer, {"chunk": chunk})
            await writer.drain()
    seconds = time.monotonic() - start
    counts = {"prompt_tokens": 3, "completion_tokens": len(words), "cached_tokens": 0}
    timings = counts | {"queued_seconds": 0.001, "first_token_seconds": first, "seconds": seconds}
    if stream:
        return send(writer, {"done": True, "timings": timings})
    text = " ".join(words)
    if kind == "invocations":
        value = {"predictions": [text]}
    else:
        value = {
            "model": said.get("name"),
            "system_fingerprint": URI,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
            "usage": counts,
        }
    if prompt.startswith("nan"):
        value["score"] = float("nan")
    return send(writer, {"answer": value, "timings": timings})


async def serve_one(reader, writer) -> None:
    task = asyncio.current_task()
    line = await reader.readline()
    if not line:
        writer.close()
        return
    said = json.loads(line)
    if said["op"] == "describe":
        model = {
            "name": "echo",
            "engine": "stand-in",
            "context_length": 64,
            "fingerprint": "f",
            "flavour": "onnx",
        }
        send(writer, {"model": model | {"chat_template": True}})
    elif said["op"] == "stats":
        if "deaf" in WORDS:
            await asyncio.sleep(60)
        stats = {
            "running": len(RUNNING),
            "waiting": 0,
            "kv_bytes": 5,
            "kv_limit_bytes": 10,
            "tokens_total": 7,
        }
        send(writer, {"stats": stats | {"engine": "stand-in", "resident_bytes": 123}})
    else:
        RUNNING.add(task)
        log(f"begin {said['kind']}")
        watch = asyncio.create_task(reader.read(1))
        watch.add_done_callback(lambda _: task.cancel() if task in RUNNING else None)
        try:
            await answer(said, writer)
            log("end")
        except (asyncio.CancelledError, ConnectionError):
            log("cancelled")
        finally:
            RUNNING.discard(task)
            watch.cancel()
    writer.close()


async def main() -> None:
    log("start")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    parent = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
    parent.add_done_callback(lambda _: os._exit(0))
    await asyncio.sleep(float(WORDS.get("load", 0)))
    if WORDS.get("broken") and URI.endswith("/" + WORDS["broken"]):
        print("Traceback: much\nthe weights are damaged", file=sys.stderr)
        os._exit(3)
    await asyncio.start_unix_server(serve_one, WORDS["socket"], limit=64 << 20)
    await stop.wait()
    if RUNNING:
        await asyncio.wait(RUNNING)
    log("stop")
    os._exit(0)


asyncio.run(main())
