"""The transformers pipeline in the worker: MLflow's chat flavour, with an adapter in place of its predict.

MLflow's own predict answers a list, refuses `stream: false`, `n: 1` and `tools` of its own signature
(mlflow#14429), drops `seed`, ignores `temperature: 0`, samples when nobody asked it to, and leaves the stop
text in. The adapter calls the same pipeline, answers in OpenAI's shape, and refuses what it cannot do.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from slmflow.serving.backend import in_thread, invocation_rows, resident_bytes, size_of, timed

if TYPE_CHECKING:
    from slmflow.serving.backend import Line

NUMBERS: dict[str, tuple[float, float, float]] = {
    "max_tokens": (256, 1, 2**31),
    "temperature": (0, 0, 2),
    "top_p": (1, 0, 1),
    "seed": (0, -(2**63), 2**64),
    "n": (1, 1, 16),
}
"""Default, least, most."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
}
"""Values that ask for nothing."""
READ = ("messages", "stop", "stream", "max_completion_tokens", *NUMBERS)
DROPPED = ("model", "user", "stream_options", "metadata", "store", "deterministic")


class PipelineBackend:
    """One request at a time: generate() holds Python's lock most of the time."""

    def __init__(self, uri: str) -> None:
        import mlflow
        from mlflow.models import Model

        self._pipeline: Any = mlflow.transformers.load_model(uri)
        card = Model.load(uri)
        self._metadata = dict(card.metadata or {})
        self._name = str(card.flavors["transformers"].get("source_model_name", "pipeline")).rsplit("/", 1)[-1]
        self._lock = asyncio.Lock()
        self._running = self._tokens = 0

    async def answer(self, kind: str, body: Any) -> AsyncGenerator[Line]:
        """One answer; a stream of two chunks an answer where a stream is asked for."""
        started = time.monotonic()
        if kind == "completion":
            raise ValueError("the pipeline answers chats: use /v1/chat/completions, or serve the ONNX model")
        rows, wrapped = invocation_rows(body) if kind == "invocations" else ([body], False)
        asked = [_checked(row) for row in rows]
        self._running += 1
        try:
            async with self._lock:
                answers = [await in_thread(self._complete, row) for row in asked]
        finally:
            self._running -= 1
        tokens = size_of(answers)
        self._tokens += tokens
        timings = timed(started, sum(answer["usage"]["prompt_tokens"] for answer in answers), tokens)
        if kind == "invocations":
            yield {"answer": {"predictions": answers} if wrapped else answers, "timings": timings}
        elif body.get("stream"):
            for chunk in _chunks(answers[0]):
                yield {"chunk": chunk}
            yield {"done": True, "timings": timings}
        else:
            yield {"answer": answers[0], "timings": timings}

    def stats(self) -> Line:
        """Requests that run or wait."""
        return {
            "engine": "transformers",
            "running": min(self._running, 1),
            "waiting": max(self._running - 1, 0),
            "tokens_total": self._tokens,
            "resident_bytes": resident_bytes(),
        }

    def describe(self) -> Line:
        """Name and fingerprint."""
        return {
            "name": self._name,
            "engine": "transformers",
            "fingerprint": self._metadata.get("fingerprint"),
            "flavour": "pipeline",
            "chat_template": True,
        }

    def close(self) -> None:
        """Nothing runs by itself."""

    def _complete(self, row: dict[str, Any]) -> Line:
        import torch

        tokenizer, model = self._pipeline.tokenizer, self._pipeline.model
        ids = tokenizer.apply_chat_template(
            row["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        sampled = row["temperature"] > 0 and row["top_p"] > 0
        options: dict[str, Any] = {"max_new_tokens": int(row["max_tokens"]), "do_sample": sampled}
        if sampled:
            torch.manual_seed(int(row["seed"]) & (2**63 - 1) if row["seeded"] else torch.seed())
            options |= {"temperature": row["temperature"], "top_p": row["top_p"], "top_k": 0}
            options["num_return_sequences"] = int(row["n"])
        if row["stop"]:
            options |= {"stop_strings": row["stop"], "tokenizer": tokenizer}
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        ends = model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        choices, completion = [], 0
        for index in range(int(row["n"])):
            said = found[index if sampled else 0, ids.shape[1] :].tolist()
            length = next((at for at, token in enumerate(said) if token in ends), len(said))
            text = tokenizer.decode(said[:length], skip_special_tokens=True)
            cut = min((at for stop in row["stop"] if (at := text.find(stop)) >= 0), default=-1)
            reason = "stop" if cut >= 0 or length < len(said) or length < row["max_tokens"] else "length"
            message = {"role": "assistant", "content": text[:cut] if cut >= 0 else text}
            choices.append({"index": index, "message": message, "finish_reason": reason})
            completion += length
        prompt = int(ids.shape[1])
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._name,
            "choices": choices,
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }


def _checked(row: Any) -> dict[str, Any]:
    """The fields that the adapter reads, checked. Raises ValueError naming the wrong one."""
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        raise ValueError("messages must be a list of at least one message")
    for number, message in enumerate(row["messages"]):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(k), str) for k in ("role", "content")
        ):
            raise ValueError(f"messages[{number}]: role and content must be text")
    given = {name: value for name, value in row.items() if value is not None}
    for name, value in given.items():
        if name not in READ and name not in DROPPED and value not in NEUTRAL.get(name, ()):
            raise ValueError(f"{name[:60]}: the pipeline cannot do that; serve the ONNX model")
    if "max_completion_tokens" in given:
        given["max_tokens"] = given["max_completion_tokens"]
    read: dict[str, Any] = {"messages": row["messages"], "seeded": "seed" in given}
    for name, (default, least, most) in NUMBERS.items():
        value = given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise ValueError(f"{name} must be a number from {least:g} to {most:g}")
        read[name] = value
    stop = given.get("stop", [])
    read["stop"] = [stop] if isinstance(stop, str) else stop
    if not isinstance(read["stop"], list) or not all(isinstance(text, str) and text for text in read["stop"]):
        raise ValueError("stop must be a text or a list of texts")
    return read


def _chunks(answer: Line) -> list[Line]:
    """A whole answer as a stream."""
    head = {name: answer[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    chunks = []
    for choice in answer["choices"]:
        at = {"index": choice["index"]}
        chunks.append({**at, "delta": choice["message"], "finish_reason": None})
        chunks.append({**at, "delta": {}, "finish_reason": choice["finish_reason"]})
    return [{**head, "choices": [chunk]} for chunk in chunks]
