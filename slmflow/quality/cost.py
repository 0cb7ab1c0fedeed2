"""What an answer costs on this machine: time to the first token, and tokens a second after it."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmflow.quality.candidates import Candidate


def measure_speed(candidate: Candidate, prompt: list[int], new_tokens: int, repeats: int) -> dict[str, float]:
    """TTFT (seconds from the request to its first token) and decode speed, as medians over `repeats`.

    One generation before them warms up and is not counted. `decode_tokens_per_second` leaves the first
    token out, as it belongs to the prompt.
    """
    candidate.token_times(prompt, new_tokens)
    firsts, speeds = [], []
    for _ in range(repeats):
        times = candidate.token_times(prompt, new_tokens)
        firsts.append(times[0])
        speeds.append((len(times) - 1) / (times[-1] - times[0]))
    return {
        "prompt_tokens": float(len(prompt)),
        "ttft_seconds": statistics.median(firsts),
        "decode_tokens_per_second": statistics.median(speeds),
        "decode_tokens_per_second_min": min(speeds),
        "decode_tokens_per_second_max": max(speeds),
    }
