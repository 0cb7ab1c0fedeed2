"""The one error that users are meant to see."""


class SlmflowError(Exception):
    """A failure whose cause is known: one line that says what, where, which value, and what to do.

    Step shells print it without a traceback and exit with status 1. Any other exception is a defect of
    ours and keeps its traceback.
    """
