"""What of a list of requirements is installed here, and what is not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Split:
    """A list of requirements, parted."""

    here: dict[str, Distribution]
    """Installed here in a version that was asked for, by canonical name."""
    missing: list[str]
    """The other lines, markers that hold taken off; what these need beyond the list is not known."""


def plain_lines(text: str) -> Iterator[str]:
    """The lines of a requirements file without comments."""
    for line in text.splitlines():
        if words := re.split(r"(?:^|\s)#", line)[0].strip():
            yield words


def locked(lines: list[str]) -> Split:
    """Of a list that names all that is needed, each in one version.

    What one that is here requires and the list does not name comes with it: a lock leaves the libraries of
    CUDA to the build of torch, and here it may be that build.
    """
    here: dict[str, Distribution] = {}
    missing: list[str] = []
    named: set[str] = set()
    for line in lines:
        requirement = _plain(line)
        if requirement is None:
            missing.append(line)
            continue
        if requirement.marker and not requirement.marker.evaluate():
            continue
        named.add(canonicalize_name(requirement.name))
        if found := _installed(requirement):
            here[canonicalize_name(requirement.name)] = found
        else:
            missing.append(f"{requirement.name}{requirement.specifier}")
    left_out = with_all_they_require([needed for found in here.values() for needed in found.requires or []])
    unnamed = {name: found for name, found in left_out.here.items() if name not in named}
    return Split(unnamed | here, missing)


def with_all_they_require(lines: list[str]) -> Split:
    """Of a list whose lines need others that it does not name: these too, as the metadata say."""
    here: dict[str, Distribution] = {}
    missing: list[str] = []
    seen: set[tuple[str, str]] = set()
    stack = [(line, "") for line in lines]
    while stack:
        line, wanted_by = stack.pop()
        requirement = _plain(line)
        if requirement is None:
            missing.append(line)
            continue
        if requirement.marker and not requirement.marker.evaluate({"extra": wanted_by}):
            continue
        found = _installed(requirement)
        if found is None:
            missing.append(f"{requirement.name}{requirement.specifier}")
            continue
        name = canonicalize_name(requirement.name)
        here[name] = found
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                stack += [(needed, extra) for needed in found.requires or []]
    return Split(here, sorted(set(missing)))


def _plain(line: str) -> Requirement | None:
    """The line as a name with versions; None for an option, or an address, which may hold anything."""
    try:
        found = Requirement(line)
    except InvalidRequirement:
        return None
    return None if found.url else found


def size_of_its_like(line: str) -> int:
    """Bytes on disk of the distribution of that name that is installed here, in any version; 0 if none is."""
    try:
        files = distribution(Requirement(line).name).files or []
    except (InvalidRequirement, PackageNotFoundError):
        return 0
    return sum(file.size or 0 for file in files)


def _installed(requirement: Requirement) -> Distribution | None:
    """The distribution here that fits, if it lists its files."""
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        return None
    fits = requirement.specifier.contains(found.version, prereleases=True)
    return found if fits and _lists_files(found) else None


def _lists_files(found: Distribution) -> bool:
    """Whether `files` is known; asked for, that looks for each of them, which are tens of thousands."""
    return any(found.read_text(name) for name in ("RECORD", "installed-files.txt", "SOURCES.txt"))
