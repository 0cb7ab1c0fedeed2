"""Published advisories against the pins, by pip-audit: of now, beside those of an earlier commit.

    python -m benchmarks.advisories                  # two minutes; by the package index's own data
    python -m benchmarks.advisories before=b778ae0   # another commit than the last with transformers 4

pip-audit calls a distribution that it cannot look up skipped, and ends well: here it is counted as not
audited, and where none could be looked up there is no figure of vulnerabilities.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import Row, row, run
from slmflow.environments.maker import Purpose, environment
from slmflow.errors import SlmflowError
from slmflow.workflow.closure import ROOT

TOOL = "pip-audit==2.10.1\n"
BEFORE = "52a3412"


def audited(pins: str) -> list[dict[str, Any]]:
    """What pip-audit says of each distribution of a list. Raises SlmflowError where it says nothing."""
    tool = environment(TOOL, Purpose("pip-audit", "connect to an index"), is_locked=False)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text(pins)
        command = [str(tool.python), "-m", "pip_audit", "-r", str(listed), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise SlmflowError(f"pip-audit said: {done.stderr.strip().splitlines()[-1:]}") from None
    return found


def measure(words: dict[str, str]) -> list[Row]:
    """A row of what was looked up, and one of what was found, if anything was looked up."""
    commit = words.get("before", BEFORE)
    command = ["git", "show", f"{commit}:requirements.txt"]
    before = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    sides = {"now": audited((ROOT / "requirements.txt").read_text()), commit: audited(before)}
    known = {name: [one for one in side if "vulns" in one] for name, side in sides.items()}
    share = len(known["now"]) / len(sides["now"])
    rows = [row("distributions looked up", share, "share", at_least=1)]
    if not known["now"] or not known[commit]:
        print("the advisory data could not be reached: no distribution was looked up, nothing is known")
        return rows
    found = {
        name: [f"{one['name']} {one['version']}: {flaw['id']}" for one in side for flaw in one["vulns"]]
        for name, side in known.items()
    }
    for name, flaws in found.items():
        print(f"{name}: {', '.join(flaws) or 'none'}")
    return [*rows, row("known advisories", len(found["now"]), "advisories", len(found[commit]) or None)]


if __name__ == "__main__":
    run("advisories", measure, known=("before",))
