"""The fidelity of one candidate, window by window, on the paths of prefill and of decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.quality.fidelity import Positions, compare, standard_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slmflow.quality.candidates import Candidate
    from slmflow.quality.journal import Journal
    from slmflow.quality.windows import Window

DECODED = 128
"""Scored positions of the first window that are also computed one token at a time."""
GREEDY_PROMPT, GREEDY_ANSWER = 32, 32
"""Tokens at the beginning of each window that are answered greedily, and tokens of the answer."""


@dataclass(frozen=True)
class Reference:
    """What candidates are held against."""

    logs: NDArray[np.float32]
    """Natural log-probabilities at every scored position of every window, (positions, vocabulary)."""
    greedy: list[list[int]]
    """The pipeline's greedy answers to the windows' beginnings; empty while it is measured itself."""


def measure_fidelity(
    candidate: Candidate, windows: list[Window], reference: Reference, journal: Journal
) -> tuple[dict[str, float], list[Positions]]:
    """All fidelity figures, and what was found in each window.

    `decode_*` are of the first DECODED scored positions of the first window, one token a pass: quantised
    kernels may round otherwise there. `greedy_prefix_mean` is the mean number of tokens, of GREEDY_ANSWER,
    before a greedy answer first differs from the pipeline's.
    """
    from tqdm import tqdm

    found, start = [], 0
    for window in tqdm(windows, "  windows"):
        end = start + len(window.targets)
        positions = journal.positions(f"window-{window.number}")
        if positions is None:
            logs = candidate.logprobs(window.ids)[window.scored]
            positions = compare(reference.logs[start:end], logs, window.targets)
            journal.keep(f"window-{window.number}", positions)
        found.append(positions)
        start = end
    decoded = _decoded(candidate, windows[0], reference, journal).figures()
    figures = Positions.joined(found).figures()
    figures |= {f"decode_{name}": value for name, value in decoded.items()}
    if reference.greedy:
        figures |= _greedy_prefixes(greedy_answers(candidate, windows), reference.greedy)
    return figures, found


def greedy_answers(candidate: Candidate, windows: list[Window]) -> list[list[int]]:
    """GREEDY_ANSWER tokens to the beginning of each window, the end of text ignored."""
    from tqdm import tqdm

    return [
        candidate.greedy(window.ids[:GREEDY_PROMPT], GREEDY_ANSWER) for window in tqdm(windows, "  answers")
    ]


def window_rows(windows: list[Window], found: list[Positions]) -> dict[str, Any]:
    """A table of a row a window, by its place in the text, as `mlflow.log_table` writes it."""
    rows = [positions.figures() for positions in found]
    data = [[window.number, *row.values()] for window, row in zip(windows, rows, strict=True)]
    return {"columns": ["window", *rows[0]], "data": data}


def _decoded(candidate: Candidate, window: Window, reference: Reference, journal: Journal) -> Positions:
    known = journal.positions("decoded")
    if known is not None:
        return known
    start = window.scored.start
    end = min(start + DECODED, window.scored.stop)
    logs = candidate.decode_logprobs(window.ids[:end], start)
    found = compare(reference.logs[: end - start], logs, window.targets[: end - start])
    journal.keep("decoded", found)
    return found


def _greedy_prefixes(answers: list[list[int]], expected: list[list[int]]) -> dict[str, float]:
    # The first difference; an answer without one is all prefix.
    same = [np.append(np.array(a) == np.array(b), False) for a, b in zip(answers, expected, strict=True)]
    lengths = np.array([int(found.argmin()) for found in same])
    return {"greedy_prefix_mean": float(lengths.mean()), "greedy_prefix_mean_se": standard_error(lengths)}
