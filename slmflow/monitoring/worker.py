"""The process that holds one model version of a replay: a request a line in, its outcome a line out.

    python -m slmflow.monitoring.worker model_uri=models:/smollm2-135m-onnx/1

`slmflow.monitoring.asking` starts it; nobody else needs to. It leaves no traces: they would be taken for
production's by the next replay.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from slmflow.errors import one_line

if TYPE_CHECKING:
    from slmflow.serving.backend import Backend


async def outcome(backend: Backend, body: dict[str, Any]) -> dict[str, Any]:
    """The answer with its token usage and seconds, or the error in one line."""
    began = time.perf_counter()
    # As a completion, a prompt's answer says why it ended.
    kind = "chat" if "messages" in body else "completion"
    try:
        last: dict[str, Any] = {}
        async for line in backend.answer(kind, body):
            last = line
    except Exception as error:  # whatever it is, it is this row's
        return {"error": one_line(error), "seconds": time.perf_counter() - began}
    seconds = time.perf_counter() - began
    usage = last["answer"]["usage"]
    tokens = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    return {"output": last["answer"], "usage": tokens, "seconds": seconds}


def main(words: list[str]) -> int:
    """Answer until standard input ends; a first line says that the model is loaded, or why it is not."""
    # What libraries print must not stand between the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)

        def tell(value: dict[str, Any]) -> None:
            out.write(json.dumps(value) + "\n")
            out.flush()

        given = dict(word.split("=", 1) for word in words if "=" in word)
        try:
            from slmflow.serving.loading import load_backend

            backend = load_backend(given["model_uri"], tracing=False)
        except Exception as error:
            tell({"failed": one_line(error)})
            return 1
        tell({"model": backend.describe()})
        with asyncio.Runner() as runner:
            for line in sys.stdin:
                tell(runner.run(outcome(backend, json.loads(line))))
        backend.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
