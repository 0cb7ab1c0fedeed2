"""A trace of each call, with its token usage."""

from __future__ import annotations

from typing import Any

import mlflow

from .request import Request
from .runtime import Runtime


def traced(runtime: Runtime, request: Request) -> str | dict[str, Any]:
    """Answer within a span that MLflow shows as a chat call."""
    with mlflow.start_span(runtime.options.name, span_type="CHAT_MODEL") as span:
        span.set_inputs({"prompt": runtime.tokenizer.decode(request.ids, keep_special=True)})
        answer = runtime.answer(request)
        whole = answer.whole()
        usage = answer.usage()
        span.set_attribute(
            "mlflow.chat.tokenUsage",
            {
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage["completion_tokens"],
                "total_tokens": usage["total_tokens"],
            },
        )
        span.set_outputs(whole)
    return whole
