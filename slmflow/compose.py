"""From what a user typed to a checked configuration, or one line that says what is wrong with it."""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slmflow.config import Config, GateMode, ModelConfig, Promote, register_schemas
from slmflow.errors import SlmflowError, first_line
from slmflow.overrides import CONF, added, key_of, split_overrides

GROUP_PARAMETERS = ("model", "export")
"""Config groups that MLproject also declares as plain parameters, so that the UI compares them."""

KEEPS_CODES = "gguf_cpu"
"""The export of a GGUF file when the user names none."""
OF_ADAPTED_CODES = "int8_cpu"
"""The same with an adapter, which changes its weights."""
OPEN = ("backend.environment", "backend.new_cluster", "backend.secrets", "score.spark")
"""Mappings whose keys are the user's."""
FILE_KEYS = ("path", "file", "member", "uri")
"""Fields by which the kinds of source may name a file."""


@dataclass(frozen=True)
class Composition:
    """A checked configuration and the words that make it again."""

    config: Config
    choices: dict[str, str]
    """Config group to the file chosen from it, e.g. {"model": "smollm2_135m"}."""
    overrides: str
    """The overrides other than model and export, quoted as one string for a child run."""
    yaml: str
    """Everything resolved, as YAML."""
    base: ModelConfig | None
    """For a prebuilt model, the configuration of the weights that it was made from."""


def slug(value: str) -> str:
    """A registered model's name from a repository, path or URI: its last part, in safe characters."""
    last = re.split(r"[/\\:]", value.rstrip("/"))[-1]
    return re.sub(r"[^a-z0-9._-]+", "-", re.sub(r"\.gguf$", "", last.lower())).strip("-.") or "model"


def name_in(schema: str, name: str) -> str:
    """A registered model's name in a schema of Unity Catalog, where it has no dots of its own."""
    if name.startswith(f"{schema}."):
        return name
    return f"{schema}.{name.replace('.', '_')}"


