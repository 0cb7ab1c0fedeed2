"""Ctrl-C while a child is being started: the child is known before the driver stops its children."""

import signal

import pytest

from slmflow.workflow.ending import interruptions_held_back


@pytest.fixture(autouse=True)
def handled():
    """As in an ordinary process; the workers of a parallel test run may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(interruptions):
    """What is known of a child during whose start so many interruptions came, when the last is raised."""
    known = []

    def start():
        with interruptions_held_back():
            for _ in range(interruptions):
                signal.raise_signal(signal.SIGINT)
            known.append("child")

    with pytest.raises(KeyboardInterrupt):
        start()
    return known


def test_an_interruption_waits_until_the_child_is_known():
    assert started(interruptions=1) == ["child"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interruption_does_not_wait():
    assert started(interruptions=2) == []


def test_without_an_interruption_nothing_is_raised_and_what_was_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptions_held_back():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
