"""The report of a replay as one HTML page that needs no other file, and as Markdown."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from slmflow.monitoring.drift import RULE, Comparison, Test
from slmflow.monitoring.figures import MEANINGS, OF_MACHINE, QUANTITIES, SHARES
from slmflow.monitoring.replay import Replay, conclusion, notes_of, shown, titled
from slmflow.workflow import card

if TYPE_CHECKING:
    from slmflow.monitoring.traces import Row

SHOWN = 20
"""Rows whose answers are printed side by side."""
STYLE = """
body { max-width: 72rem; } .lead { font-size: 1.05rem; margin: .4rem 0 1.2rem; }
table { font-variant-numeric: tabular-nums; } .facts td { overflow-wrap: anywhere; }
.facts td:first-child { min-width: 6rem; overflow-wrap: normal; }
.said td { vertical-align: top; max-width: 22rem; overflow-wrap: anywhere; white-space: pre-wrap; }
b.drifted { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem; }
dd { margin: 0; } @page { size: A4 landscape; margin: 10mm; }
@media print {
  body { max-width: none; margin: 0; font-size: 9pt; } table { display: table; font-size: 7.5pt; }
  details > * { display: revert; } details::details-content { content-visibility: visible; block-size: auto; }
  tr { break-inside: avoid; }
}
"""
TITLES = {
    "over time": "Production over time: its older half against its newer half",
    "champion now": "The champion now against production as logged, on requests that were not redacted",
    "challenger": "The challenger against the champion, on this machine",
}
Table = list[tuple[str, ...]]


def html(replay: Replay) -> str:
    """The page."""
    comparisons = replay.comparisons()
    body = f'<p class="lead">{escape(conclusion(comparisons))}</p>'
    body += "".join(f"<p>{escape(note)}</p>" for note in notes_of(replay))
    told = card.table([(escape(name), escape(value)) for name, value in facts(replay)])
    body += f'<div class="facts">{told}</div>'
    for one in comparisons:
        body += f"<h2>{escape(TITLES[one.name])}</h2>{_said_of(one)}"
    body += f"<p>{escape(RULE)}</p><h2>Figures</h2>{_cells(figures(replay))}"
    body += f"<p>{escape(of_machines(replay))}</p>{_examples(replay)}"
    pairs = "".join(
        f"<dt>{escape(titled(name))}</dt><dd>{escape(meaning)}</dd>" for name, meaning in MEANINGS.items()
    )
    return card.page(f"Replay · {replay.experiment}", f"{body}<h2>Meanings</h2><dl>{pairs}</dl>", STYLE)


def markdown(replay: Replay) -> str:
    """The same to paste, without the answers."""
    comparisons = replay.comparisons()
    parts = [conclusion(comparisons), *notes_of(replay), _lines([("", ""), *facts(replay)])]
    for one in comparisons:
        parts += [f"## {TITLES[one.name]}", _lines(tests(one)) if one.tests else "Too few calls to test."]
        parts += [said] if (said := same_answers(one)) else []
    parts += [RULE, "## Figures", _lines(figures(replay)), of_machines(replay)]
    return "\n\n".join(parts) + "\n"


def facts(replay: Replay) -> list[tuple[str, str]]:
    """What was replayed, against what."""
    rows, traces = replay.rows, replay.traces
    skipped = "; ".join(f"{count} {reason}" for reason, count in sorted(traces.skipped.items()))
    redacted = ", ".join(f"{count} [{name}]" for name, count in replay.redacted.items())
    touched = sum(bool(row.redacted) for row in rows)
    production = ", ".join(sorted({row.model_id or "not said" for row in rows}))
    return [
        (
            "requests",
            f"{len(rows)} of {traces.read} traces read, {_when(rows[0])} to {_when(rows[-1])} (UTC)",
        ),
        ("left out", skipped or "none"),
        ("redacted", f"{redacted}, in {touched} requests" if redacted else "nothing"),
        ("production was answered by", production),
        *((role, model) for role, model in replay.models.items()),
        ("dataset", f"sha256 {replay.digest}"),
    ]


def tests(one: Comparison) -> Table:
    """Head and rows of what was tested."""
    rows: Table = [("figure", "verdict", one.before, one.after, "effect", "p", "p after Holm")]
    for test in one.tests:
        before, after = (shown(test.figure, value) for value in (test.before, test.after))
        verdict = "drifted" if test.drifted else "–"
        p = (f"{value:.2g}" for value in (test.p, test.p_holm))
        named = f"{titled(test.figure)}, {test.statistic}" if test.statistic else titled(test.figure)
        rows.append((named, verdict, before, after, effect(test), *p))
    return rows


def same_answers(one: Comparison) -> str:
    """How many answers are identical; empty where that was not asked."""
    if one.identical is None:
        return ""
    return f"{100 * one.identical:.1f} % of the answers are the same, letter by letter."


def effect(test: Test) -> str:
    """Points of a share, or relative change."""
    return f"{100 * test.effect:+.1f} {'points' if test.figure in SHARES else '%'}"


def figures(replay: Replay) -> Table:
    """Head and rows of all sides' figures."""
    sides = replay.figures()
    rows: Table = [("", *sides)]
    for name in ("rows", "json_asked"):
        rows.append((titled(name), *(shown(name, side.get(name)) for side in sides.values())))
    for name in QUANTITIES:
        for kind in ("mean", "p50", "p95"):
            said = (shown(name, side.get(f"{name}_{kind}")) for side in sides.values())
            rows.append((f"{titled(name)}, {kind}", *said))
    for name in SHARES:
        rows.append((titled(name), *(shown(name, side.get(name)) for side in sides.values())))
    return rows


