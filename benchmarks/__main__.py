"""The benchmarks that fit into an hour, or one of them.

    python -m benchmarks                    # = make bench: 30 minutes on 2 cores, 50 without VNNI
    python -m benchmarks gguf types=Q4_1    # = make bench-gguf ARGS=types=Q4_1

Each runs in a process of its own, one after another; its docstring says how long it takes.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from slmflow.errors import SlmflowError, exit_status

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
SHORT = {
    "evaluate": [],
    "export": ["sizes=135M"],
    "score": [],
    "serving": ["exports=int8_cpu"],
    "workflow": ["large=no"],
}
"""What `make bench` runs, and the words that leave out what takes longer."""


def run_one(name: str, words: list[str]) -> int:
    """Its exit status. Raises SlmflowError for a name that is none."""
    if name not in NAMES:
        raise SlmflowError(f"there is no benchmark {name}: choose among {', '.join(NAMES)}")
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *words], check=False).returncode


def run_short() -> int:
    """Each of SHORT, also after one that failed; 1 if one did. Says how long each took."""
    failed, took = [], []
    began = time.monotonic()
    for number, (name, words) in enumerate(SHORT.items(), 1):
        print(f"{number} of {len(SHORT)}: {' '.join([name, *words])}", flush=True)
        since = time.monotonic()
        if run_one(name, words):
            failed.append(name)
        took.append(f"{name} {(time.monotonic() - since) / 60:.1f}")
    print(f"minutes: {', '.join(took)}; together {(time.monotonic() - began) / 60:.1f}")
    if failed:
        raise SlmflowError(f"no figures of {', '.join(failed)}: see above")
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    work = (lambda: run_one(arguments[0], arguments[1:])) if arguments else run_short
    sys.exit(exit_status("benchmarks", work))
