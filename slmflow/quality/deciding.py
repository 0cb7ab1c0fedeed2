"""How many windows and items an evaluation asks, settled and said before any is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slmflow.quality.amount import Amount, Pace, costs, decide
from slmflow.quality.asking import loads
from slmflow.quality.evaluation import DECODED, GREEDY_ANSWER

if TYPE_CHECKING:
    from collections.abc import Callable

    from slmflow.config import EvaluateConfig
    from slmflow.quality.candidates import Candidate
    from slmflow.quality.journal import Journal
    from slmflow.quality.windows import Window
    from slmflow.workflow.asked import Ask

PARTS = {"windows": "fidelity", "items": "tasks"}
"""What is counted, to the part of the evaluation that it belongs to."""
COMPARED = 1.2
"""Passes over a window, in time, that reading it and comparing it take."""
ANSWERED = 0.6
"""Of the tokens that answers may have, those that they have, about."""
TRACED = 0.25
"""Seconds that a trace of an answer takes."""
AFTERWARDS = 4.0
"""Seconds that writing, indexing and ending take."""
TYPICAL = 128
"""Tokens of a question with its answer."""
READS, DECODES, ROWS = 0.4, 2.0, 16
"""An export beside the pipeline: `gguf_cpu` of the default model, the slowest one shipped, reads at 0.4 to
0.5 times and decodes at 2.4 times its speed, 16 rows at once (docs/evaluate.md)."""


@dataclass(frozen=True)
class Measurement:
    """A loaded candidate that is about to be measured."""

    candidate: Candidate
    text: list[Window]
    """All windows of the text."""
    journals: dict[str, Journal]
    """Of the parts that are to be measured."""
    times: list[float]
    """Seconds to each token of an answer to `evaluate.prompt_tokens` of prompt."""
    spent: float
    """Seconds since the process began."""
    is_pipeline: bool
    """Whether the reference is computed too, and exported candidates will be asked the same."""


def settle(measurement: Measurement, ask: Ask, config: EvaluateConfig) -> dict[str, Any]:
    """How many windows and items are asked, of how many, and which windows; of the parts to be measured.

    Says it, and what of it takes longer than it may, or is less than it should be. What an interrupted
    evaluation began is asked again.
    """
    text, journals = measurement.text, measurement.journals
    there = Amount(min(len(text), config.windows), len(ask.order))
    least, most, said = ask.limits(text, config.windows)
    ranges = []
    for name, part in PARTS.items():
        low, high = getattr(least, name), getattr(most, name)
        begun = journals[part].decided if part in journals else 0
        if part not in journals or (begun is not None and low <= begun <= high):
            low = high = begun or 0
        ranges.append((low, high))
    ordered = ask.windows_in_order(text, config.windows)
    bounds = [Amount(*numbers) for numbers in zip(*ranges, strict=True)]
    own, other = _costs(measurement, ask, config)
    amount, _ = decide(bounds[0], bounds[1], ask.minutes, lambda one: max(own(one), other(one)))
    asked: dict[str, Any] = {}
    for name, part in PARTS.items():
        if part in journals:
            asked |= {name: getattr(amount, name), f"of_{name}": getattr(there, name)}
            journals[part].decide(asked[name])
    if "windows" in asked:
        asked["places"] = sorted(window.number for window in ordered[: amount.windows])
    if not ask.of and ask.minutes is not None:
        said = [*said, *_too_short(ask, own(amount), other(amount))]
    for line in said:
        print(f"  {line}", flush=True)
    tokens = sum(len(window.targets) for window in ordered[: amount.windows])
    what = f"{tokens:,} scored tokens and {amount.items} of {there.items} items"
    print(f"  asks {what}, {ask.why}: some {own(amount):.0f} s in all", flush=True)
    return asked


def _too_short(ask: Ask, own: float, other: float) -> list[str]:
    """What takes longer than it may, a line; the gate's needs come first."""
    assert ask.minutes is not None
    limit = f"evaluate.minutes={ask.minutes:g} is too short"
    if own > 60 * ask.minutes:
        return [f"{limit} for what has to be asked: it takes some {own / 60:.1f} minutes"]
    if other > 60 * ask.minutes:
        return [f"{limit} for slower candidates, which are asked the same: some {other / 60:.1f} minutes"]
    return []


def _costs(
    measurement: Measurement, ask: Ask, config: EvaluateConfig
) -> tuple[Callable[[Amount], float], Callable[[Amount], float]]:
    """Seconds of the whole step by the amount that is asked: this candidate's, and an exported one's."""
    times, candidate = measurement.times, measurement.candidate
    reading, step = config.prompt_tokens / times[0], (times[-1] - times[0]) / (len(times) - 1)
    traced = TRACED * reading if config.traces else 0.0
    work = [(read + (traced if new else 0.0), ANSWERED * new) for read, new in loads(candidate, ask.order)]

    def seconds(pace: Pace, passes: int) -> Callable[[Amount], float]:
        answer = config.prompt_tokens / pace.reading + config.new_tokens * pace.step
        window = passes * COMPARED * config.window / pace.reading + GREEDY_ANSWER * pace.step
        rest = measurement.spent + DECODED * pace.step + (config.repeats + 1) * answer + AFTERWARDS
        return costs(pace, window, work, rest)

    own = seconds(Pace(reading, step, candidate.rows(TYPICAL)), 2 if measurement.is_pipeline else 1)
    if not measurement.is_pipeline:
        return own, own
    return own, seconds(Pace(READS * reading, step / DECODES, ROWS), 1)
