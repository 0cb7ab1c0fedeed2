"""Installing what cannot be linked: by uv where there is one, else by pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError

if TYPE_CHECKING:
    from pathlib import Path


def install(python: Path, requirements: Path, *, resolve: bool, dry: bool = False) -> None:
    """Install a requirements file for the interpreter of another environment.

    Without `resolve` its lines alone, not what they require; `dry`: only see whether it could be. Raises
    SlmflowError with the installer's word.
    """
    words = ["-r", str(requirements), "--quiet"]
    words += [*([] if resolve else ["--no-deps"]), *(["--dry-run"] if dry else [])]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', '')}"
    # pip's files of configuration may name an index that uv does not know, so pip has the last word.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-input"]
    installers = [[*pip, *(["--retries", "1"] if dry else []), *words]]
    if uv := shutil.which("uv", path=path):
        installers.insert(0, [uv, "pip", "install", "--python", str(python), *words])
    for command in installers:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return
    lines = [line.strip() for line in done.stderr.splitlines() if "ERROR" in line]
    raise SlmflowError((lines[0] if lines else last_line(done.stderr)).removeprefix("ERROR: "))


def last_line(text: str) -> str:
    """The last line that says something, of at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
