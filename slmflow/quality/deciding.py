"""How many windows and items an evaluation asks, settled and said before any is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slmflow.quality.amount import Amount, Pace, costs, decide
from slmflow.quality.asking import loads
from slmflow.quality.evaluation import DECODED, GREEDY_ANSWER

if TYPE_CHECKING:
    from slmflow.config import EvaluateConfig
    from slmflow.quality.candidates import Candidate
    from slmflow.quality.journal import Journal
    from slmflow.quality.windows import Window
    from slmflow.workflow.asked import Ask

PARTS = {"windows": "fidelity", "items": "tasks"}
"""What is counted, to the part of the evaluation that it belongs to."""
COMPARED = 1.2
"""Passes over a window, in time, that reading it and comparing it take."""
AFTERWARDS = 4.0
"""Seconds that writing, indexing and ending take."""
TYPICAL = 128
"""Tokens of a question with its answer."""


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
    with_reference: bool
    """Whether the reference is computed too."""


def settle(measurement: Measurement, ask: Ask, config: EvaluateConfig) -> dict[str, Any]:
    """How many windows and items are asked, of how many, by the parts that are to be measured.

    Says it, and what of it takes longer than it may, or is less than it should be. What an interrupted
    evaluation began is asked again.
    """
    text, journals = measurement.text, measurement.journals
    least, most, said = ask.limits(text, config.windows)
    ranges = []
    for name, part in PARTS.items():
        low, high = getattr(least, name), getattr(most, name)
        begun = journals[part].decided if part in journals else 0
        if part not in journals or (begun is not None and low <= begun <= high):
            low = high = begun or 0
        ranges.append((low, high))
    bounds = [Amount(*numbers) for numbers in zip(*ranges, strict=True)]
    amount, seconds = decide(bounds[0], bounds[1], ask.minutes, _costs(measurement, ask, config))
    asked: dict[str, Any] = {}
    most_windows = min(len(text), config.windows)
    for (name, part), there in zip(PARTS.items(), (most_windows, len(ask.order)), strict=True):
        if part in journals:
            asked |= {name: getattr(amount, name), f"of_{name}": there}
            journals[part].decide(asked[name])
    for line in said:
        print(f"  {line}", flush=True)
    if not ask.of and ask.minutes is not None and seconds > 60 * ask.minutes:
        print(f"  evaluate.minutes={ask.minutes:g} is too short for {ask.why}", flush=True)
    tokens = sum(len(window.targets) for window in text[: amount.windows])
    what = f"{tokens:,} scored tokens and {amount.items} of {len(ask.order)} items"
    print(f"  asks {what}, {ask.why}: some {seconds:.0f} s in all", flush=True)
    return asked


def _costs(measurement: Measurement, ask: Ask, config: EvaluateConfig) -> Any:
    """Seconds of the whole step by the amount that is asked."""
    times, candidate = measurement.times, measurement.candidate
    pace = Pace(
        config.prompt_tokens / times[0], (times[-1] - times[0]) / (len(times) - 1), candidate.rows(TYPICAL)
    )
    passes = (2 if measurement.with_reference else 1) * COMPARED
    window = passes * config.window / pace.reading + GREEDY_ANSWER * pace.step
    rest = measurement.spent + DECODED * pace.step + (config.repeats + 1) * times[-1] + AFTERWARDS
    return costs(pace, window, loads(candidate, ask.order), rest)
