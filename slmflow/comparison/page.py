"""The comparison as one HTML page that needs no other file; without scripts it only does not sort."""

from __future__ import annotations

from html import escape
from pathlib import Path

from slmflow.comparison.flips import Flip
from slmflow.comparison.table import NOT_MEASURED, Cell, Table
from slmflow.workflow import card

HERE = Path(__file__).parent
TRADED = (
    "Area: tokens a second. Filled: on the Pareto front of size, KL divergence and speed: nothing here is "
    "better in one of them and as good in the others."
)
PARTS = {"fidelity": "fidelity to the fp32 reference", "tasks": "tasks", "size": "", "cost": "cost"}


def html(table: Table, picture: str, sentence: str, chosen: str, flips: list[Flip], name: str) -> str:
    """The page; `chosen` is the recommended run, `name` what is compared."""
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    body = f'<p class="lead">{escape(sentence)}</p>{notes}{_table(table, chosen, lead=True)}'
    if picture:
        body += f"<h2>What is traded</h2>{picture}<p>{TRADED}</p>"
    body += _flips(flips, table.baseline.label)
    body += f"<h2>Every figure</h2>{_table(table, chosen, lead=False)}{_meanings(table)}"
    script, style = ((HERE / file).read_text(encoding="utf-8") for file in ("sort.js", "page.css"))
    return card.page(f"Comparison · {name}", f"{body}<script>{script}</script>", style)


def _table(table: Table, chosen: str, *, lead: bool) -> str:
    """All columns, or those of a first look; a button in each head sorts by it."""
    places = [at for at, column in enumerate(table.columns) if column.is_lead or not lead]
    columns = [table.columns[at] for at in places]
    spans: list[tuple[str, int]] = []
    for column in columns:
        if spans and spans[-1][0] == column.part:
            spans[-1] = (column.part, spans[-1][1] + 1)
        else:
            spans.append((column.part, 1))
    parts = "".join(f'<th colspan="{count}">{PARTS[part]}</th>' for part, count in spans)
    firsts = {column.part: column.key for column in reversed(columns)}
    starts = set(firsts.values())
    heads = ""
    for column in columns:
        first = "descending" if column.better == "higher" else "ascending"
        words = f'{_first(column.key in starts)} title="{escape(column.meaning)}" data-first="{first}"'
        heads += f'<th scope="col"{words}><button>{escape(column.title)}</button></th>'
    rows = []
    for entry, cells in zip(table.entries, table.rows, strict=True):
        link = card.run_link(entry.run_id, entry.experiment_id)
        mark = ' class="chosen"' if entry.run_id == chosen else ""
        made = "".join(_cell(cells[at], first=table.columns[at].key in starts) for at in places)
        rows.append(f"<tr{mark}><td>{escape(entry.label)}<small>{link}</small></td>{made}</tr>")
    return (
        f'<div class="wide"><table><thead><tr class="part"><th></th>{parts}</tr>'
        f'<tr><th scope="col"><button>candidate</button></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _first(first: bool) -> str:
    return ' class="first"' if first else ""


def _cell(cell: Cell, *, first: bool) -> str:
    from slmflow.comparison.columns import significant

    kinds = " ".join(["first"] * first + ["best"] * cell.best)
    mark = f' class="{kinds}"' if kinds else ""
    if cell.value is None:
        said = f"–<small>{NOT_MEASURED}</small>" if cell.text == NOT_MEASURED else cell.text
        return f'<td{mark} data-value="">{said}</td>'
    text = f"<b>{cell.text}</b>" if cell.best else cell.text
    group = f"<sup>{cell.group}</sup>" if cell.group else ""
    error = f"<small>± {significant(cell.error)}</small>" if cell.error is not None else ""
    difference = f"<small>{escape(cell.difference)}</small>" if cell.difference else ""
    return f'<td{mark} data-value="{cell.value!r}">{text}{group}{error}{difference}</td>'


def _flips(flips: list[Flip], baseline: str) -> str:
    if not flips:
        return ""
    rows = [
        tuple(
            escape(text)
            for text in (
                flip.id,
                flip.kind,
                flip.expected,
                flip.baseline,
                ", ".join(flip.gained),
                ", ".join(flip.lost),
            )
        )
        for flip in flips
    ]
    head = ("item", "kind", "right", f"{escape(baseline)} said", "right only here", "wrong only here")
    return (
        f"<h2>Flips</h2><details><summary>{len(flips)} items on which somebody parts from {escape(baseline)}"
        + (f'</summary><div class="flips">{card.table(rows, head)}</div></details>')
    )


def _meanings(table: Table) -> str:
    pairs = "".join(f"<dt>{escape(one.title)}</dt><dd>{escape(one.meaning)}</dd>" for one in table.columns)
    baseline = escape(table.baseline.label)
    said = (
        f"± is a standard error; × and signs compare with {baseline}; the best of those comparable is bold."
    )
    return f"<h2>Columns</h2><p>{said}</p><dl>{pairs}</dl>"