def compose(model: str = "", export: str = "", overrides: str = "") -> Composition:
    """Compose, check types and ranges, and resolve. Raises SlmflowError with one line."""
    tokens = split_overrides(overrides)
    for token in tokens:
        if token.startswith("~"):
            raise SlmflowError(f"overrides: {token}: a part of the configuration cannot be taken away")
        key, _, value = token.partition("=")
        if value in ("", "null") and (CONF / key).is_dir():
            names = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
            raise SlmflowError(f"{key}={value}: choose one of {', '.join(names)}")
        if "oc.env" in token:
            raise SlmflowError(f"overrides: {token}: a value from the environment would be recorded")
    given = {"model": model, "export": export}
    given_twice(given, tokens)
    chosen = [f"{name}={value}" for name, value in given.items() if value]
    chosen += _export_of_codes(chosen + tokens)
    container = _hydra(chosen + tokens)
    if (
        _adapted(tokens)
        and container.export.exporter == "gguf"
        and "export" not in map(key_of, chosen + tokens)
    ):
        chosen.append(f"export={OF_ADAPTED_CODES}")
        container = _hydra(chosen + tokens)
    choices = {k: str(v) for k, v in container.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    OmegaConf.set_struct(container, False)
    del container["hydra"]
    for token in tokens:
        if values := added(token):
            OmegaConf.select(container, key_of(token)).extend(values)
    config = _objects(container, chosen + tokens)
    _consistent(config)
    if config.backend.schema:
        container.model.name = config.model.name = name_in(config.backend.schema, config.model.name)
    if config.backend.kind == "databricks" and (braces := [token for token in tokens if "{{" in token]):
        raise SlmflowError(
            f"overrides: {key_of(braces[0])}: a job would replace {{{{…}}}} by a value of its own; "
            "name a secret by +backend.secrets.NAME=scope/key"
        )
    rest = [token for token in tokens if key_of(token) not in GROUP_PARAMETERS]
    yaml = OmegaConf.to_yaml(container, resolve=True)
    return Composition(config, choices, shlex.join(rest), yaml, _base(config.model))


def held_back(composition: Composition) -> Composition:
    """The same configuration with `gate.promote=manual`."""
    if composition.config.gate.promote is Promote.manual:
        return composition
    chosen = {name: composition.choices[name] for name in GROUP_PARAMETERS}
    return compose(**chosen, overrides=f"{composition.overrides} gate.promote=manual")


def _opened(override: str) -> str:
    """An override of what the defaults do not have, an experiment or a user's own key, as Hydra takes one."""
    key = key_of(override)
    is_new = key == "experiment"
    is_new = is_new or any(key == name or key.startswith(f"{name}.") for name in OPEN)
    if override.startswith("+") or not is_new:
        return override
    return f"+{override}" if key == "experiment" else f"++{override}"


def _export_of_codes(words: list[str]) -> list[str]:
    """The export of a GGUF file that the words name, if no adapter changes its weights; else nothing."""
    keys = {key_of(word): word.partition("=")[2] for word in words}
    files = [keys.get(f"model.source.{key}", "").strip("'\"") for key in FILE_KEYS]
    named = any(name.lower().endswith(".gguf") for name in files)
    return [f"export={KEEPS_CODES}"] if named and not _adapted(words) and "export" not in keys else []


def _adapted(words: list[str]) -> bool:
    return any(key_of(word).startswith("model.adapter.") for word in words)


def given_twice(given: dict[str, str], tokens: list[str]) -> None:
    """Raise SlmflowError when a parameter stands among the overrides as well."""
    for name, value in given.items():
        if value and any(key_of(token) == name for token in tokens):
            raise SlmflowError(f"{name}={value} is given as a parameter and in overrides: give it once")


def sweep_of(overrides: list[str]) -> dict[str, str]:
    """What the chosen experiment sweeps (its `hydra.sweeper.params`): key to comma-separated values."""
    params = _hydra(overrides).hydra.sweeper.params
    return {str(key): str(value) for key, value in (params or {}).items()}


def _base(model: ModelConfig) -> ModelConfig | None:
    if model.base is None:
        return None
    try:
        base = compose(model=model.base).config.model
    except SlmflowError as error:
        raise SlmflowError(f"model.base={model.base}: {error}") from None
    if base.base is not None:
        raise SlmflowError(f"model.base={model.base} has a base itself: name the model that has the weights")
    return base


def register() -> None:
    """Make the schema and the resolver known, which `conf/` refers to."""
    register_schemas()
    if not OmegaConf.has_resolver("slug"):
        OmegaConf.register_new_resolver("slug", slug)


def _hydra(overrides: list[str]) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            words = [_opened(token) for token in overrides if not added(token)]
            return hydra_compose("config", overrides=words, return_hydra_config=True)
    except MissingConfigException as error:
        raise SlmflowError(_unknown_choice(error)) from None
    except OverrideParseException as error:
        raise SlmflowError(f"overrides: cannot read {error.override!r}: {first_line(error)}") from None
    except (ConfigCompositionException, HydraException, ValueError) as error:
        if not overrides:
            raise  # conf/ itself is broken: a defect of ours
        raise SlmflowError(_bad_override(error, overrides)) from None


def _objects(container: DictConfig, overrides: list[str]) -> Config:
    _refuse_unknown(container, "", overrides)
    try:
        missing = sorted(OmegaConf.missing_keys(container))
        OmegaConf.resolve(container)
        config = OmegaConf.to_object(container) if not missing else None
    except OmegaConfBaseException as error:
        # A name that is made from a missing path fails before the path itself is looked at.
        match = re.search(r"Missing mandatory value: (\S+)", str(error))
        if not match:
            raise SlmflowError(f"{error.full_key}: {first_line(error)}") from None
        missing = [match[1]]
    except ValueError as error:  # a range check of the schema
        raise SlmflowError(str(error)) from None
    if missing:
        raise SlmflowError(f"{missing[0]} is not set: give -P {missing[0]}=…")
    assert isinstance(config, Config)
    return config


def _refuse_unknown(node: DictConfig, prefix: str, overrides: list[str]) -> None:
    """`+key=value` adds keys past the schema: refuse those that the schema does not have."""
    for name in node:
        key = f"{prefix}{name!s}"
        schema = OmegaConf.get_type(node)
        if is_dataclass(schema) and name not in {field.name for field in fields(schema)}:
            raise SlmflowError(f"{key}: there is no such key; {_near(key, overrides)}")
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            _refuse_unknown(child, f"{key}.", overrides)


def _consistent(config: Config) -> None:
    """Refuse parts that do not belong together."""
    for key, node, field in (
        ("model.source.kind", config.model.source, "kind"),
        ("export.exporter", config.export, "exporter"),
    ):
        made_for = getattr(type(node), field)
        if getattr(node, field) != made_for:
            group = key.split(".")[0]
            kind = getattr(node, field)
            raise SlmflowError(f"{key}={kind}: this {group} is of kind {made_for}; choose another {group}=")
    if not config.gate.thresholds and config.gate.mode is not GateMode.off:
        raise SlmflowError("gate.thresholds=[] judges nothing: give a row, or gate.mode=off")
    if config.model.adapter.given and config.export.exporter == "prebuilt":
        raise SlmflowError("model.adapter is merged into weights: export=prebuilt has none")
    if config.model.base is not None and config.export.exporter != "prebuilt":
        raise SlmflowError(f"model.base={config.model.base} needs export=prebuilt; else give model.base=null")


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
        return f"{key}={value}: there is no such key; {_near(key, overrides)}"
    reason = first_line(cause) if cause is not None else text
    reason = re.sub(r"^(Error merging override \S+: |Value '.*?' of type '.*?' )", "", reason)
    reason = re.sub(r"could not be converted to (\w+)", lambda m: f"must be of type {m[1].lower()}", reason)
    return f"{override}: {reason}"


def _near(key: str, overrides: list[str]) -> str:
    """The keys that exist at the deepest known parent of `key`, nearest first."""
    choices = [token for token in overrides if (CONF / key_of(token)).is_dir()]
    node: Any = _hydra([token for token in choices if key_of(token) != key])
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
