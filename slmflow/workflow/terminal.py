"""What the driver shows: its own lines, and its children's output line by line under their names."""

from __future__ import annotations

import sys


class Terminal:
    """Whole lines of several children, each with its name before it; progress bars stay one line.

    A progress bar redraws its line with a carriage return. On a terminal the newest state is shown and
    overwritten; elsewhere only what ends with a newline is kept.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._rest: dict[str, str] = {}
        self._shown = False

    def line(self, text: str, *, error: bool = False) -> None:
        """One line of the driver's own."""
        self._clear()
        print(text, file=sys.stderr if error else sys.stdout, flush=True)

    def output(self, name: str, data: bytes, *, last: bool = False) -> None:
        """A child's output as it comes; with `last` also a line that no newline ends."""
        text = self._rest.pop(name, "") + data.decode(errors="replace")
        *lines, rest = text.split("\n")
        if last:
            lines, rest = [*lines, rest], ""
        if rest:
            self._rest[name] = rest.rpartition("\r")[2] if len(rest) > 10_000 else rest
        for line in lines:
            shown = line.rstrip("\r").rpartition("\r")[2].strip()
            if shown:
                self.line(f"  {name:<{self._width}} │ {shown}")
        if data and rest and sys.stdout.isatty():
            state = rest.rstrip("\r").rpartition("\r")[2].strip()
            self._clear()
            print(f"  {name:<{self._width}} │ {state}"[:120], end="", flush=True)
            self._shown = True

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", flush=True)
            self._shown = False
