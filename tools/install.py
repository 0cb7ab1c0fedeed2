"""Make .venv and install pinned packages into it. Where they are installed already, nothing is done.

    python3.11 tools/install.py requirements.txt                       # what `make run` needs
    python3.11 tools/install.py requirements.txt requirements-dev.txt  # and what the tests need

uv installs (pip brings its wheel), with what pip is configured to; where uv fails, pip does. On Linux torch
is its CPU build: the ordinary index serves the one for CUDA, some 3 GB for a product that runs on the CPU.
UV_* variables that are set win over all of this (UV_TORCH_BACKEND=auto: the build for this machine's GPU).

`.venv/.installed` names what is whole in it, and nothing while packages change: after an installation that
was broken off or failed, all of it is installed again, and what else the user installed stays.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ((3, 11), (3, 12), (3, 13))
"""Versions of Python that the tests are run on."""
SECONDS = 5
"""How long torch's CPU index has for an answer."""
BEGUN = "{}"
"""The stamp of an environment of which nothing is known to be whole."""
HANDED_ON = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "extra-index-url": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "find-links": ("UV_FIND_LINKS",),
    "constraint": ("UV_CONSTRAINT",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "proxy": ("ALL_PROXY",),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "retries": ("UV_HTTP_RETRIES",),
}
"""Of pip's options, uv's variable for the same, then others that would have set it."""


def say(text: str) -> None:
    """One line on the terminal, at once."""
    print(f"install: {text}", file=sys.stderr, flush=True)


def digests(files: list[str]) -> dict[str, str]:
    """The sha256 of each requirement file."""
    return {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in files}


def pip_settings(listed: str) -> dict[str, str]:
    """What `pip install` is configured to, from what `pip config list` prints.

    The later wins, as in pip: global settings, then those of `install`, then PIP_* variables.
    """
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.partition(".")
        if section in found:
            found[section][option] = str(ast.literal_eval(value))
    return found["global"] | found["install"] | found[":env:"]


