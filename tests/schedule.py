"""Which tests go first and which stay together: a pytest plugin.

Modules are dealt to the workers whole (`--dist loadscope`), the long ones first, so that none of them is left to one
worker at the end. Those under one of TOGETHER are dealt as one: what they start serves them all.
"""

import pytest

FIRST = (
    "tests/end_to_end/",
    "tests/serving/live/",
    "tests/serving/test_process.py",
    "tests/monitoring/test_replay.py",
)
TOGETHER = ("tests/serving/live/",)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """In the order of FIRST, all else as it was."""
    items.sort(key=lambda item: [not item.nodeid.startswith(place) for place in FIRST])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """As pytest-xdist deals, but for TOGETHER, and in our order instead of by the number of tests."""
    from xdist.scheduler import LoadScopeScheduling

    if config.getvalue("dist") != "loadscope":
        return None

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return next(filter(nodeid.startswith, TOGETHER), super()._split_scope(nodeid))

    config.option.loadscopereorder = False
    return Scheduling(config, log)
