"""What an exporter's older transformers would misread is refused before its environment is made.

A folder of transformers 5 is read by 4.57.6 without a word and wrongly: KL 2.4 for Llama 3's rotary scaling,
4.0 for longrope. `environments/<name>/known.json` says what the older one knows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slmflow.environments.exporters import FOLDER
from slmflow.errors import SlmflowError
from slmflow.files import read_json

if TYPE_CHECKING:
    from pathlib import Path


def refuse_what_it_would_misread(name: str, source: Path) -> None:
    """Raise SlmflowError where the Hugging Face folder says what the environment's transformers knows not.

    That is: a format of transformers 5, a kind of model, a tokenizer class, or a key that today's library
    reads and the older one does not.
    """
    known = read_json(FOLDER / name / "known.json")
    config = read_json(source / "config.json")
    reader = f"transformers {known['transformers']}, by which exporter {name} reads it"
    for what in _unknown(config, known):
        raise SlmflowError(
            f"config.json: {what} is unknown to {reader}: choose export=traced_fp32 or fp32_cpu"
        )
    path = source / "tokenizer_config.json"
    tokenizer = read_json(path).get("tokenizer_class") if path.is_file() else None
    if tokenizer and tokenizer not in known["tokenizers"]:
        raise SlmflowError(
            f"tokenizer_config.json: tokenizer_class={tokenizer} is unknown to {reader}: "
            "choose export=traced_fp32 or fp32_cpu"
        )


def _unknown(config: dict[str, Any], known: dict[str, Any]) -> list[str]:
    written_by = str(config.get("transformers_version") or "0")
    if int(written_by.split(".")[0]) >= 5:
        return [f"the format of transformers_version={written_by}"]
    if "rope_parameters" in json.dumps(config):
        return ["rope_parameters"]
    kind = config.get("model_type")
    if kind not in known["model_types"]:
        return [f"model_type={kind}"]
    # A key that neither library reads is nobody's: many published folders have some.
    unknown = _read_today(config) - {*known["common"], *known["model_types"][kind]}
    return [f"{key}={config[key]!r}" for key in sorted(unknown)]


def _read_today(config: dict[str, Any]) -> set[str]:
    """The keys of a configuration that today's class of its kind has as a field."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[config["model_type"]]
    fields = {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}
    return (fields & set(config)) - {"model_type"}
