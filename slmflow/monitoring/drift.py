"""The rule by which drift is called: a test, a least effect, and a correction for how many tests there are.

Drift is called where the corrected p-value is below ALPHA **and** the effect is at least LEAST_SHARE (shares:
difference) or LEAST_CHANGE (quantities: relative change of the mean or the median).

| | different requests (older, newer) | the same requests asked twice |
| --- | --- | --- |
| shares | Fisher's exact test of two proportions | McNemar's exact test |
| quantities | Mann–Whitney U | Wilcoxon's signed-rank test |

R. A. Fisher, Statistical Methods for Research Workers (1934), § 21.02; Q. McNemar, Psychometrika 12 (1947);
Mann and Whitney, Ann. Math. Statist. 18 (1947); F. Wilcoxon, Biometrics Bulletin 1 (1945). The p-values of
all tests of a report are corrected together by S. Holm's step-down procedure, Scand. J. Statist. 6 (1979),
which keeps the probability of any false call at ALPHA.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slmflow.monitoring.call import Call
from slmflow.monitoring.figures import OF_MACHINE, QUANTITIES, SHARES, values_of

Floats = NDArray[np.float64]

ALPHA = 0.05
LEAST_SHARE = 0.05
LEAST_CHANGE = 0.10
LEAST_ROWS = 20
"""With fewer values on a side nothing is tested."""
RULE = (
    f"Drift is called where the p-value, corrected by Holm for all tests of this report, is below {ALPHA:g} "
    f"and a share differs by {100 * LEAST_SHARE:g} percentage points or more, or a mean or median by "
    f"{LEAST_CHANGE:.0%} of itself or more. Different requests: Fisher's exact test, Mann–Whitney. The same "
    f"requests asked twice: McNemar's exact test, Wilcoxon. Where a side has "
    f"fewer than {LEAST_ROWS} values nothing is tested."
)


@dataclass(frozen=True)
class Test:
    """One figure of two sides, compared."""

    figure: str
    before: float
    """A share, or what `statistic` says."""
    after: float
    effect: float
    """Shares: difference. Quantities: relative change."""
    p: float
    statistic: str = ""
    """Of quantities: `mean` or `median`, whichever changed more; empty for shares."""
    p_holm: float = 1.0
    drifted: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two sides, and what was tested between them."""

    name: str
    before: str
    after: str
    tests: list[Test]
    untested: list[str]
    """Figures with too few values."""
    identical: float | None = None
    """Share of the same answers, where the same requests were asked."""

    @property
    def drifted(self) -> list[Test]:
        """What drifted."""
        return [test for test in self.tests if test.drifted]


def compare(
    name: str,
    sides: tuple[str, str],
    before: Sequence[Call],
    after: Sequence[Call],
    *,
    paired: bool,
    same_machine: bool,
    identical: float | None = None,
) -> Comparison:
    """Test every figure; `paired` is for the same requests in the same order. Not corrected yet."""
    tests, untested = [], []
    for figure in (*QUANTITIES, *SHARES):
        if figure in OF_MACHINE and not same_machine:
            continue
        first, second = values_of(figure, before), values_of(figure, after)
        if paired:
            both = [(one, two) for one, two in zip(first, second, strict=True) if None not in (one, two)]
            first, second = [one for one, _ in both], [two for _, two in both]
        known = tuple(np.array([v for v in side if v is not None], dtype=float) for side in (first, second))
        if min(map(len, known)) < LEAST_ROWS:
            untested.append(figure)
            continue
        tests.append(_tested(figure, *known, paired=paired))
    return Comparison(name, *sides, tests, untested, identical)


def corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """The comparisons with the p-values of all their tests corrected together, and drift called."""
    adjusted = iter(holm([test.p for one in comparisons for test in one.tests]))
    return [replace(one, tests=[_judged(test, next(adjusted)) for test in one.tests]) for one in comparisons]


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given."""
    order = sorted(range(len(values)), key=lambda at: values[at])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = highest
    return adjusted


def _judged(test: Test, p: float) -> Test:
    least = LEAST_SHARE if test.figure in SHARES else LEAST_CHANGE
    # A share of exactly the least effect must not hang on the last bit of a float.
    return replace(test, p_holm=p, drifted=p < ALPHA and abs(test.effect) >= least - 1e-9)


def _tested(figure: str, before: Floats, after: Floats, *, paired: bool) -> Test:
    if figure in SHARES:
        effect = float(after.mean() - before.mean())
        p = _mcnemar(before, after) if paired else _fisher(before, after)
        return Test(figure, float(before.mean()), float(after.mean()), effect, p)
    medians = float(np.median(before)), float(np.median(after))
    means = float(before.mean()), float(after.mean())
    p = _wilcoxon(before, after) if paired else _mann_whitney(before, after)
    if abs(_change(*means)) > abs(_change(*medians)):
        return Test(figure, *means, _change(*means), p, "mean")
    return Test(figure, *medians, _change(*medians), p, "median")


def _change(before: float, after: float) -> float:
    """Relative change; of nothing, 1."""
    return (after - before) / before if before else float(np.sign(after))


def _fisher(before: Floats, after: Floats) -> float:
    from scipy.stats import fisher_exact

    hits = [int(side.sum()) for side in (before, after)]
    table = [hits, [len(before) - hits[0], len(after) - hits[1]]]
    return float(fisher_exact(table).pvalue)


def _mcnemar(before: Floats, after: Floats) -> float:
    from scipy.stats import binomtest

    gained, lost = int((after > before).sum()), int((after < before).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _mann_whitney(before: Floats, after: Floats) -> float:
    from scipy.stats import mannwhitneyu

    if before.min() == before.max() == after.min() == after.max():
        return 1.0  # all the same: the statistic has no variance
    return float(mannwhitneyu(before, after).pvalue)


def _wilcoxon(before: Floats, after: Floats) -> float:
    from scipy.stats import wilcoxon

    if not (before != after).any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties, which the normal approximation allows for
        return float(wilcoxon(before, after, zero_method="wilcox").pvalue)
