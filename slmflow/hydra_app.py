"""Hydra's own views of the configuration: its help, and what a command line composes to.

    python driver.py --help
    python driver.py --cfg job model=tiny_phi3 gate.mode=warn

Nothing is run.
"""

from __future__ import annotations

import sys
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from slmflow.errors import exit_status
from slmflow.hydra_compose import register
from slmflow.overrides import CONF, added, key_of, quoted, split_overrides
from slmflow.sweep import variants
from slmflow.words import CHOICES, read_words

TAKES_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--shell-completion", "-sc")
OPTIONS = (*TAKES_VALUE, "--help", "-h", "--hydra-help", "--version", "--resolve", "-r")
"""By which Hydra shows something instead of running anything."""


def asks_hydra(words: list[str]) -> bool:
    """Whether a command line asks to be shown something."""
    return any(word.partition("=")[0] in OPTIONS for word in words)


def show(words: list[str]) -> int:
    """Let Hydra show it; returns the exit status. Our own words become Hydra's first."""
    options, rest, waiting = [], [], False
    for word in words:
        name = word.partition("=")[0]
        if waiting or name in OPTIONS:
            options.append(word)
            waiting = not waiting and word in TAKES_VALUE
        else:
            rest.append(word)

    def shown() -> int:
        given = read_words("driver.py", rest, CHOICES)
        found = variants(**given.choices)[0].composition  # refuses in one line what Hydra tells in many
        chosen = [f"{name}={found.choices[name]}" for name in ("model", "export")]
        whole = OmegaConf.create(found.yaml)
        tokens = [
            _whole(token, whole) if added(token) else token for token in split_overrides(found.overrides)
        ]
        sys.argv = [sys.argv[0], *options, *chosen, *tokens, "hydra.help.app_name=driver.py"]
        register()
        _app()
        return 0

    return exit_status("driver.py", shown)


def _whole(token: str, config: Any) -> str:
    """What is added to a list as the whole list, which Hydra can be told."""
    values = ",".join(quoted(str(value)) for value in OmegaConf.select(config, key_of(token)))
    return f"{key_of(token)}=[{values}]"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _app(config: DictConfig) -> None:
    """Never reached: with a view, Hydra runs nothing."""
