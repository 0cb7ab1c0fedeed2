"""Installing what cannot be linked: by uv where there is one, else by pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from slmflow.errors import SlmflowError


def install(python: Path, lines: list[str], *, resolve: bool, dry: bool = False) -> None:
    """Install the lines of a requirements file for the interpreter of another environment.

    Without `resolve` these alone, not what they require; `dry`: only see whether it could be. Raises
    SlmflowError with the installer's word.
    """
    options = ["--quiet", *([] if resolve else ["--no-deps"]), *(["--dry-run"] if dry else [])]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', '')}"
    # pip's files of configuration may name an index that uv does not know, so pip has the last word.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-input"]
    installers = [[*pip, *(["--retries", "1"] if dry else [])]]
    if uv := shutil.which("uv", path=path):
        installers.insert(0, [uv, "pip", "install", "--python", str(python)])
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("".join(f"{line}\n" for line in lines))
        for command in installers:
            done = subprocess.run([*command, "-r", str(listed), *options], capture_output=True, text=True)
            if done.returncode == 0:
                return
    errors = [line.strip() for line in done.stderr.splitlines() if "ERROR" in line]
    raise SlmflowError((errors[0] if errors else last_line(done.stderr)).removeprefix("ERROR: "))


def last_line(text: str) -> str:
    """The last line that says something, of at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
