"""Cards and the report: pages that MLflow shows among a run's artifacts, whole in one file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.files import files_under

if TYPE_CHECKING:
    from mlflow.entities import Run

STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #2a7; --bad: #d44; --new: #48c; --idle: #888; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
pre { overflow-x: auto; padding: .8rem; border: 1px solid var(--line); border-radius: 6px; }
code, pre { font: 13px/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
.cached { color: var(--idle); } .done { color: var(--good); } .failed, .blocked { color: var(--bad); }
svg { max-width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: currentColor; }
svg rect { fill: none; stroke-width: 1.6; } svg path { fill: none; stroke: var(--idle); }
svg .cached { stroke: var(--idle); } svg .done { stroke: var(--good); }
svg .failed, svg .blocked { stroke: var(--bad); } svg .open { stroke: var(--new); stroke-dasharray: 4 3; }
"""


def page(title: str, body: str, style: str = "") -> str:
    """A whole HTML page that needs no other file and no network."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...] = ()) -> str:
    """A table of HTML cells, which the caller has escaped."""
    lines = ["".join(f"<th>{cell}</th>" for cell in head)] if head else []
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def run_link(run_id: str, experiment_id: str) -> str:
    """A run's id that leads to its page where the card is read inside MLflow's UI."""
    href = f"/#/experiments/{experiment_id}/runs/{run_id}"
    return f'<a href="{href}" target="_top"><code>{run_id[:12]}</code></a>'


def step_card(step: str, run: Run, upstream: dict[str, str], record: dict[str, Any], outputs: Path) -> str:
    """What a finished step took, left and cost."""
    experiment = run.info.experiment_id
    took = [(escape(name), run_link(run_id, experiment)) for name, run_id in upstream.items()]
    left = [
        (escape(path.relative_to(outputs).as_posix()), f"{path.stat().st_size:,} bytes")
        for path in files_under(outputs)
        if path.name not in ("record.json", "card.html")
    ]
    facts = [
        ("run", run_link(run.info.run_id, experiment)),
        ("time", f"{record['seconds']:.1f} s of work, {record['seconds_before_work']:.1f} s to start"),
        ("memory at most", f"{record['peak_resident_bytes'] / 1e9:.2f} GB"),
        ("machine", f"{escape(record['host'])}, {escape(record['platform'])}"),
    ]
    body = table(facts)
    body += "<h2>Took</h2>" + table(took) if took else ""
    body += "<h2>Left</h2>" + table(left) if left else ""
    return page(f"{step} · finished", body)


def failure_card(step: str, run: Run, trace: str) -> str:
    """Why a step failed, with its traceback."""
    last = trace.strip().splitlines()[-1] if trace.strip() else "unknown"
    facts = table([("run", run_link(run.info.run_id, run.info.experiment_id))])
    return page(f"{step} · failed", f"<p>{escape(last)}</p>{facts}<pre>{escape(trace)}</pre>")
