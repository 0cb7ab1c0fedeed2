"""From what a user typed to a checked configuration, or one line that says what is wrong with it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields, is_dataclass

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slmflow.config import Config, GateMode, ModelConfig, Promote
from slmflow.errors import SlmflowError, first_line
from slmflow.hydra_compose import composed, near
from slmflow.overrides import CONF, added, key_of, split_overrides

GROUP_PARAMETERS = ("model", "export")
"""Config groups that MLproject also declares as plain parameters, so that the UI compares them."""

KEEPS_CODES = "gguf_cpu"
"""The export of a GGUF file when the user names none."""
OF_ADAPTED_CODES = "int8_cpu"
"""The same with an adapter, which changes its weights."""
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
    container = composed(chosen + tokens)
    if (
        _adapted(tokens)
        and container.export.exporter == "gguf"
        and "export" not in map(key_of, chosen + tokens)
    ):
        chosen.append(f"export={OF_ADAPTED_CODES}")
        container = composed(chosen + tokens)
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
            raise SlmflowError(f"{key}: there is no such key; {near(key, overrides)}")
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
