"""Tests of pages need a Chromium. Without one they are not run, and the last line says how many, and what brings it.

A pytest plugin. With CI=true their absence is a failure: nobody reads that line there.
"""

import os

import pytest

from tools import chromium

FIXTURE = "browser"
LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config, items):
    """Leave tests of pages out where no Chromium is found."""
    pages = [item for item in items if FIXTURE in getattr(item, "fixturenames", ())]
    if pages and not chromium.find():
        items[:] = [item for item in items if item not in set(pages)]
        config.hook.pytest_deselected(items=pages)
        config.stash[LEFT_OUT] = len(pages)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """What each worker of pytest-xdist left out is the same."""
    if left_out := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[LEFT_OUT] = left_out


def pytest_sessionfinish(session, exitstatus):
    """In CI, pages that nobody opened fail."""
    left_out = session.config.stash.get(LEFT_OUT, 0)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = left_out
    elif (
        left_out and os.environ.get("CI") == "true" and exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED)
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config):
    """The last line."""
    left_out = config.stash.get(LEFT_OUT, 0)
    if left_out and not hasattr(config, "workeroutput"):
        print(
            f"{left_out} tests of pages were NOT run: no Chromium is here. {chromium.command()}", flush=True
        )
