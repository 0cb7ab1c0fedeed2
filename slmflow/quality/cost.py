"""What an answer costs on this machine: time to the first token, and tokens a second after it."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slmflow.quality.candidates import Candidate


def measure_speed(candidate: Candidate, prompt: list[int], new_tokens: int, repeats: int) -> dict[str, float]:
    """TTFT (seconds from the request to its first token), and speeds in tokens a second, over `repeats`.

    One generation before them warms up and is not counted. Medians are of generations; `_p5` and `_p95` of
    all tokens: the speed that 95 % of tokens reach, the wait that 95 % of first tokens keep to. Decoding
    leaves the first token out, as it belongs to the prompt.
    """
    candidate.token_times(prompt, new_tokens)
    runs = [candidate.token_times(prompt, new_tokens) for _ in range(repeats)]
    firsts = [times[0] for times in runs]
    speeds = [(len(times) - 1) / (times[-1] - times[0]) for times in runs]
    gaps = np.concatenate([np.diff(times) for times in runs])
    return {
        "prompt_tokens": float(len(prompt)),
        "ttft_seconds": statistics.median(firsts),
        "ttft_seconds_p95": float(np.quantile(firsts, 0.95)),
        "prefill_tokens_per_second": len(prompt) / statistics.median(firsts),
        "decode_tokens_per_second": statistics.median(speeds),
        "decode_tokens_per_second_p5": float(1 / np.quantile(gaps, 0.95)),
        "decode_tokens_per_second_min": min(speeds),
        "decode_tokens_per_second_max": max(speeds),
    }
