"""What an exporter's older transformers would misread is refused before its environment is made.

A folder of transformers 5 is read by 4.57.6 without a word and wrongly: KL 2.4 for Llama 3's rotary scaling,
4.0 for longrope. `environments/<name>/known.json` says what the older one knows.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from slmflow.environments.exporters import FOLDER
from slmflow.errors import SlmflowError
from slmflow.export.fields import fields_of
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
    written_by = str(config.get("transformers_version") or "4")
    if not re.match(r"v?[0-4]\.", f"{written_by}."):
        return [f"the format of transformers_version={written_by}"]
    if "rope_parameters" in json.dumps(config):
        return ["rope_parameters"]
    if "text_config" in config:
        return ["a model that does more than text (text_config)"]
    kind = config.get("model_type")
    if kind not in known["model_types"]:
        return [f"model_type={kind}"]
    from transformers import CONFIG_MAPPING

    # A key that neither library reads is nobody's: many published folders have some. One that has today's
    # default says nothing.
    today = CONFIG_MAPPING[kind]
    unknown = (fields_of(today) & set(config)) - {*known["common"], *known["model_types"][kind], "model_type"}
    defaults = today()
    return [
        f"{key}={config[key]!r}"
        for key in sorted(unknown)
        if config[key] is not None and config[key] != getattr(defaults, key, None)
    ]
