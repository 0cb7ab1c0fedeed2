"""The key of a step: what its result depends on, and why two keys differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import yaml

from slmflow.config.backend import DatabricksBackendConfig
from slmflow.environments.exporters import environment_digest
from slmflow.files import canonical_digest
from slmflow.machine import machine
from slmflow.sources.identity import Identity, adapter_identity, identity_of
from slmflow.text import text_of
from slmflow.workflow.closure import code_of
from slmflow.workflow.steps import STEPS, Step

if TYPE_CHECKING:
    from slmflow.compose import Composition

BESIDE = "environments/"
Ingredients = dict[str, dict[str, Any]]
"""Kind of ingredient to its parts; all values are JSON."""


def ingredients(
    step: Step, composition: Composition, upstream: dict[str, str], identity: dict[str, str]
) -> Ingredients:
    """All that a step's result depends on.

    In this order: its name and declared version; the resolved configuration that it reads, less what it
    ignores; the keys of its upstream runs by parameter, so that the key is a Merkle tree; `identity`, the
    content that names in the configuration lead to (the source's commit or digest, the text's digest); the
    installed versions of the distributions that it declares; the digests of its own modules' static import
    closure; and for a step whose result holds times, the machine: of a remote one what is known beforehand.
    """
    backend = composition.config.backend
    hardware = backend.hardware() if isinstance(backend, DatabricksBackendConfig) else machine()
    return {
        "step": {"name": step.name, "version": step.version},
        "config": configuration_of(step, composition),
        "upstream": dict(sorted(upstream.items())),
        "identity": dict(sorted(identity.items())),
        "installed": {name: _installed(name) for name in sorted(step.distributions(composition.config))},
        "code": code_of(f"steps.{step.name}", step.ships),
        "machine": hardware if step.of_machine else {},
    }


def step_identity(step: str, composition: Composition) -> Identity:
    """The content that the names in a step's configuration lead to now. Raises SlmflowError if nowhere."""
    if step == "evaluate":
        evaluate = composition.config.evaluate
        items = "none" if evaluate.items == "none" else _items_digest(evaluate.items)
        return Identity({"text": canonical_digest(text_of(evaluate.text)), "items": items})
    if step != "fetch":
        return Identity({})
    model = composition.config.model
    weights, adapter = identity_of(model.source), adapter_identity(model.adapter)
    identity = Identity({**weights.content, **adapter.content}, [*weights.pins, *adapter.pins])
    if composition.base is None:
        return identity
    base = composition.base
    ignored = [name.rpartition(".")[2] for name in STEPS["fetch"].ignored]
    fields = {name: str(value) for name, value in asdict(base.source).items() if name not in ignored}
    content = {**fields, **identity_of(base.source).content, "licence": base.licence}
    return Identity(
        {**identity.content, **{f"base.{key}": value for key, value in content.items()}}, identity.pins
    )


def key_of_ingredients(parts: Ingredients) -> str:
    """The key: 64 hexadecimal digits, the sha256 of the ingredients as canonical JSON."""
    return canonical_digest(parts)


def configuration_of(step: Step, composition: Composition) -> dict[str, Any]:
    """The part of the resolved configuration that a step reads, flat: dotted key to value."""
    whole = dict(flat(yaml.safe_load(composition.yaml)))
    return {
        key: value
        for key, value in sorted(whole.items())
        if _below(key, step.config) and not _below(key, step.ignored)
    }


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts by dotted key; a list is a leaf."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def differences(before: Ingredients, now: Ingredients) -> list[str]:
    """Why two keys differ, one line an ingredient: `export.precision int4 → int8`."""
    lines = []
    for kind in now:
        old, new = before.get(kind, {}), now[kind]
        for name in sorted({*old, *new}):
            if old.get(name) == new.get(name):
                continue
            if kind == "upstream":
                lines.append(f"{name} changed")
            elif kind == "code":
                verb = "is new" if name not in old else "is gone" if name not in new else "changed"
                lines.append(f"{name} {verb}")
            else:
                label = {"step": f"step {name}", "machine": f"machine {name}"}.get(kind, name)
                lines.append(f"{label} {_shown(old, name)} → {_shown(new, name)}")
    return lines


def _items_digest(name: str) -> str:
    from slmflow.quality.items import read_items

    return read_items(name).digest


def _shown(part: dict[str, Any], name: str) -> str:
    if name not in part:
        return "(none)"
    text = str(part[name])
    return text if len(text) <= 40 else f"{text[:12]}…"


def _below(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _installed(name: str) -> str:
    """The version of a distribution here, or the digest of an environment beside this one."""
    if name.startswith(BESIDE):
        return environment_digest(name.removeprefix(BESIDE))
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
