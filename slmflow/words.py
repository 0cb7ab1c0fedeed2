"""The words of a command line: declared parameters, and keys of the configuration as parameters of their own.

MLflow hands a declared parameter on as `key=value` and any other as `--key value`; both are read, and
`--key=value` as well. A key that takes a text takes any text, with its spaces, commas and quotes: what Hydra
wants quoted is quoted here.
"""

from __future__ import annotations

import difflib
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from slmflow.errors import SlmflowError
from slmflow.model_words import adapter_tokens, anchored
from slmflow.overrides import CONF, FLAGS, key_of, split_overrides, token_of

CHOICES = ("experiment", "model", "export", "adapter", "overrides")
"""Parameters that every entry point which reads the configuration declares beside its upstream ids."""
SHELLS = ("bash", "sh", "dash", "zsh")


@dataclass(frozen=True)
class Words:
    """What was typed, checked for its shape."""

    declared: dict[str, str]
    """Parameters that the entry point declares, the empty ones too."""
    keys: dict[str, str] = field(default_factory=dict)
    """Keys of the configuration that were given as parameters of their own."""

    @property
    def typed(self) -> dict[str, str]:
        """All that says something, as `-P key=value` repeats it."""
        return {key: value for key, value in {**self.declared, **self.keys}.items() if value}

    @property
    def overrides(self) -> str:
        """Everything but `model` and `export` as one string of Hydra overrides.

        Raises SlmflowError for what is given twice.
        """
        own = self.declared.get("overrides", "")
        given = {key_of(token) for token in split_overrides(own)}
        experiment, adapter = self.declared.get("experiment"), self.declared.get("adapter")
        for key in (*(["experiment"] if experiment else []), *self.keys):
            if key_of(key) in given:
                raise SlmflowError(f"{key} is given as a parameter and in overrides: give it once")
        tokens = [f"+experiment={experiment}"] if experiment else []
        if adapter:
            tokens += adapter_tokens(adapter)
        text = shlex.join(tokens)
        keys = shlex.join(token_of(key, value) for key, value in self.keys.items())
        return " ".join(part for part in (text, own, keys) if part)

    @property
    def choices(self) -> dict[str, str]:
        """The arguments of `slmflow.sweep.variants`."""
        return {
            "model": self.declared.get("model", ""),
            "export": self.declared.get("export", ""),
            "overrides": self.overrides,
        }


def read_words(command: str, argv: list[str], allowed: tuple[str, ...]) -> Words:
    """The words of a command line; where `overrides` is allowed, any key of the configuration is as well.

    Relative paths of `model` and `adapter` are made absolute by the folder in which the command was typed.
    Raises SlmflowError for a word that is neither, or a key that is there twice.
    """
    declared: dict[str, str] = {}
    keys: dict[str, str] = {}
    configured = "overrides" in allowed
    flags, pairs = _pairs(command, argv, configured)
    for word, key, value in pairs:
        if key in declared or key in keys:
            raise SlmflowError(f"{word}: {key} is there twice: give it once")
        if key in allowed:
            declared[key] = value
        elif configured and _is_key(key):
            keys[key] = value
        else:
            raise SlmflowError(_unknown(word, key, command, allowed))
    if flags:  # then a value is Hydra's to read, who finds what it sweeps
        raw = shlex.join([*flags, *(f"{key}={value}" for key, value in keys.items())])
        declared["overrides"] = " ".join(part for part in (raw, declared.get("overrides", "")) if part)
        keys = {}
    for name in ("model", "adapter"):
        if configured and declared.get(name):
            declared[name] = anchored(name, declared[name], typed_folder())
    return Words(declared, keys)


def _pairs(command: str, argv: list[str], configured: bool) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Flags, and of every other word the word itself, its key and its value."""
    flags, pairs, rest = [], [], list(argv)
    while rest:
        word = rest.pop(0)
        if configured and word in FLAGS:
            flags.append(word)
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals and word.startswith("--"):
            if not rest:
                raise SlmflowError(f"{word} has no value: {command} takes {word} VALUE or {key}=VALUE")
            value = rest.pop(0)
        elif not equals:
            raise SlmflowError(f"unknown argument {word!r}: {command} takes key=value")
        pairs.append((word, key, value))
    return flags, pairs


def _is_key(key: str) -> bool:
    """Whether it can only be meant for the configuration: a group, or a key with a dot."""
    bare = key.lstrip("+~")
    return "." in bare or bare != key or bare in _groups()


def _groups() -> list[str]:
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def _unknown(word: str, key: str, command: str, allowed: tuple[str, ...]) -> str:
    configured = "overrides" in allowed
    names = list(dict.fromkeys([*allowed, *(_groups() if configured else [])]))
    close = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean {close[0]}=…? " if close else ""
    takes = ", ".join(f"{name}=…" for name in names)
    more = ", and any key of the configuration, such as gate.mode=warn" if configured else ""
    return f"unknown argument {word!r}: {hint}{command} takes {takes}{more}"


def typed_folder() -> Path | None:
    """Where the command was typed; None where that cannot be told, as in a job.

    `mlflow run` starts an entry point in the project's folder, and no variable keeps the old one: it is where
    the `mlflow run` above this process, with at most a shell between, still is.
    """
    if "MLFLOW_RUN_ID" not in os.environ:
        return Path.cwd()
    import psutil

    try:
        for process in psutil.Process().parents():
            if process.name() not in SHELLS:
                return Path(process.cwd())
    except psutil.Error:
        pass
    return None
