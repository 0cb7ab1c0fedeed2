"""The state of the project's folder and its environment: enough to build them again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from slmflow.workflow.closure import ROOT

LIMIT_BYTES = 5_000_000
"""A patch and its untracked files together, at most."""
SECRETS = re.compile(
    rb"hf_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|dapi[0-9a-f]{32}"
    rb"|sk-[A-Za-z0-9_-]{20,}|xox[abp]-[A-Za-z0-9-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY"
    rb"|(?i:(?:password|passwd|secret|token|api_?key)\w*['\"]?\s*[:=]\s*['\"]?[A-Za-z0-9/+_.-]{12,})"
    rb"|://[^/\s:@]+:[^@\s/]+@|Bearer\s+[A-Za-z0-9._-]{12,}"
)
"""What looks like a credential: known prefixes, private keys, passwords in addresses, long values."""
SECRET_NAMES = (".env*", "*.env", ".netrc", "*.pem", "*.key", "credentials*", "secrets*")
"""Untracked files that are never logged."""
PLAIN = ("--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/")
"""Options against what the user's own settings make of a diff."""
COMMIT_TAG = "slmflow.git.commit"
FOLDER_TAG = "slmflow.git.folder"
"""Of a project that is a folder of a larger repository: which one."""
DIRTY_TAG = "slmflow.git.dirty"
COMMIT_VARIABLE = "SLMFLOW_GIT_COMMIT"
"""By which a job whose folder is no checkout is told the commit (databricks.yml)."""
PATCH_TAG = "slmflow.git.patch"
"""`logged`, or why the changes could not be: such a run cannot be reproduced."""


@dataclass(frozen=True)
class Checkout:
    """The project's folder against its commit."""

    commit: str | None
    """None where it is no git checkout, nor a copy that knows its commit."""
    dirty: bool
    patch: bytes
    """`git diff HEAD --binary --relative` of the tracked files, and the untracked text files as additions."""
    withheld: str
    """Why the patch must not be logged; empty if it may."""
    below: str = ""
    """The project's folder in its repository, with a slash at its end; empty where it is the repository."""


def git(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder, without the user's hooks, colours or pager."""
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True)


@cache
def checkout(folder: Path = ROOT) -> Checkout:
    """Look at a checkout: one `git status`, and a diff only where there is something to see.

    It may be a folder of a larger repository that git tracks; what was only copied below one is none.
    """
    try:
        top = git("rev-parse", "HEAD", "--show-prefix", folder=folder)
    except FileNotFoundError:  # no git on this machine
        return Checkout(packed_commit(folder), False, b"", "")
    commit, _, below = top.stdout.decode().rstrip("\n").partition("\n")
    tracked = git("ls-tree", "--name-only", "HEAD", ".", folder=folder).stdout
    if top.returncode or not tracked:
        return Checkout(packed_commit(folder), False, b"", "")
    status = git("status", "--porcelain", "-z", "--untracked-files=all", "--", ".", folder=folder).stdout
    if not status:
        return Checkout(commit, False, b"", "", below)
    patch = git("diff", "HEAD", "--binary", "--relative", *PLAIN, folder=folder).stdout
    untracked = git("ls-files", "--others", "--exclude-standard", "-z", folder=folder).stdout
    withheld = ""
    for name in [part.decode() for part in untracked.split(b"\0") if part]:
        path = folder / name
        plain = path.is_file() and not path.is_symlink()
        content = path.read_bytes() if plain else b""
        if not plain:  # a link to a folder, another repository
            withheld = withheld or f"the untracked {name} is no plain file"
        elif len(content) + len(patch) > LIMIT_BYTES:
            withheld = withheld or f"with {name} the changes have more than {LIMIT_BYTES:,} bytes"
        elif any(fnmatchcase(Path(name).name, pattern) for pattern in SECRET_NAMES):
            withheld = withheld or f"the untracked file {name} may hold credentials"
        elif b"\0" in content:
            withheld = withheld or f"the untracked file {name} is not text"
        else:
            added = git("diff", "--no-index", *PLAIN, "--", "/dev/null", name, folder=folder)
            patch += added.stdout
    if len(patch) > LIMIT_BYTES:
        withheld = withheld or f"the changes have more than {LIMIT_BYTES:,} bytes"
    if secret := SECRETS.search(patch):
        line = patch[: secret.start()].count(b"\n") + 1
        withheld = f"line {line} of the changes looks like a credential"
    return Checkout(commit, True, b"" if withheld else patch, withheld, below)


def packed_commit(folder: Path) -> str | None:
    """The commit of a copy without git: as `git archive` wrote it into the copy, or as a job is told it."""
    stamp = folder / "slmflow" / "workflow" / "commit.txt"  # .gitattributes: export-subst
    said = os.environ.get(COMMIT_VARIABLE) or (stamp.read_text() if stamp.is_file() else "")
    return said.strip() if re.fullmatch(r"[0-9a-f]{40}", said.strip()) else None


@cache
def installed() -> str:
    """Every installed distribution as `name==version`, a line each: what this process runs on.

    Read off the names of the `.dist-info` folders, in the order of sys.path: a tenth of a second less
    than reading all their metadata.
    """
    found: dict[str, str] = {}
    for folder in map(Path, sys.path):
        for info in folder.glob("*.dist-info"):
            name, _, version = info.stem.rpartition("-")
            found.setdefault(name.lower().replace("_", "-"), version)
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def own_distributions(listing: str) -> list[str]:
    """The lines of a listing without pip's own tools, whose version changes no result."""
    tools = ("pip==", "setuptools==", "wheel==")
    return [line for line in listing.splitlines() if line and not line.startswith(tools)]
