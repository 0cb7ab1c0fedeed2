"""Digests, links and JSON on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


_known: dict[tuple[int, ...], str] = {}


def sha256_of(path: Path, *, again: bool = False) -> str:
    """The sha256 of a file, as 64 hexadecimal digits.

    A large file, which may be linked to several places, is hashed once a process unless `again` is set.
    """
    stat = path.stat()
    stamp = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if not again and stamp in _known:
        return _known[stamp]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size >= _BLOCK:
        _known[stamp] = digest
    return digest


def cache_folder() -> Path:
    """The user's cache folder for this project; what is in it can be computed again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slmflow"


def remembered_sha256(path: Path) -> str:
    """The sha256 of a file, computed once for its size, time and inode: a memo in the user's cache folder.

    A file that was changed within the last seconds is not remembered, as a second change could keep its
    time.
    """
    stat = path.stat()
    stamp = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
    memo = cache_folder() / "digests" / hashlib.sha256(stamp.encode()).hexdigest()
    with contextlib.suppress(OSError):
        return memo.read_text()
    digest = sha256_of(path)
    if time.time() - stat.st_mtime > 2:
        with contextlib.suppress(OSError):
            memo.parent.mkdir(parents=True, exist_ok=True)
            write_text(memo, digest)
    return digest


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


def gguf_files(folder: Path) -> list[Path]:
    """The GGUF files at the top of a folder."""
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(".gguf"))


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


def link_or_copy(source: Path, target: Path) -> bool:
    """Make `target` hold what `source` holds: a hard link where the file system allows it, else a copy.

    Returns whether it is a link.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
        return False
    return True


def link_tree(source: Path, target: Path) -> None:
    """Hard-link (or copy) every file below `source` to the same place below `target`."""
    for path in files_under(source):
        link_or_copy(path, target / path.relative_to(source))


def write_json(path: Path, value: Any) -> Path:
    """Write indented JSON, whole or not at all; returns the path."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.write_text(text)
    scratch.replace(path)
    return path


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    return json.loads(path.read_text())
