"""Virtual environments that hold the packaged requirements of a model and nothing else.

They are made once for each set of requirements and kept in the user's cache folder.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from slmflow.errors import SlmflowError
from slmflow.files import cache_folder, canonical_digest
from slmflow.workflow.locks import held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = "SLMFLOW_ENVIRONMENTS"
"""Environment variable with the folder of the environments; `environments` in the user's cache if not set."""
COMPLETE = "complete"
"""File in an environment that is whole."""


def environments_folder() -> Path:
    """Where the environments are; each may be deleted at any time."""
    return Path(os.environ.get(FOLDER) or cache_folder() / "environments").expanduser()


def installed_environment(requirements: str) -> Path:
    """An environment in which the requirements were installed, by uv where there is one, else by pip.

    Raises SlmflowError with the installer's last word when they cannot be installed.
    """
    digest = canonical_digest(["installed", requirements, sys.version, platform.platform()])
    return _made(digest, lambda folder: _install(folder, requirements))


def linked_environment(requirements: str) -> Path | None:
    """An environment of links to what is installed here: the requirements and all that they require.

    Made in seconds, offline. None where something of it is not installed here in the version asked for.
    """
    found = closure(requirements)
    if found is None:
        return None
    versions = sorted(f"{name}=={dist.version}" for name, dist in found.items())
    digest = canonical_digest(["linked", versions, sys.version, sys.prefix])
    return _made(digest, lambda folder: _link(folder, list(found.values())))


def closure(requirements: str) -> dict[str, Distribution] | None:
    """Installed distributions that the requirements need, by name, as their metadata say.

    None where one is missing, is another version, or where a line is no plain requirement.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    lines = (line.partition("#")[0].strip() for line in requirements.splitlines())
    stack = [(line, "") for line in lines if line]
    while stack:
        line, wanted_by = stack.pop()
        try:
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": wanted_by}):
                continue
            dist = distribution(requirement.name)
        except (InvalidRequirement, PackageNotFoundError):
            return None
        if not requirement.specifier.contains(dist.version, prereleases=True) or not _lists_files(dist):
            return None
        name = canonicalize_name(requirement.name)
        found[name] = dist
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                stack += [(needed, extra) for needed in dist.requires or []]
    return found


def _lists_files(dist: Distribution) -> bool:
    """Whether `dist.files` is known; asked for, that looks for each of them, which are tens of thousands."""
    return any(dist.read_text(name) for name in ("RECORD", "installed-files.txt", "SOURCES.txt"))


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "bin" / "python"


def _made(digest: str, fill: Callable[[Path], None]) -> Path:
    """The environment of this digest; made now unless it is whole. What a crash left is made anew."""
    folder = environments_folder() / digest[:16]
    with held(f"environment {folder}"):
        if (folder / COMPLETE).exists() and python_of(folder).exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.create(folder, symlinks=True, with_pip=False)
            fill(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / COMPLETE).touch()
    return folder


def _site_packages(folder: Path) -> Path:
    return next((folder / "lib").glob("python*/site-packages"))


def _link(folder: Path, found: list[Distribution]) -> None:
    target, made = _site_packages(folder), set[Path]()
    for dist in found:
        for name in _files_of(dist):
            place = target / name
            if place.parent not in made:
                place.parent.mkdir(parents=True, exist_ok=True)
                made.add(place.parent)
            _link_file(Path(str(dist.locate_file(name))), place)


def _files_of(dist: Distribution) -> Iterator[Path]:
    """What lies in site-packages, and what Python has compiled of it here, which uv does not list."""
    for name in map(Path, dist.files or []):
        if ".." in name.parts or name.is_absolute():  # scripts and manual pages
            continue
        yield name
        if name.suffix == ".py":
            compiled = Path(cache_from_source(str(name)))
            if Path(str(dist.locate_file(compiled))).exists():
                yield compiled


def _link_file(source: Path, place: Path) -> None:
    """A hard link, which takes no room and outlives an upgrade; to another file system a symbolic one."""
    if place.exists():  # a file that two distributions bring
        return
    try:
        os.link(source, place)
    except FileNotFoundError:  # listed and not there, such as a cache that was cleared
        return
    except OSError:
        place.symlink_to(source)


def _install(folder: Path, requirements: str) -> None:
    count = len(requirements.split())
    print(
        f"  the {count} packaged requirements are installed for the load test, once; this may take minutes "
        "(gate.load_test=here does without)",
        flush=True,
    )
    listed = folder / "requirements.txt"
    listed.write_text(requirements)
    python = str(python_of(folder))
    words = ["-r", str(listed), "--quiet"]
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    # pip's files of configuration may name an index that uv does not know, so pip has the last word.
    installers = [[uv, "pip", "install", "--python", python, *words]] if uv else []
    installers.append([sys.executable, "-m", "pip", "--python", python, "install", "--no-input", *words])
    for command in installers:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return
    lines = [line.strip() for line in done.stderr.splitlines() if "ERROR" in line]
    why = lines[0] if lines else last_line(done.stderr)
    raise SlmflowError(
        f"the packaged requirements cannot be installed: {why.removeprefix('ERROR: ')}; "
        "correct pip's configuration, or choose gate.load_test=here"
    )


def last_line(text: str) -> str:
    """The last line that says something, of at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
