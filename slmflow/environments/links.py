"""Installed distributions in another environment, by links: no copy, no network."""

from __future__ import annotations

import os
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.metadata import Distribution


def link(distributions: Iterable[Distribution], target: Path) -> bool:
    """Link their modules into the site-packages folder `target`; returns whether any link is symbolic.

    A hard link takes no room and outlives an upgrade; to another file system only a symbolic one leads.
    """
    made, symbolic = set[Path](), False
    for found in distributions:
        for name in _modules_of(found):
            place = target / name
            if place.parent not in made:
                place.parent.mkdir(parents=True, exist_ok=True)
                made.add(place.parent)
            symbolic |= _link_file(Path(str(found.locate_file(name))), place)
    return symbolic


def _modules_of(found: Distribution) -> Iterator[Path]:
    """What lies in site-packages, and what Python has compiled of it here, which uv does not list."""
    for name in map(Path, found.files or []):
        if ".." in name.parts or name.is_absolute():  # scripts and manual pages
            continue
        yield name
        if name.suffix == ".py":
            compiled = Path(cache_from_source(str(name)))
            if Path(str(found.locate_file(compiled))).exists():
                yield compiled


def _link_file(source: Path, place: Path) -> bool:
    """Whether the link is a symbolic one."""
    if place.exists():  # a file that two distributions bring
        return False
    try:
        os.link(source, place)
    except FileNotFoundError:  # listed and not there, such as a cache that was cleared
        return False
    except OSError:
        place.symlink_to(source)
        return True
    return False
