"""Artifacts of a remote store on this host: each content downloaded once, whatever step wants it.

    ~/.cache/slmflow/artifacts/content/<sha256>     whole and verified; read-only, the latest used kept
    ~/.cache/slmflow/artifacts/views/<pid>-…/       hard links under their own names; gone with their process

What a step uploads is put there as well, so a host never downloads what it made. The oldest go when all are
more than SLMFLOW_DOWNLOADS_GB (50).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.errors import DamagedError, SlmflowError, UnavailableError, first_line
from slmflow.files import cache_folder, link_or_copy, sha256_of
from slmflow.stores import asked, kept_here
from slmflow.tracking import store_name

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = "SLMFLOW_DOWNLOADS_GB"
ATTEMPTS = 5
"""Times that a file is begun: MLflow repeats a request without an answer, but no answer that breaks off."""
WAIT_SECONDS = 2.0
"""Before the second attempt, twice that before the third, and so on: a server may take a while to start."""
STREAMS = 4
UNFINISHED_SECONDS = 86400.0
"""A download that nobody has written to for so long was left by a process that was killed."""


def folder() -> Path:
    """Where the contents and views are."""
    return cache_folder() / "artifacts"


def keep(path: Path, sha256: str) -> None:
    """Put a finished file, just uploaded, among the contents: later steps on this host find it there.

    A link where the file system takes one; else nothing: a second copy is not worth its disk.
    """
    target = _content(sha256)
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            os.link(path, target)
            target.chmod(0o444)


_sent: dict[str, str] = {}


def sent(uri: str, path: Path) -> None:
    """Note that this process uploaded a file to an artifact URI, and keep it."""
    _sent[uri] = sha256_of(path)
    keep(path, _sent[uri])


def digest_of(uri: str) -> str:
    """The sha256 of a file in the store: noted when it was sent, else of what the store answers."""
    if uri not in _sent:
        sent(uri, one(uri))
    return _sent[uri]


def tree(uri: str, digests: dict[str, str]) -> Path:
    """A folder of this process with these files of an artifact URI, by path and sha256; read it only.

    Raises DamagedError when a file is not there or is not what the digest says, and UnavailableError when the
    store cannot be asked.
    """
    with kept_here(folder()):
        view = scratch()
        repository = _repository(uri)
        with ThreadPoolExecutor(STREAMS) as pool:
            jobs = [pool.submit(_bring, repository, path, digests[path], view / path) for path in digests]
            for job in jobs:
                job.result()
        _prune()
        return view


def one(uri: str) -> Path:
    """The file or folder that an artifact URI names, whose digests are not known: downloaded each time.

    Raises DamagedError when it is not there, and UnavailableError when the store cannot be asked.
    """
    parent, _, name = uri.rpartition("/")
    with kept_here(folder()):
        repository, view = _repository(parent), scratch()
        paths = _paths_below(repository, name) or [name]
        for path in paths:
            _download(repository, path, view / path)
        return view / name


def _paths_below(repository: Any, path: str) -> list[str]:
    """Every file below a folder of a store; none for a file."""
    found: list[str] = []
    for entry in asked(lambda: repository.list_artifacts(path), path):
        found += _paths_below(repository, entry.path) if entry.is_dir else [entry.path]
    return found


def _repository(uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return asked(lambda: get_artifact_repository(uri), uri)


def _content(sha256: str) -> Path:
    return folder() / "content" / sha256


def _bring(repository: Any, path: str, sha256: str, target: Path) -> None:
    """Link a content under its name; a process that wants what another downloads waits for it."""
    content = _content(sha256)
    for _ in range(ATTEMPTS):
        if _linked(content, target):
            return
        with _alone(content):
            if _linked(content, target):
                return
            unfinished = content.with_name(f"{sha256}.{os.getpid()}.part")
            _download(repository, path, unfinished)
            if (found := sha256_of(unfinished, again=True)) != sha256:
                unfinished.unlink()
                raise DamagedError(f"{path} was altered: it has sha256 {found[:12]}…, not {sha256[:12]}…")
            unfinished.chmod(0o444)
            unfinished.replace(content)
    raise SlmflowError(f"{content}: is taken away as fast as it comes: make {LIMIT} larger")


def _linked(content: Path, target: Path) -> bool:
    """Whether a content is there and now also at `target`; a damaged one is not, and is removed."""
    try:
        os.utime(content, ns=(time.time_ns(), content.stat().st_mtime_ns))  # used now
    except OSError:
        return False
    if sha256_of(content) != content.name:
        content.unlink(missing_ok=True)
        return False
    try:
        link_or_copy(content, target)
    except FileNotFoundError:  # pruned by another process
        return False
    return True


@contextlib.contextmanager
def _alone(content: Path) -> Iterator[None]:
    """Hold a content's lock, which ends with its holder."""
    content.parent.mkdir(parents=True, exist_ok=True)
    with (content.parent / f"{content.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(repository: Any, path: str, target: Path) -> None:
    """One file from the store, begun again when the answer breaks off."""
    import requests

    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        try:
            # The one method that every artifact store implements; the public one lists first, and hides
            # what went wrong in a text.
            asked(lambda: repository._download_file(path, str(target)), path)
        except requests.RequestException as error:
            if attempt == ATTEMPTS - 1:
                raise UnavailableError(
                    f"tracking server {store_name()}: {path} broke off {ATTEMPTS} times "
                    f"({first_line(error)}); the same command goes on where it stopped"
                ) from None
            time.sleep(WAIT_SECONDS * 2**attempt)
        else:
            return


def scratch() -> Path:
    """A new folder beside the contents that goes with this process; those of dead processes go now."""
    views = folder() / "views"
    views.mkdir(parents=True, exist_ok=True)
    for other in views.iterdir():
        pid = other.name.partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(other, ignore_errors=True)
    view = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=views))
    atexit.register(shutil.rmtree, view, ignore_errors=True)
    return view


def _prune() -> None:
    """Remove what was not used for longest until the rest is within the limit."""
    limit = float(os.environ.get(LIMIT) or 50) * 1e9
    found = []
    for path in (folder() / "content").iterdir():
        with contextlib.suppress(OSError):
            stat = path.stat()
            if path.suffix == ".part" and time.time() - stat.st_mtime > UNFINISHED_SECONDS:
                path.unlink()
            elif not path.suffix:
                found.append((stat.st_atime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size
