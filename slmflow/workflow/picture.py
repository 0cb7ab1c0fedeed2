"""The graph of a run as a picture."""

from __future__ import annotations

from html import escape

from slmflow.workflow.item import Item, State

WIDTH, HEIGHT, GAP_X, GAP_Y = 190, 46, 44, 18


def picture(items: list[Item], seconds: dict[str, float | None]) -> str:
    """An SVG of the items: a column for each distance from the start, an arrow for each need."""
    column: dict[str, int] = {}
    rows: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for item in items:
        column[item.name] = 1 + max((column[need] for need in item.needs.values()), default=-1)
        row = rows.get(column[item.name], 0)
        rows[column[item.name]] = row + 1
        place[item.name] = (column[item.name] * (WIDTH + GAP_X) + 2, row * (HEIGHT + GAP_Y) + 2)
    arrows, boxes = [], []
    for item in items:
        x, y = place[item.name]
        for need in sorted(set(item.needs.values())):
            from_x, from_y = place[need][0] + WIDTH, place[need][1] + HEIGHT // 2
            to_y, middle = y + HEIGHT // 2, (from_x + x) // 2
            arrows.append(f'<path d="M{from_x},{from_y} C{middle},{from_y} {middle},{to_y} {x},{to_y}"/>')
        known = item.state in (State.cached, State.done, State.failed, State.blocked)
        kind = item.state.value if known else "open"
        took = seconds.get(item.name)
        note = f"{took:.1f} s" if took is not None else {State.cached: "reused"}.get(item.state, kind)
        label = item.name if len(item.name) <= 26 else f"{item.name[:25]}…"
        boxes.append(
            f"<g><title>{escape(item.name)}: {escape(item.reason)}</title>"
            f'<rect class="{kind}" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
            f'<text x="{x + 10}" y="{y + 19}">{escape(label)}</text>'
            f'<text x="{x + 10}" y="{y + 37}" opacity=".7">{escape(note)}</text></g>'
        )
    wide = (max(column.values(), default=0) + 1) * (WIDTH + GAP_X)
    high = max(rows.values(), default=1) * (HEIGHT + GAP_Y)
    return f'<svg viewBox="0 0 {wide} {high}" role="img">{"".join(arrows + boxes)}</svg>'
