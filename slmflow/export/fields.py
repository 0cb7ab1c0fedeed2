"""What a class of transformers' configurations has as a field, and so what its models may read."""

from __future__ import annotations


def fields_of(kind: type) -> set[str]:
    """The declared fields; any other key of a config.json stays an attribute that nobody reads."""
    return {name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})}
