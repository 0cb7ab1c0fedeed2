"""What machine this is, as far as speed and memory depend on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
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


def _cpu_model() -> str:
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return asked.stdout.strip() or platform.processor()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
