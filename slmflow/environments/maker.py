"""The maker of environments: each is made once for its list and kept in the user's cache folder.

Distributions that are installed here in the version asked for are linked, the others installed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slmflow.environments import requirements as asked
from slmflow.environments.installer import install
from slmflow.environments.links import link
from slmflow.errors import SlmflowError, first_line
from slmflow.files import cache_folder, canonical_digest, read_json, write_json
from slmflow.workflow.locks import held

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "SLMFLOW_ENVIRONMENTS"
"""Environment variable with the folder of the environments; `environments` in the user's cache if not set."""
WHOLE = "complete"
"""File in an environment that is whole: what for, how it was made. Its time is that of the last use."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds what a list asks for and nothing else."""

    folder: Path
    installed: list[str]
    """The requirements that were installed, not linked from here."""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


@dataclass(frozen=True)
class Purpose:
    """Why an environment is made, for those who wait for it."""

    words: str
    """As in `… of the load test`."""
    otherwise: str
    """What to do where it cannot be made."""


def environment(text: str, purpose: Purpose, *, is_locked: bool, linked: bool = True) -> Environment:
    """The environment of a requirements file's text, made now unless there is one.

    `is_locked`: the list names all that is needed, and nothing is resolved. Without `linked` all of it is
    installed. What a crash left half is made anew. Raises SlmflowError, one line, where it cannot be made.
    """
    made, split, lines = _found(text, is_locked=is_locked, linked=linked)
    with held(f"environment {made.folder}"):
        if not _is_whole(made):
            _announce(split, purpose)
            shutil.rmtree(made.folder, ignore_errors=True)
            try:
                with _said_of(purpose):
                    needs = _fill(made, split, split.missing if is_locked else lines, resolve=not is_locked)
            except BaseException:
                shutil.rmtree(made.folder, ignore_errors=True)
                raise
            record = {"for": purpose.words, "installed": split.missing, "needs": needs}
            write_json(made.folder / WHOLE, record)
        with contextlib.suppress(PermissionError):  # another user's
            os.utime(made.folder / WHOLE)
    return made


def check(text: str, purpose: Purpose) -> None:
    """Raise SlmflowError where the environment of a lock is not there and could not be made; makes none."""
    made, split, _ = _found(text, is_locked=True, linked=True)
    if _is_whole(made):
        return
    with _said_of(purpose):
        made.folder.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(made.folder.parent, os.W_OK):
            raise SlmflowError(f"{made.folder.parent} cannot be written: {FOLDER} names another folder")
        if split.missing:
            install(Path(sys.executable), split.missing, resolve=False, dry=True)


def _found(text: str, *, is_locked: bool, linked: bool) -> tuple[Environment, asked.Split, list[str]]:
    """Where the environment is or would be, what of it is installed here, and its lines."""
    lines = list(asked.plain_lines(text))
    split = (asked.locked if is_locked else asked.with_all_they_require)(lines)
    if not linked:
        split = asked.Split({}, lines)
    # The folder of this environment is not among the parts: hard links outlive it, and lead to equal files.
    versions = sorted(f"{name}=={found.version}" for name, found in split.here.items())
    parts = [sorted(lines), is_locked, versions, sys.version, platform.platform()]
    folder = environments_folder() / canonical_digest(parts)[:16]
    return Environment(folder, split.missing), split, lines


@contextlib.contextmanager
def _said_of(purpose: Purpose) -> Iterator[None]:
    """Within it an installer's word becomes a line that says whose environment it was, and what to do."""
    try:
        yield
    except (SlmflowError, OSError, subprocess.CalledProcessError) as error:
        what = f"the environment of {purpose.words} cannot be made"
        raise SlmflowError(f"{what}: {first_line(error)}; {purpose.otherwise}") from None


def _fill(made: Environment, split: asked.Split, lines: list[str], *, resolve: bool) -> str | None:
    """Link and install; returns the folder without which the links lead nowhere, None for hard ones."""
    venv.create(made.folder, symlinks=True, with_pip=False)
    symbolic = link(split.here.values(), next((made.folder / "lib").glob("python*/site-packages")))
    if split.missing:
        install(made.python, lines, resolve=resolve)
    return sys.prefix if symbolic else None


def environments_folder() -> Path:
    """Where the environments are; each may be deleted at any time."""
    return Path(os.environ.get(FOLDER) or cache_folder() / "environments").expanduser()


def unused_for(days: float) -> list[tuple[Path, str]]:
    """Folders of the environments that nobody took for so long, and what each was made for."""
    before = time.time() - days * 86_400
    records = sorted(environments_folder().glob(f"*/{WHOLE}"))
    return [(record.parent, _made_for(record)) for record in records if record.stat().st_mtime < before]


def remove_unused(folder: Path, days: float) -> None:
    """Delete an environment unless somebody took it meanwhile; waits for one who is making it."""
    with held(f"environment {folder}"):
        if folder in [unused for unused, _ in unused_for(days)]:
            shutil.rmtree(folder, ignore_errors=True)


def _made_for(record: Path) -> str:
    if not record.stat().st_size:  # of before there was a record
        return "a load test"
    return str(read_json(record)["for"])


def _is_whole(made: Environment) -> bool:
    if not (made.folder / WHOLE).exists() or not made.python.exists():
        return False
    try:
        needs = read_json(made.folder / WHOLE)["needs"]
    except (ValueError, KeyError, TypeError):  # cut short, or of before there was a record
        return False
    return needs is None or Path(needs).is_dir()


def _announce(split: asked.Split, purpose: Purpose) -> None:
    if not split.missing:
        return
    more = len(split.missing) - 3
    shown = ", ".join(split.missing[:3]) + (f" and {more} more" if more > 0 else "")
    verb = "is" if len(split.missing) == 1 else "are"
    size = sum(map(asked.size_of_its_like, split.missing))
    disk = f", some {size / 1e6:,.0f} MB on disk" if size > 1e6 else ""
    rest = ", the rest is linked from here" if split.here else ""
    print(
        f"  {purpose.words} has an environment of its own, made once: {shown} {verb} installed{disk}{rest}; "
        "this takes seconds, or minutes on a slow line",
        flush=True,
    )
