"""A whole replay: production as it was logged, the models' answers now, and what differs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from slmflow.monitoring.call import Call
from slmflow.monitoring.dataset import digest_of
from slmflow.monitoring.drift import LEAST_ROWS, Comparison, Test, compare, corrected
from slmflow.monitoring.figures import SHARES, figures_of, identical
from slmflow.monitoring.traces import Row, Traces


@dataclass(frozen=True)
class Replay:
    """What the report is a pure function of."""

    experiment: str
    traces: Traces
    models: dict[str, str]
    """`champion`, `challenger` to what they stand for."""
    answers: dict[str, dict[str, Call]]
    """The same roles to a call a row, by the row's id."""
    notes: list[str]
    machine: dict[str, str]

    @property
    def rows(self) -> list[Row]:
        """The replayed rows, from the oldest to the newest."""
        return self.traces.rows

    @property
    def digest(self) -> str:
        """Of the dataset."""
        return digest_of(self.rows)

    @property
    def redacted(self) -> dict[str, int]:
        """Placeholder to how often it stands in the requests."""
        names = sorted({name for row in self.rows for name in row.redacted})
        return {name: sum(row.redacted.get(name, 0) for row in self.rows) for name in names}

    @property
    def halves(self) -> tuple[list[Row], list[Row]]:
        """The older rows and the newer."""
        half = len(self.rows) // 2
        return self.rows[:half], self.rows[half:]

    def sides(self) -> dict[str, list[Call]]:
        """Production whole and in halves, and every model's answers, in the order of the rows."""
        production = [row.production for row in self.rows]
        older, newer = ([row.production for row in half] for half in self.halves)
        sides = {"production": production, "older": older, "newer": newer}
        for role, calls in self.answers.items():
            sides[role] = [calls[row.id] for row in self.rows]
        return sides

    def figures(self) -> dict[str, dict[str, float]]:
        """By side."""
        return {side: figures_of(calls) for side, calls in self.sides().items()}

    def comparisons(self) -> list[Comparison]:
        """Drift over time, the champion against production, the challenger against the champion.

        A request that was redacted was not asked as production's was, so it does not count against it.
        """
        sides = self.sides()
        made = [
            compare(
                "over time",
                ("older", "newer"),
                sides["older"],
                sides["newer"],
                paired=False,
                same_machine=True,
            )
        ]
        as_asked = [not row.redacted for row in self.rows]
        before, after = (
            [call for call, counts in zip(sides[side], as_asked, strict=True) if counts]
            for side in ("production", "champion")
        )
        made.append(
            compare(
                "champion now",
                ("production", "champion"),
                before,
                after,
                paired=True,
                same_machine=False,
                identical=identical(sides["production"], sides["champion"], as_asked),
            )
        )
        if "challenger" in sides:
            first, second = sides["champion"], sides["challenger"]
            made.append(
                compare(
                    "challenger",
                    ("champion", "challenger"),
                    first,
                    second,
                    paired=True,
                    same_machine=True,
                    identical=identical(first, second, [True] * len(first)),
                )
            )
        return corrected(made)


def change_of_model(replay: Replay) -> str:
    """Which models answered production's halves, where they are not the same; else empty."""
    older, newer = (Counter(row.model_id or "not said" for row in half) for half in replay.halves)
    if set(older) == set(newer) or not older:
        return ""
    said = [", ".join(f"{name} ({count})" for name, count in sorted(one.items())) for one in (older, newer)]
    return f"Other models answered in production's older half, {said[0]}, than in its newer, {said[1]}."


def notes_of(replay: Replay) -> list[str]:
    """What is to be known beside the conclusion."""
    return [*replay.notes, *filter(None, [change_of_model(replay)])]


WORDS = {
    "over time": ("production did not drift over time", "production drifted over time in"),
    "champion now": ("the champion answers as production did", "the champion differs from production in"),
    "challenger": ("the challenger as the champion", "the challenger differs from the champion in"),
}


def conclusion(comparisons: list[Comparison]) -> str:
    """One sentence: what drifted, with its numbers, or that nothing did or could be tested."""
    clauses = []
    for one in comparisons:
        same, differs = WORDS[one.name]
        if one.drifted:
            same = f"{differs} {', '.join(map(change, one.drifted))}"
        elif not one.tests:
            same = f"{one.after} against {one.before}: too few calls to test (each needs {LEAST_ROWS})"
        clauses.append(same)
    sentence = "; ".join(clauses)
    return f"{sentence[0].upper()}{sentence[1:]}."


def change(test: Test) -> str:
    """A drifted figure in words."""
    before, after = (shown(test.figure, value) for value in (test.before, test.after))
    statistic = f"{test.statistic} " if test.statistic else ""
    return f"{titled(test.figure)} ({statistic}{before} → {after})"


def titled(name: str) -> str:
    """A figure's name for people."""
    return name.replace("_", " ").replace("json", "JSON")


def shown(name: str, value: float | None) -> str:
    """A figure for people."""
    if value is None:
        return "–"
    if name in SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.3g}"


def as_json(replay: Replay) -> dict[str, Any]:
    """The report for programs."""
    comparisons = replay.comparisons()
    return {
        "conclusion": conclusion(comparisons),
        "experiment": replay.experiment,
        "dataset_digest": replay.digest,
        "rows": len(replay.rows),
        "traces_read": replay.traces.read,
        "skipped": dict(sorted(replay.traces.skipped.items())),
        "redacted": replay.redacted,
        "models": replay.models,
        "notes": notes_of(replay),
        "machine": replay.machine,
        "figures": replay.figures(),
        "comparisons": [
            {
                "name": one.name,
                "before": one.before,
                "after": one.after,
                "identical": one.identical,
                "tests": [vars(test) for test in one.tests],
                "untested": one.untested,
            }
            for one in comparisons
        ],
    }
