"""Answers in OpenAI's shapes, whole or in chunks, from what the scheduler tells."""

from __future__ import annotations

import time
import uuid
from typing import Any

from .job import Job, Piece
from .request import Request
from .sampling import Logprob, Sampled
from .tokenizer import TextTokenizer
from .tools import parse_calls


class Answer:
    """Collects the pieces of one request."""

    def __init__(self, request: Request, job: Job, tokenizer: TextTokenizer, model: str) -> None:
        self._request, self._job, self._tokenizer = request, job, tokenizer
        prefix, self._object = (
            ("chatcmpl", "chat.completion") if request.kind == "chat" else ("cmpl", "text_completion")
        )
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._texts = [""] * request.n
        self._sampled: list[list[Sampled]] = [[] for _ in range(request.n)]
        self._reasons: list[str | None] = [None] * request.n
        self._begun: set[int] = set()

    def add(self, piece: Piece) -> None:
        """Take a piece into the whole answer."""
        self._texts[piece.index] += piece.text
        if piece.sampled is not None:
            self._sampled[piece.index].append(piece.sampled)
        self._reasons[piece.index] = piece.finish_reason

    def whole(self) -> str | dict[str, Any]:
        """Text for a prompt; a `chat.completion` or `text_completion` object otherwise."""
        if self._request.kind == "prompt":
            return self._texts[0]
        choices = [self._choice(index) for index in range(self._request.n)]
        return {**self._head, "object": self._object, "choices": choices, "usage": self.usage()}

    def chunks(self, piece: Piece) -> list[str | dict[str, Any]]:
        """What a stream shows of a piece; a model's tool calls come whole, with the last one."""
        self.add(piece)
        if self._request.kind == "prompt":
            return [piece.text] if piece.text else []
        if self._request.kind == "completion":
            shown = piece.text or piece.finish_reason or self._has_logprobs()
            return [self._chunk(piece.index, {"text": piece.text}, piece)] if shown else []
        made: list[str | dict[str, Any]] = []
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            made.append(self._chunk(piece.index, {"delta": {"role": "assistant", "content": ""}}))
        if self._request.tools:
            if piece.finish_reason:
                choice = self._choice(piece.index)
                delta = {name: value for name, value in choice["message"].items() if name != "role"}
                if "tool_calls" in delta:
                    calls = enumerate(delta["tool_calls"])
                    delta["tool_calls"] = [{"index": number, **call} for number, call in calls]
                made.append(self._chunk(piece.index, {"delta": delta}))
                last = Piece(piece.index, finish_reason=choice["finish_reason"])
                made.append(self._chunk(piece.index, {"delta": {}}, last))
            return made
        if piece.text or self._has_logprobs():
            told = Piece(piece.index, piece.text, piece.sampled)
            made.append(self._chunk(piece.index, {"delta": {"content": piece.text}}, told))
        if piece.finish_reason:
            last = Piece(piece.index, finish_reason=piece.finish_reason)
            made.append(self._chunk(piece.index, {"delta": {}}, last))
        return made

    def last_chunks(self) -> list[str | dict[str, Any]]:
        """After the last piece: usage, if it was asked for."""
        if not self._request.include_usage or self._request.kind == "prompt":
            return []
        return [{**self._head, "object": self._chunk_object(), "choices": [], "usage": self.usage()}]

    @property
    def finish_reasons(self) -> list[str | None]:
        """Why each answer ended."""
        return list(self._reasons)

    def usage(self) -> dict[str, Any]:
        """Tokens of the prompt and of all answers; cached ones were not read anew."""
        prompt, completion = len(self._job.ids), self._job.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self._job.cached_tokens},
        }

    def timings(self) -> dict[str, int | float]:
        """Seconds from submission, and tokens: for metrics."""
        job, now = self._job, time.monotonic()
        return {
            "prompt_tokens": len(job.ids),
            "completion_tokens": job.completion_tokens,
            "cached_tokens": job.cached_tokens,
            "queued_seconds": (job.started or now) - job.submitted,
            "first_token_seconds": (job.first_token or now) - job.submitted,
            "seconds": (job.ended or now) - job.submitted,
        }

    def _has_logprobs(self) -> bool:
        return self._request.sampling.top_logprobs is not None

    def _choice(self, index: int) -> dict[str, Any]:
        text, reason = self._texts[index], self._reasons[index]
        logprobs = self._logprobs(self._sampled[index]) if self._has_logprobs() else None
        if self._request.kind == "completion":
            return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._request.tools:
            template = self._tokenizer.chat_template or ""
            content, calls = parse_calls(template, text, set(self._request.tools))
            message["content"] = content
            if calls:
                message |= {"content": content or None, "tool_calls": calls}
                reason = "tool_calls"
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def _chunk_object(self) -> str:
        return "chat.completion.chunk" if self._request.kind == "chat" else self._object

    def _chunk(self, index: int, content: dict[str, Any], piece: Piece | None = None) -> dict[str, Any]:
        sampled = piece.sampled if piece else None
        logprobs = self._logprobs([sampled]) if sampled and self._has_logprobs() else None
        reason = piece.finish_reason if piece else None
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "object": self._chunk_object(), "choices": [choice]}

    def _logprobs(self, sampled: list[Sampled]) -> dict[str, Any]:
        known = [one for one in sampled if one.logprob is not None]
        if self._request.kind == "chat":
            content = [
                {
                    **self._named(one.logprob),
                    "top_logprobs": [self._named(other) for other in one.alternatives],
                }
                for one in known
                if one.logprob
            ]
            return {"content": content}
        texts = [self._tokenizer.token_text(one.token) for one in known]
        return {
            "tokens": texts,
            "token_logprobs": [one.logprob.logprob for one in known if one.logprob],
            "top_logprobs": [
                {self._tokenizer.token_text(other.token): other.logprob for other in one.alternatives}
                for one in known
            ],
        }

    def _named(self, one: Logprob) -> dict[str, Any]:
        text = self._tokenizer.token_text(one.token)
        return {"token": text, "logprob": one.logprob, "bytes": list(text.encode())}
