"""Stored artifacts as local paths, without a copy where the store is local."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from slmflow.errors import DamagedError
from slmflow.files import read_json


def folder_of(uri: str) -> Path | None:
    """The path that an artifact URI names on this machine, existing or not; None for a remote store."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme else uri)


def local_path(uri: str) -> Path:
    """The file or folder that an artifact URI names; read it, never write to it.

    MLflow's own `download_artifacts` copies a run's artifacts to a folder under TMPDIR and leaves them
    there, even when they are on this machine. Here only a remote artifact is downloaded, to a folder
    that goes when the process ends. Raises DamagedError when it does not exist, and UnavailableError when its
    server cannot be asked.
    """
    path = folder_of(uri)
    if path is None:
        from slmflow import downloads

        return downloads.one(uri)
    if not path.exists():
        raise DamagedError(f"{uri}: not there")
    return path


def stored_json(artifact_uri: str, name: str) -> Any:
    """A JSON artifact below an artifact URI, unchecked. Raises DamagedError when it does not exist."""
    return read_json(local_path(f"{artifact_uri}/{name}"))
