"""The one error that users are meant to see."""


class SlmflowError(Exception):
    """A failure whose cause is known: one line that says what, where, which value, and what to do.

    Step shells print it without a traceback and exit with status 1. Any other exception is a defect of
    ours and keeps its traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that says something, else its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """An exception with its type, ours without, as one line of at most 500 characters."""
    name = "" if isinstance(error, SlmflowError) else f"{type(error).__name__}: "
    return f"{name}{first_line(error)}"[:500]
