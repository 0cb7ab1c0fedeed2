"""Hydra's composition of `conf/`, and what it says of a bad word in one line."""

from __future__ import annotations

import difflib
import re
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf

from slmflow.config import register_schemas
from slmflow.errors import SlmflowError, first_line
from slmflow.overrides import CONF, added, key_of

OPEN = ("backend.environment", "backend.new_cluster", "backend.secrets", "score.spark")
"""Mappings whose keys are the user's."""


def slug(value: str) -> str:
    """A registered model's name from a repository, path or URI: its last part, in safe characters."""
    last = re.split(r"[/\\:]", value.rstrip("/"))[-1]
    return re.sub(r"[^a-z0-9._-]+", "-", re.sub(r"\.gguf$", "", last.lower())).strip("-.") or "model"


def register() -> None:
    """Make the schema and the resolver known, which `conf/` refers to."""
    register_schemas()
    if not OmegaConf.has_resolver("slug"):
        OmegaConf.register_new_resolver("slug", slug)


def composed(overrides: list[str]) -> DictConfig:
    """The configuration that overrides make, Hydra's own node with it. Raises SlmflowError with one line."""
    register()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            words = [_opened(token) for token in overrides if not added(token)]
            return compose("config", overrides=words, return_hydra_config=True)
    except MissingConfigException as error:
        raise SlmflowError(_unknown_choice(error)) from None
    except OverrideParseException as error:
        raise SlmflowError(f"overrides: cannot read {error.override!r}: {first_line(error)}") from None
    except (ConfigCompositionException, HydraException, ValueError) as error:
        if not overrides:
            raise  # conf/ itself is broken: a defect of ours
        raise SlmflowError(_bad_override(error, overrides)) from None


def sweep_of(overrides: list[str]) -> dict[str, str]:
    """What the chosen experiment sweeps (its `hydra.sweeper.params`): key to comma-separated values."""
    params = composed(overrides).hydra.sweeper.params
    return {str(key): str(value) for key, value in (params or {}).items()}


def _opened(override: str) -> str:
    """An override of what the defaults do not have, an experiment or a user's own key, as Hydra takes one."""
    key = key_of(override)
    is_new = key == "experiment"
    is_new = is_new or any(key == name or key.startswith(f"{name}.") for name in OPEN)
    if override.startswith("+") or not is_new:
        return override
    return f"+{override}" if key == "experiment" else f"++{override}"


def _unknown_choice(error: MissingConfigException) -> str:
    missing = error.missing_cfg_file or ""
    group, _, name = str(missing).rpartition("/")
    if not group:
        return first_line(error)
    return f"{group}={name} is unknown: allowed are {', '.join(sorted(error.options or []))}"


def _bad_override(error: BaseException, overrides: list[str]) -> str:
    """Hydra's and OmegaConf's messages in one line that names the key, the value and what is allowed."""
    cause: Any = error.__cause__
    text = " ".join(str(error).split())
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    if match := re.search(r"[Oo]verride '?([^'\s]+?)'?[.:] ", text):
        key = key or match[1]
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].split("=", 1)[0]
    override = next((token for token in overrides if key and key_of(token) == str(key)), None)
    if override is None:
        override = next((token for token in overrides if token in text), str(key or ""))
    key, _, value = override.lstrip("+~").partition("=")
    if "Could not override" in text or "not in struct" in text or "No match in the defaults list" in text:
        return f"{key}={value}: there is no such key; {near(key, overrides)}"
    reason = first_line(cause) if cause is not None else text
    reason = re.sub(r"^(Error merging override \S+: |Value '.*?' of type '.*?' )", "", reason)
    reason = re.sub(r"could not be converted to (\w+)", lambda m: f"must be of type {m[1].lower()}", reason)
    return f"{override}: {reason}"


def near(key: str, overrides: list[str]) -> str:
    """The keys that exist at the deepest known parent of `key`, nearest first."""
    choices = [token for token in overrides if (CONF / key_of(token)).is_dir()]
    node: Any = composed([token for token in choices if key_of(token) != key])
    parent = []
    for part in key.split(".")[:-1]:
        if not isinstance(node, DictConfig) or part not in node:
            break
        parent.append(part)
        node = node[part]
    names = [str(name) for name in node if name != "hydra"] if isinstance(node, DictConfig) else []
    asked = key.split(".")[len(parent)] if len(key.split(".")) > len(parent) else key
    close = difflib.get_close_matches(asked, names, n=1)
    hint = f"did you mean {'.'.join([*parent, close[0]])}? " if close else ""
    return f"{hint}allowed here: {', '.join('.'.join([*parent, name]) for name in sorted(names))}"
