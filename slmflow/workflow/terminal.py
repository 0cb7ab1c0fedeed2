"""What the driver shows: its own lines, and its children's output line by line under their names."""

from __future__ import annotations

import shutil
import sys
import time

EVERY_SECONDS = 30.0
"""Between two states of progress bars where no terminal shows them."""


class Terminal:
    """Whole lines of several children, each with its name before it; progress bars stay one line.

    A progress bar redraws its line with a carriage return. On a terminal the newest state is shown and
    overwritten, with what remains of the run; elsewhere a state is a line, and seldom.
    """

    left = ""
    """What remains of the run, for people."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rest: dict[str, str] = {}
        self._shown = False
        self._told: dict[str, float] = {}

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
        state = rest.rstrip("\r").rpartition("\r")[2].strip()
        if not (data and state):
            return
        if sys.stdout.isatty():
            self._clear()
            room = shutil.get_terminal_size().columns - 1
            print(f"  {name:<{self._width}} │ {state} · {self.left}"[:room], end="", flush=True)
            self._shown = True
        elif time.monotonic() - self._told.get(name, -EVERY_SECONDS) >= EVERY_SECONDS:
            # A bar's beginning says nothing, and most are at their end before the second state is due.
            if name in self._told and "  0%|" not in state:
                self.line(f"  {name:<{self._width}} │ {state}")
            self._told[name] = time.monotonic()

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", flush=True)
            self._shown = False
