"""Weights on a Hugging Face hub, at one commit, every file verified."""

from __future__ import annotations

import fnmatch
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from slmflow.errors import SlmflowError
from slmflow.files import git_blob_sha1, link_or_copy, read_json, sha256_of
from slmflow.sources.manifest import Taken, is_data, is_pickle

if TYPE_CHECKING:
    from slmflow.config import HubSource

ATTEMPTS = 5
"""Tries of one download, each from where the last one broke off."""
COMMIT = re.compile(r"[0-9a-f]{40}")
FAILURES = (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError, RuntimeError)
"""What the hub's client raises when it cannot reach, find or transfer."""


def take(source: HubSource, folder: Path) -> Taken:
    """Resolve the revision to its commit, download what is data, and verify each file.

    Files kept in LFS are verified against their sha256, the others against git's blob id, both from
    the commit's own metadata. A dropped transfer resumes; a file that arrives wrong is removed from the
    cache, so that the next try downloads it again. The repository's own code is never taken.
    """
    where = f"hub:{source.repo}"
    commit, files = resolve(source)
    names = wanted(list(files), source, where)
    if not names:
        inside = f" below {source.subfolder!r}" if source.subfolder else ""
        raise SlmflowError(f"{where} at {commit[:12]}: no model files{inside}")
    bring(source, commit, files, names, folder)
    pins = [] if source.revision == commit else [f"model.source.revision={commit}"]
    return Taken(folder, where, commit=commit, pins=pins)


def bring(source: HubSource, commit: str, files: dict[str, Any], names: list[str], folder: Path) -> None:
    """Download some files of a commit, verified, into `folder`. Raises SlmflowError when that fails."""
    where = f"hub:{source.repo}"
    try:
        snapshot = _download(source.repo, commit, names)
    except FAILURES as error:
        raise SlmflowError(f"{where}: {_reason(error, source)}") from None
    for name in names:
        _verify(snapshot / name, files[name], f"{where}/{name}")
        short = name.removeprefix(f"{source.subfolder.rstrip('/')}/") if source.subfolder else name
        link_or_copy(snapshot / name, folder / (Path(name).name if source.file else short))


def config_of(source: HubSource) -> dict[str, Any] | None:
    """The config.json that would be taken, read before anything else is; None where there is none.

    Raises SlmflowError when the hub does not answer.
    """
    commit, files = resolve(source)
    inside = f"{source.subfolder.rstrip('/')}/" if source.subfolder else ""
    if source.file or f"{inside}config.json" not in files:
        return None
    try:
        path = hf_hub_download(source.repo, f"{inside}config.json", revision=commit)
    except FAILURES as error:
        raise SlmflowError(f"hub:{source.repo}: {_reason(error, source)}") from None
    found: dict[str, Any] = read_json(Path(path))
    return found


def resolve(source: HubSource) -> tuple[str, dict[str, Any]]:
    """The commit that the revision stands for now, and its files by name.

    Raises SlmflowError when the hub does not answer with a commit.
    """
    where = f"hub:{source.repo}"
    try:
        info = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
    except FAILURES as error:
        raise SlmflowError(f"{where}: {_reason(error, source)}") from None
    commit = info.sha
    if not commit or not COMMIT.fullmatch(commit):
        raise SlmflowError(f"{where}: revision {source.revision!r} did not resolve to a commit")
    if COMMIT.fullmatch(source.revision) and commit != source.revision:
        raise SlmflowError(f"{where}: asked for commit {source.revision}, the hub answered with {commit}")
    return commit, {file.rfilename: file for file in info.siblings or []}


def wanted(names: list[str], source: HubSource, where: str) -> list[str]:
    """The files to take: data at the top of the repository, or below its subfolder, or the one file.

    Raises SlmflowError, before anything is downloaded, when the weights are pickles only or when there
    are several GGUF files to choose from.
    """
    if source.file:
        return [_named(names, source.file, where)]
    prefix = f"{source.subfolder.rstrip('/')}/" if source.subfolder else ""
    level = [name for name in names if name.startswith(prefix) and "/" not in name.removeprefix(prefix)]
    data = [name for name in level if is_data(name)]
    if any(name.endswith((".safetensors", ".onnx")) for name in data):
        return sorted(name for name in data if not name.endswith(".gguf"))
    quantised = [name for name in data if name.endswith(".gguf")]
    if len(quantised) > 1:
        count = len(quantised)
        raise SlmflowError(
            f"{where}: has {count} GGUF files, {', '.join(quantised[:8])}: name one, such as "
            f"-P model={source.repo}:{quantised[0]}"
        )
    pickles = [name for name in level if is_pickle(name)]
    if pickles and not quantised:
        raise SlmflowError(
            f"{where}: the only weights are pickles ({pickles[0]}), which can run code when loaded; "
            "name a revision that has safetensors"
        )
    return sorted(data)


def _named(names: list[str], file: str, where: str) -> str:
    """The file that a name or a pattern stands for. Raises SlmflowError unless it is one."""
    if file in names:
        return file
    found = [name for name in names if fnmatch.fnmatchcase(name.lower(), file.lower())]
    if len(found) == 1:
        return found[0]
    there = ", ".join(found or sorted(name for name in names if name.lower().endswith(".gguf"))) or "none"
    many = f"fits {len(found)} files" if found else "is not in the repository"
    raise SlmflowError(f"{where}: model.source.file={file} {many}; GGUF files there: {there}")


def _download(repo: str, commit: str, names: list[str]) -> Path:
    """The snapshot's folder in the client's cache, where a partial file stays and is resumed.

    The client goes on by itself after a lost connection, but gives up when a body ends early, and its
    Xet transfer raises a plain RuntimeError.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return Path(snapshot_download(repo, revision=commit, allow_patterns=names))
        except (httpx.TransportError, RuntimeError):
            print(
                f"  {repo}: the transfer broke off; resuming ({attempt} of {ATTEMPTS - 1})", file=sys.stderr
            )
            time.sleep(attempt)
    return Path(snapshot_download(repo, revision=commit, allow_patterns=names))


def _verify(path: Path, file: Any, what: str) -> None:
    """Raise SlmflowError, and forget the file, if it is not what the commit's metadata says."""
    expected = file.lfs.sha256 if file.lfs else file.blob_id
    actual = sha256_of(path) if file.lfs else git_blob_sha1(path)
    if actual != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise SlmflowError(
            f"{what}: the digest of what arrived is {actual}, the commit says {expected}; "
            "the file is removed from the cache: run again"
        )


def _reason(error: Exception, source: HubSource) -> str:
    if isinstance(error, GatedRepoError):
        return "the repository is gated: accept its terms on its page, then set HF_TOKEN to your token"
    if isinstance(error, RevisionNotFoundError):
        return f"there is no revision {source.revision!r}: name a branch, a tag or a commit"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private: check the name, or set HF_TOKEN"
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{first} (run again: what has arrived is kept)"
