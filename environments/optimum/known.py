"""Print which keys of a config.json, and which tokenizer classes, this environment's transformers knows.

    <python of this folder's environment> known.py > known.json

Kept as known.json, so that a folder that says more is refused before the environment is made; a test makes
it again.
"""

import inspect
import json
from typing import Any

import optimum.exporters.onnx.model_configs  # noqa: F401 registers what can be exported
import transformers
from optimum.exporters.tasks import TasksManager
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

TASK = "text-generation-with-past"


def keys_of(config_class: Any) -> list[str]:
    """The arguments of a configuration class and of what it is made of, and what it sets itself."""
    arguments = {name for kind in config_class.__mro__ for name in inspect.signature(kind).parameters}
    return sorted(arguments | set(vars(config_class())) | set(config_class.attribute_map))


def main() -> None:
    """Write the JSON."""
    common = keys_of(PretrainedConfig)
    kinds = TasksManager.get_supported_model_type_for_task(TASK, exporter="onnx")
    known = {kind: keys_of(CONFIG_MAPPING[kind]) for kind in sorted(kinds) if kind in CONFIG_MAPPING}
    tokenizers = {name for names in TOKENIZER_MAPPING_NAMES.values() for name in names if name}
    found = {
        "transformers": transformers.__version__,
        "common": common,
        "model_types": {kind: [key for key in keys if key not in common] for kind, keys in known.items()},
        "tokenizers": sorted({*tokenizers, "PreTrainedTokenizerFast"}),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
