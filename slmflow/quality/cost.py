"""What an answer costs on this machine: time to the first token, and tokens a second after it."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from slmflow.quality.alike import finite
from slmflow.quality.others import others_at_work

if TYPE_CHECKING:
    from slmflow.quality.candidates import Candidate

BUSY = 0.25
"""Processors' worth of other processes' work that is not yet called busy: the driver's own, above all."""


def measure_speed(candidate: Candidate, prompt: list[int], new_tokens: int, repeats: int) -> dict[str, float]:
    """TTFT (seconds from the request to its first token), and speeds in tokens a second, over `repeats`.

    One generation before them warms up and is not counted. What is told is the fastest: whatever else runs
    only makes it slower; medians stand beside it. `_p5` and `_p95` are of all tokens: the speed that 95 % of
    tokens reach, the wait that 95 % of first tokens keep to. Decoding leaves the first token out: it belongs
    to the prompt. `others_before` and `_after` are processors that other processes kept busy.
    """
    import numpy as np
    from tqdm import tqdm

    before = others_at_work()
    candidate.token_times(prompt, new_tokens)
    runs = [candidate.token_times(prompt, new_tokens) for _ in tqdm(range(repeats), "  speed")]
    firsts = [times[0] for times in runs]
    speeds = [(len(times) - 1) / (times[-1] - times[0]) for times in runs]
    gaps = np.concatenate([np.diff(times) for times in runs])
    return {
        "prompt_tokens": float(len(prompt)),
        "new_tokens": float(new_tokens),
        "repeats": float(repeats),
        "ttft_seconds": min(firsts),
        "ttft_seconds_median": statistics.median(firsts),
        "ttft_seconds_p95": float(np.quantile(firsts, 0.95)),
        "prefill_tokens_per_second": len(prompt) / min(firsts),
        "decode_tokens_per_second": max(speeds),
        "decode_tokens_per_second_median": statistics.median(speeds),
        "decode_tokens_per_second_p5": float(1 / np.quantile(gaps, 0.95)),
        "decode_tokens_per_second_min": min(speeds),
        "others_before": before,
        "others_after": others_at_work(),
    }


def busy(evaluation: dict[str, Any]) -> str:
    """What kept the machine busy while speed was measured, for people; empty where that is not known."""
    machine, cost = evaluation.get("machine") or {}, evaluation.get("cost") or {}
    others = max(finite(cost.get(f"others_{when}")) or 0.0 for when in ("before", "after"))
    threads, cores = (int(machine.get(name, 0)) for name in ("threads", "cores"))
    if threads - others >= cores - BUSY:
        return ""
    return f"other processes used {others:.1f} of {threads} processors"
