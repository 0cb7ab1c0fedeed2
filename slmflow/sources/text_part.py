"""The text part of a model that also sees or hears, as a Hugging Face folder of its own.

Exporters, pipeline and reference then read a plain language model, and nobody carries the rest about. The
tensors are copied as they are, a piece at a time; their names lose what the larger model puts before them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError
from slmflow.files import files_under, link_or_copy, read_json, write_json
from slmflow.tensors import StoredTensor, Weight, tensors_in, tensors_of, weight_files, write_tensors

if TYPE_CHECKING:
    from pathlib import Path

PREFIXES = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.text_model.": "model.",
    "lm_head.": "lm_head.",
}
"""What larger models put before the names of their text part, as transformers 5 and as 4 wrote them."""
OF_THE_WHOLE = ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version")
"""Keys that may stand beside `text_config` and are the text part's where that has none of its own."""
TIED = "tie_word_embeddings"
OTHER_INPUTS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files about pictures and sound."""


def does_more_than_text(config: dict[str, Any]) -> bool:
    """Whether a config.json is of a model whose text part is one of several."""
    return isinstance(config.get("text_config"), dict)


def text_class(config: dict[str, Any]) -> str:
    """The class of the text part alone. Raises SlmflowError where transformers has none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config["text_config"].get("model_type")
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, "")
    if not name.endswith("ForCausalLM"):
        raise SlmflowError(
            f"config.json: the text part of model_type={config.get('model_type')} is of model_type={kind}, "
            "which transformers has no language model of its own for: name a model that is one"
        )
    return str(name)


def text_config(config: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The config.json of the text part alone, whose tensors are `names`."""
    found = {key: config[key] for key in OF_THE_WHOLE if config.get(key) is not None}
    found |= {key: value for key, value in config["text_config"].items() if value is not None}
    # The larger model's word counts, as it does for transformers; where nobody says, the tensors do.
    found[TIED] = config.get(TIED, found.get(TIED, "lm_head.weight" not in names))
    return found | {"architectures": [text_class(config)]}


def left_out(source: Path) -> dict[str, int]:
    """The number of tensors of each other part, by its name (`vision_tower`); none of a text model."""
    if not does_more_than_text(read_json(source / "config.json")):
        return {}
    other = [name for name in tensors_in(source) if own_name(name) is None]
    return dict(Counter(name.removeprefix("model.").split(".")[0] for name in sorted(other)))


def take_text_part(source: Path, folder: Path) -> None:
    """Write `folder`, the text part of `source`.

    Raises SlmflowError for a model whose text part transformers does not know by itself.
    """
    config = read_json(source / "config.json")
    text_class(config)
    folder.mkdir(parents=True)
    places: dict[str, str] = {}
    for path in weight_files(source):
        named = {own_name(name): tensor for name, tensor in tensors_of(path).items()}
        if weights := [_copied(own, tensor) for own, tensor in named.items() if own is not None]:
            write_tensors(folder / path.name, weights)
            places |= {weight.name: path.name for weight in weights}
    if not places:
        raise SlmflowError(f"model_type={config.get('model_type')}: no tensor of a text part is in the files")
    if set(places.values()) != {"model.safetensors"}:
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    write_json(folder / "config.json", text_config(config, set(places)))
    for path in files_under(source):
        name = path.relative_to(source).as_posix()
        if name not in (*OTHER_INPUTS, "config.json") and ".safetensors" not in name:
            link_or_copy(path, folder / name)


def own_name(name: str) -> str | None:
    """The tensor's name in the text part, None where it belongs to another part."""
    for prefix, own in PREFIXES.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return None


def _copied(name: str, tensor: StoredTensor) -> Weight:
    return Weight(name, tensor.dtype, tensor.shape, tensor.pieces)
