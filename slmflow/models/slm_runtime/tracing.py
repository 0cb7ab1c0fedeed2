"""A trace of each call, with its token usage."""

from __future__ import annotations

import time
from typing import Any

import mlflow
from mlflow.entities import LiveSpan

from .answer import Answer
from .request import Request
from .runtime import Runtime


def traced(runtime: Runtime, request: Request) -> str | dict[str, Any]:
    """Answer within a span that MLflow shows as a chat call, below the caller's own."""
    with mlflow.start_span(runtime.options.name, span_type="CHAT_MODEL") as span:
        span.set_inputs(request.asked)  # before the answer, which may fail
        answer = runtime.answer(request)
        whole = answer.whole()
        _describe(span, answer, whole)
    return whole


def record(runtime: Runtime, request: Request, answer: Answer, whole: Any, began: int) -> None:
    """A trace of a call that ended now and began at `began`, in nanoseconds since 1970."""
    ended = time.time_ns()
    span = mlflow.start_span_no_context(runtime.options.name, span_type="CHAT_MODEL", start_time_ns=began)
    span.set_inputs(request.asked)
    _describe(span, answer, whole)
    span.end(end_time_ns=ended)


def _describe(span: LiveSpan, answer: Answer, whole: Any) -> None:
    usage = answer.usage()
    span.set_outputs(whole)
    tokens = {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
    }
    span.set_attribute("mlflow.chat.tokenUsage", tokens)
    # As OpenTelemetry names it; the answer to a plain prompt is text, which does not say why it ended.
    span.set_attribute("gen_ai.response.finish_reasons", answer.finish_reasons)
