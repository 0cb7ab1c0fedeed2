"""What people see of a step's progress: a line that changes on a terminal, seldom a new one elsewhere."""

import os
import sys
from types import SimpleNamespace

import pytest

from slmflow.workflow import terminal
from slmflow.workflow.terminal import EVERY_SECONDS, Terminal

BAR = "\r  tasks:  {0}%|████| {0}/100 [00:01<00:02]"


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now.seconds)
    return now


def test_without_a_terminal_a_bar_is_a_line_now_and_then_and_its_end(clock, capsys):
    shown = Terminal(8)
    for percent in range(0, 100, 10):
        shown.output("evaluate", BAR.format(percent).encode())
        clock.seconds += EVERY_SECONDS / 3
    shown.output("evaluate", (BAR.format(100) + "\n").encode(), last=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("tasks:")[1].split("%")[0].strip() for line in lines] == ["30", "60", "90", "100"]
    assert all(line.startswith("  evaluate │ ") for line in lines)


def test_the_beginning_of_the_next_bar_is_no_line(clock, capsys):
    shown = Terminal(8)
    shown.output("evaluate", BAR.format(10).encode())
    clock.seconds += 2 * EVERY_SECONDS
    shown.output("evaluate", f"\n{BAR.format('  0')}".encode())
    assert "  0%" not in capsys.readouterr().out


def test_a_bar_that_ends_soon_is_one_line(clock, capsys):
    shown = Terminal(8)
    shown.output("evaluate", BAR.format(10).encode())
    clock.seconds += 5
    shown.output("evaluate", (BAR.format(100) + "\n").encode())
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_on_a_terminal_the_state_is_overwritten_and_says_what_remains_of_the_run(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(terminal.shutil, "get_terminal_size", lambda: os.terminal_size((100, 24)))
    shown = Terminal(8)
    shown.left = "3 of 7 steps done, then evaluate_onnx, register"
    shown.output("evaluate", BAR.format(10).encode())
    shown.output("evaluate", BAR.format(20).encode())
    shown.line("✓ done")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.count("\r\x1b[K") == 2
    state = out.split("\r\x1b[K")[1]
    assert "tasks:  20%" in state
    assert "3 of 7 steps done" in state
    assert len(state) < 100