def uv_variables(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which uv does as pip is configured to; a variable that is set already stays."""
    made = dict(environment)
    for option, names in HANDED_ON.items():
        if option in settings and not any(name in environment for name in names):
            values = settings[option].split()
            made[names[0]] = ",".join(values) if option == "find-links" else " ".join(values)
    if "extra-index-url" in settings:  # pip takes the best version of all indexes
        made.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return made


class Uv:
    """uv in a virtual environment, with pip's settings."""

    def __init__(self, python: Path) -> None:
        self._command = [str(python.parent / "uv"), "pip"]
        self._python = ["--python", str(python)]
        listed = subprocess.run(
            [str(python), "-m", "pip", "config", "list"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        settings = pip_settings(listed)
        self.environment = uv_variables(settings, os.environ)
        if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
            self._python.append("--no-index")

    def resolve(self, pin: str, *words: str, limit: float | None = None, **variables: str) -> str:
        """What a pin becomes, such as `torch==2.13.0+cpu`; "" where no index that answers has it."""
        command = [*self._command, "compile", "-", "--quiet", "--no-deps", "--no-header", "--no-annotate"]
        try:
            done = subprocess.run(
                [*command, *self._python, *words], input=pin, env=self.environment | variables, timeout=limit,
                capture_output=True, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    def torch_words(self, pin: str) -> list[str]:
        """The words that make torch its CPU build."""
        if sys.platform != "linux" or "UV_TORCH_BACKEND" in os.environ:
            return []
        if "+" in self.resolve(pin):  # a build that the user's own settings chose
            return []
        words = ["--torch-backend", "cpu"]
        wait = str(SECONDS)
        patience = {"UV_HTTP_TIMEOUT": wait, "UV_HTTP_CONNECT_TIMEOUT": wait, "UV_HTTP_RETRIES": "0"}
        if self.resolve(pin, *words, limit=4 * SECONDS, **patience):
            return words
        say(f"torch's CPU index gave no {pin}: it comes from the ordinary index, on x86 with CUDA, some 3 GB")
        return []

    def install(self, files: list[str], words: list[str]) -> bool:
        """Install all pins of these files; False where that fails, and uv has told why."""
        # Compiled at once by all cores; else every process compiles where PYTHONDONTWRITEBYTECODE is set.
        command = [*self._command, "install", "--compile-bytecode", *self._python, *words]
        if not sys.stderr.isatty():
            command.append("--quiet")
        for name in files:
            command += ["-r", name]
        return subprocess.run(command, cwd=ROOT, env=self.environment, close_fds=False).returncode == 0


def pin_of(package: str, files: list[str]) -> str:
    """`package==version` as one of these files pins it, else ""."""
    text = "\n".join((ROOT / name).read_text() for name in files)
    found = re.search(rf"^{package}==[^ ;\n]+", text, re.MULTILINE)
    return found[0] if found else ""


def by_uv(python: Path, files: list[str], *, anew: bool) -> bool:
    """Install the pins by uv; False where that fails, also because no uv runs here."""
    uv = Uv(python)
    try:
        torch = pin_of("torch", files)
        words = uv.torch_words(torch) if torch else []
        return uv.install(files, [*words, *(["--reinstall"] if anew else [])])
    except OSError as error:
        say(str(error))
        return False


def fill(venv: Path, files: list[str], *, anew: bool) -> None:
    """Install the pins, `anew` also what seems to be there: by uv, else by pip."""
    python = venv / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    brought = subprocess.run([*pip, pin_of("uv", ["requirements-dev.txt"])], close_fds=False).returncode == 0
    if brought and by_uv(python, files, anew=anew):
        return
    say("uv failed, pip goes on; its torch for Linux may bring CUDA, some 3 GB (README, Environments)")
    named = [word for name in files for word in ("-r", name)] + (["--force-reinstall"] if anew else [])
    if status := subprocess.run([*pip, *named], cwd=ROOT, close_fds=False).returncode:
        raise SystemExit(status)


@contextmanager
def alone() -> Iterator[None]:
    """Two installations into one folder wait for each other, also for what a killed one had started."""
    descriptor = os.open(ROOT, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def runs_pip(venv: Path) -> bool:
    """Whether it is an environment, not half of one."""
    try:
        return (
            subprocess.run(
                [venv / "bin" / "python", "-m", "pip", "--version"], capture_output=True
            ).returncode
            == 0
        )
    except OSError:
        return False


def version_of(venv: Path) -> tuple[int, int] | None:
    """The Python that an environment was made with; None where there is none, or it does not say."""
    config = venv / "pyvenv.cfg"
    text = config.read_text() if config.is_file() else ""
    found = re.search(r"^version\w* *= *(\d+)\.(\d+)", text, re.M)
    return (int(found[1]), int(found[2])) if found else None


def install(files: list[str]) -> None:
    """Bring .venv to what these requirement files pin, with the Python that runs this."""
    ours = sys.version_info[:2]
    if ours not in SUPPORTED:
        supported = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
        say(f"{sys.executable} is Python {ours[0]}.{ours[1]}: take one of {supported}, by PYTHON=…")
        raise SystemExit(1)
    venv = ROOT / ".venv"
    stamp = venv / ".installed"
    wanted = digests(files)
    with alone():
        made_with = version_of(venv)
        if made_with and made_with != ours:
            say(f".venv was made with Python {made_with[0]}.{made_with[1]}: it is made anew")
        as_before = made_with == ours and stamp.is_file() and (venv / "bin" / "python").exists()
        known = stamp.read_text() if as_before else ""
        whole: dict[str, str] = json.loads(known or "{}")
        missing = [name for name in files if whole.get(name) != wanted[name]]
        if not missing:
            return
        began = time.monotonic()
        if made_with != ours or not runs_pip(venv):
            # This may be the Python of .venv itself, which is cleared: the one that it was made with.
            python = getattr(sys, "_base_executable", sys.executable)
            say(f"making .venv with {python}")
            if status := subprocess.run([python, "-m", "venv", "--clear", str(venv)]).returncode:
                raise SystemExit(status)
        say(f"installing what {' and '.join(missing)} pin into .venv")
        stamp.write_text(BEGUN)
        fill(venv, missing, anew=known == BEGUN)
        stamp.write_text(json.dumps(whole | wanted))
        say(f"installed in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    install(sys.argv[1:])
