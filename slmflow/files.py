"""Digests, links and JSON on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits, read in blocks of 1 MiB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_sha1(path: Path) -> str:
    """The id that git, and so a hub, gives to a file's content: sha1 of its header and its bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def files_under(folder: Path) -> list[Path]:
    """Every file below a folder, sorted by its path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digests_under(folder: Path) -> dict[str, str]:
    """Relative POSIX path to sha256, for every file below a folder."""
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files_under(folder)}


def size_under(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in files_under(folder))


def canonical_digest(value: Any) -> str:
    """sha256 of a JSON value, the same however its keys were ordered."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` hold what `source` holds: a hard link where the file system allows it, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, value: Any) -> Path:
    """Write indented JSON, whole or not at all; returns the path."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
    scratch.replace(path)
    return path


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    return json.loads(path.read_text())
