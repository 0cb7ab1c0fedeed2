"""The project's folder as one file: what git tracks, as it is on disk, and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass

from slmflow.errors import SlmflowError
from slmflow.workflow.checkout import SECRET_NAMES, git
from slmflow.workflow.closure import ROOT

LIMIT_BYTES = 7_500_000
"""Of one imported workspace file: `workspace/import` takes 10 MB of base64, four bytes for three."""


@dataclass(frozen=True)
class Archive:
    """A .tar.gz; equal files give equal bytes."""

    content: bytes
    files: int

    @property
    def digest(self) -> str:
        """Its sha256."""
        return hashlib.sha256(self.content).hexdigest()


def project_archive() -> Archive:
    """The tracked files of the project's folder.

    Raises SlmflowError where it is no git checkout, where a tracked file is named as credentials are or is a
    link to outside the project, or where the archive is larger than LIMIT_BYTES.
    """
    listed = git("ls-files", "-z", "--cached")
    if listed.returncode:
        raise SlmflowError(f"{ROOT}: no git checkout, so what to upload cannot be told: run from a clone")
    names = sorted(part.decode() for part in listed.stdout.split(b"\0") if part)
    content, files = io.BytesIO(), 0
    with (
        gzip.GzipFile(filename="", fileobj=content, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name in names:
            path = ROOT / name
            if not path.is_file():  # deleted since, or a submodule
                continue
            if not path.resolve().is_relative_to(ROOT.resolve()):
                raise SlmflowError(f"{name}: tracked, and a link to outside the project: it is not uploaded")
            if any(path.match(pattern) for pattern in SECRET_NAMES):
                raise SlmflowError(f"{name}: tracked, and named as credentials are: it is not uploaded")
            member = tarfile.TarInfo(name)
            member.size, member.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(member, file)
            files += 1
    size = len(content.getvalue())
    if size > LIMIT_BYTES:
        raise SlmflowError(
            f"the tracked files pack to {size:,} bytes, and {LIMIT_BYTES:,} can be imported: "
            "take large files out of git"
        )
    return Archive(content.getvalue(), files)
