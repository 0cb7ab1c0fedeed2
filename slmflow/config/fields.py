"""What kind of value a key of the configuration takes, told from the schema alone."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from slmflow.config import Config


def takes_text(key: str) -> bool:
    """Whether `key`, such as `model.licence`, takes texts only, whatever is chosen from the config groups.

    Any text is a value of such a key, so that nobody needs to quote one for Hydra.
    """
    return set(_kinds(key)) == {str}


def takes_list(key: str) -> bool:
    """Whether `key`, such as `gate.licences`, takes a list."""
    return any(get_origin(kind) is list for kind in _kinds(key))


@cache
def _kinds(key: str) -> tuple[Any, ...]:
    """The types that a key may have; none where there is no such key."""
    found: list[Any] = [Config]
    for part in key.split("."):
        found = [kind for parent in found for kind in _children(parent, part)]
    return tuple(found)


def _children(parent: Any, part: str) -> Iterator[Any]:
    if get_origin(parent) is dict:
        yield from _members(get_args(parent)[1])
    elif is_dataclass(parent):
        for cls in (parent, *_subclasses(parent)):
            if (hint := get_type_hints(cls).get(part)) is not None:
                yield from _members(hint)


def _members(hint: Any) -> Iterator[Any]:
    """The types of a union, without None."""
    if get_origin(hint) in (Union, types.UnionType):
        yield from (member for member in get_args(hint) if member is not type(None))
    else:
        yield hint


def _subclasses(parent: Any) -> Iterator[Any]:
    """Of a group's common class: the classes of its members."""
    for cls in parent.__subclasses__():
        yield cls
        yield from _subclasses(cls)
