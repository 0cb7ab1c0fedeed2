"""The one error that users are meant to see."""

from __future__ import annotations

import sys
from collections.abc import Callable


class SlmflowError(Exception):
    """A failure whose cause is known: one line that says what, where, which value, and what to do.

    Step shells print it without a traceback and exit with status 1. Any other exception is a defect of
    ours and keeps its traceback.
    """


class DamagedError(SlmflowError):
    """Something that was stored is not there, or is not what it was: to be said of it to everybody.

    Nothing else is: a reader's full disk, or a store that does not answer, says nothing of what it holds.
    """


class UnavailableError(Exception):
    """The tracking server is away or refuses us, in one line.

    No SlmflowError: whoever takes that for "it is not there" must not take this for it.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that says something, else its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """An exception with its type, ours without, as one line of at most 500 characters."""
    from slmflow.tracking import problem_of

    if line := problem_of(error):
        return line[:500]
    name = "" if isinstance(error, SlmflowError) else f"{type(error).__name__}: "
    return f"{name}{first_line(error)}"[:500]


def exit_status(name: str, work: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Do an entry point's work; returns its exit status, 1 after one line on standard error."""
    try:
        return work()
    except SlmflowError as error:
        print(f"slmflow {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"slmflow {name}: {interrupted}", file=sys.stderr)
        return 130
    except Exception as error:
        from slmflow.tracking import problem_of

        line = problem_of(error)
        if line is None:
            raise
        print(f"slmflow {name}: {line}", file=sys.stderr)
        return 1
