"""What machine this is, as far as speed and memory depend on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from slmflow.models.slm_runtime.cores import physical_cores


@cache
def machine() -> dict[str, str]:
    """CPU model, the physical cores and hardware threads that this process may use, and the system."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": str(physical_cores()),
        "threads": str(threads),
        "system": f"{platform.system()} {platform.machine()}",
    }


def available_memory() -> int:
    """Bytes that this process can still get without swapping, within its cgroup's limit if there is one."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    limit = group / "memory.max"
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(statistics["inactive_file"])
        free = min(free, int(text) - used)
    return free


def others_at_work(seconds: float = 0.5) -> float:
    """How many of the processors that this process may use others keep busy, over some time from now.

    Time that a hypervisor gave away counts as theirs. The load average would not do: it is of minutes, and of
    this process too.
    """
    before = _busy_seconds()
    began = time.perf_counter()
    time.sleep(seconds)
    passed = time.perf_counter() - began
    every, own = (now - then for now, then in zip(_busy_seconds(), before, strict=True))
    return round(max(every - own, 0.0) / passed, 2)


def _busy_seconds() -> tuple[float, float]:
    """Seconds that the processors of this process were at work since the start: in all, and for it."""
    import psutil

    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    every = [times for at, times in enumerate(psutil.cpu_times(percpu=True)) if not allowed or at in allowed]
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    own = psutil.Process().cpu_times()
    return sum(getattr(one, name, 0.0) for one in every for name in names), own.user + own.system


def _cpu_model() -> str:
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return asked.stdout.strip() or platform.processor()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