def of_machines(replay: Replay) -> str:
    """Whose the speeds are."""
    named = " and ".join(titled(name) for name in OF_MACHINE)
    return (
        f"{named.capitalize()} of the models are of this machine ({replay.machine['cpu']}, "
        f"{replay.machine['cores']} cores), one request after the other; production's are of its own, under "
        "its own load, and are compared with themselves only."
    )


def _said_of(one: Comparison) -> str:
    said = same_answers(one)
    if not one.tests:
        return f"<p>Too few calls to test. {said}</p>"
    head, *rows = tests(one)
    cells = [
        tuple(f'<b class="drifted">{escape(cell)}</b>' if cell == "drifted" else escape(cell) for cell in row)
        for row in rows
    ]
    said = card.table(cells, tuple(map(escape, head))) + f"<p>{said}</p>"
    if one.untested:
        named = ", ".join(map(titled, one.untested))
        said += f"<p>Too few values to test: {escape(named)}.</p>"
    return said


def _examples(replay: Replay) -> str:
    """Rows on which the last model parts from production or the champion, side by side."""
    last = list(replay.answers)[-1]
    champion = replay.answers["champion"]
    rows = []
    for row in replay.rows:
        mine = replay.answers[last][row.id]
        other = champion[row.id] if last != "champion" else row.production
        if (mine.text, mine.error) != (other.text, other.error):
            calls = [row.production, *(replay.answers[role][row.id] for role in replay.answers)]
            said = (call.text if call.error is None else f"error: {call.error}" for call in calls)
            rows.append(tuple(escape(text[:600]) for text in (_asked(row), *said)))
    if not rows:
        return ""
    table = card.table(rows[:SHOWN], ("request", "production", *replay.answers))
    count = f"{len(rows)} answers that differ" + (f", the first {SHOWN}" if len(rows) > SHOWN else "")
    return f'<h2>Answers</h2><details><summary>{count}</summary><div class="said">{table}</div></details>'


def _asked(row: Row) -> str:
    """The last words of a request."""
    messages = row.request.get("messages")
    return str(messages[-1].get("content")) if messages else str(row.request["prompt"])


def _when(row: Row) -> str:
    return datetime.fromtimestamp(row.began / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _cells(table: Table) -> str:
    head, *rows = [tuple(map(escape, row)) for row in table]
    return card.table(rows, head)


def _lines(table: list[tuple[str, ...]] | list[tuple[str, str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in table]
    escaped.insert(1, ["---"] * len(escaped[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
