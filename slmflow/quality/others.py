"""What other processes take of the machine while something is measured."""

from __future__ import annotations

import os
import time


def others_at_work(seconds: float = 0.5) -> float:
    """How many of the processors that this process may use others keep busy, over some time from now.

    Time that a hypervisor gave away counts as theirs. The load average would not do: it is of minutes, and of
    this process too.
    """
    before = busy_seconds()
    began = time.perf_counter()
    time.sleep(seconds)
    passed = time.perf_counter() - began
    every, own = (now - then for now, then in zip(busy_seconds(), before, strict=True))
    return round(max(every - own, 0.0) / passed, 2)


def busy_seconds() -> tuple[float, float]:
    """Seconds that the processors of this process were at work since the start: in all, and for it."""
    import psutil

    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    every = [times for at, times in enumerate(psutil.cpu_times(percpu=True)) if not allowed or at in allowed]
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    own = psutil.Process().cpu_times()
    return sum(getattr(one, name, 0.0) for one in every for name in names), own.user + own.system
