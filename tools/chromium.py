"""The Chromium of the tests of pages: found, or installed where that is ours to do.

    python -m tools.chromium

Found on PATH or among Playwright's own browsers. Where there is none, root on Debian gets Debian's, root on
Ubuntu Playwright's (Ubuntu's package is a snap, which starts in no container). Others are told the command.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
APT = "apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium"
PLAYWRIGHT = f"{sys.executable} -m playwright install --with-deps chromium"


def starts(program: str) -> bool:
    """Whether it is a browser: without its snap, Ubuntu's `chromium-browser` only says what to do."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def of_playwright() -> str:
    """Where Playwright keeps its own Chromium, whether it is there or not."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def find() -> str | None:
    """The path of a Chromium that starts."""
    for name in NAMES:
        if (program := shutil.which(name)) and starts(program):
            return program
    program = of_playwright()
    return program if Path(program).is_file() and starts(program) else None


@cache
def system() -> str:
    """`debian`, `ubuntu`, …; "" where no /etc/os-release tells."""
    try:
        return platform.freedesktop_os_release()["ID"]
    except (OSError, KeyError):
        return ""


def command() -> str:
    """What brings a Chromium here."""
    if system() == "debian":
        return APT if os.geteuid() == 0 else "sudo apt-get install chromium"
    return PLAYWRIGHT


def main() -> None:
    """Install one where there is none, this is Debian or Ubuntu, and we are root. Says so before."""
    if find() or os.geteuid() != 0 or system() not in ("debian", "ubuntu"):
        return
    print(f"chromium: the tests of pages need one and there is none: {command()}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["sh", "-c", command()], env=environment, stdout=subprocess.DEVNULL)
    if done.returncode != 0 or not find():
        print("chromium: not installed: the tests of pages will not run", file=sys.stderr)


if __name__ == "__main__":
    main()
