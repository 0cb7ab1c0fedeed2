"""How many threads a decoder should have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def physical_cores() -> int:
    """Physical cores that this process may run on; at least 1.

    Decoding is bound by memory: a second thread on the same core only adds contention, and the
    runtime's own default halves the speed on 2 cores.
    """
    if sys.platform == "darwin":
        answer = subprocess.run(["sysctl", "-n", "hw.physicalcpu"], capture_output=True, text=True)
        return int(answer.stdout) if answer.returncode == 0 else os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        return max(1, len({_siblings(cpu) for cpu in allowed}))
    return os.cpu_count() or 1


def _siblings(cpu: int) -> str:
    """The logical processors that share a core with this one, as Linux writes them; itself if unknown."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return path.read_text().strip() if path.exists() else str(cpu)
