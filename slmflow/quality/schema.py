"""JSON schemas of task items, draft 2020-12: nothing is fetched, and every reference leads somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.errors import first_line

if TYPE_CHECKING:
    from referencing import Resource
    from referencing._core import Resolver

REFERENCES = ("$ref", "$dynamicRef")


def problem_of(schema: dict[str, Any]) -> str:
    """What is wrong with a schema; empty for one that can judge any answer."""
    import jsonschema
    from referencing import Registry
    from referencing.exceptions import CannotDetermineSpecification, Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        whole = DRAFT202012.create_resource(schema)
        base = whole.id() or ""
        resolver = Registry().with_resource(base, whole).resolver(base)
        return _unresolved(whole, resolver)
    except jsonschema.SchemaError as error:
        return f"schema: {first_line(error)[:100]}"
    except RecursionError:
        return "schema: it is nested too deeply"
    except (CannotDetermineSpecification, Unresolvable, ValueError, OverflowError) as error:
        return f"schema: {first_line(error)[:100]}"


def _unresolved(part: Resource[Any], resolver: Resolver[Any]) -> str:
    """The first reference that leads nowhere within the schema. Values of `enum` and the like are none."""
    from referencing.exceptions import Unresolvable

    contents = part.contents
    for name in REFERENCES:
        reference = contents.get(name) if isinstance(contents, dict) else None
        if isinstance(reference, str):
            try:
                resolver.lookup(reference)
            except (Unresolvable, ValueError):
                return f"schema: {name} {reference[:60]!r} points to nothing within the schema"
    inner = (_unresolved(one, resolver.in_subresource(one)) for one in part.subresources())
    return next((problem for problem in inner if problem), "")


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether a schema without problems accepts a value; False for one that no arithmetic can judge."""
    import jsonschema
    from referencing import Registry

    validator = jsonschema.Draft202012Validator(schema, registry=Registry())
    try:
        return bool(validator.is_valid(value))
    # An integer of 400 digits over 0.1, or a schema that only refers to itself.
    except (OverflowError, RecursionError, ValueError):
        return False
