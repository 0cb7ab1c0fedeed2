"""The names that a request may have."""

from __future__ import annotations

SAMPLING = (
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "n",
    "stop",
    "ignore_eos",
    "deterministic",
)
SHAPES = ("response_format", "tools", "tool_choice", "stream", "stream_options", "model")
IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
    "reasoning_effort",
    "verbosity",
)
"""Asked for by clients as a matter of course, and without a meaning here."""
FIELDS = frozenset(("prompt", "messages", *SAMPLING, *SHAPES, *IGNORED))
