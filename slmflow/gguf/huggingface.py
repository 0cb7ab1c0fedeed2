"""A GGUF file as a Hugging Face folder: exactly its weights, one tensor after another.

transformers can read GGUF too, but holds the whole model in fp32, takes 16 s for the default model, and
labels the tokenizer as Llama's, which makes ONNX Runtime's tokenizer emit −1 ids without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slmflow.errors import SlmflowError
from slmflow.files import write_json
from slmflow.gguf.config import config_of
from slmflow.gguf.families import places
from slmflow.gguf.header import read_gguf
from slmflow.gguf.tokenizer import end_tokens, save_tokenizer
from slmflow.tensors import Weight, write_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from slmflow.gguf.families import Place
    from slmflow.gguf.file import GgufTensor

KEPT = ("F32", "F16", "BF16")
"""Types whose values are written as they are."""


def to_huggingface(path: Path, folder: Path) -> None:
    """Write config.json, the weights and the tokenizer.

    Quantised weights become the fp32 values that they stand for; floats keep their type. Raises SlmflowError
    when the file cannot be read, holds values that are no numbers, or its architecture or tokenizer are not
    known.
    """
    file = read_gguf(path)
    config, where = config_of(file), places(file)
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(file, folder)
    write_json(folder / "config.json", config)
    ends = end_tokens(file)
    eos = ends if len(ends) > 1 else config["eos_token_id"]
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": eos, "do_sample": False}
    write_json(folder / "generation_config.json", generation)
    weights = [_weight(file.tensors[name], place) for name, place in where.items()]
    write_tensors(folder / "model.safetensors", weights)


def _weight(tensor: GgufTensor, place: Place) -> Weight:
    order = place.order(tensor.shape[0])
    if tensor.kind.name in KEPT and not place.added:
        return Weight(place.name, tensor.kind.name, tensor.shape, lambda: _kept(tensor, order))
    return Weight(place.name, "F32", tensor.shape, lambda: _values(tensor, order, place.added))


def _kept(tensor: GgufTensor, order: NDArray[np.int64]) -> Iterator[bytes]:
    for packed in tensor.pieces(order):
        _finite(tensor, packed)
        yield packed.tobytes()


def _values(tensor: GgufTensor, order: NDArray[np.int64], added: float) -> Iterator[bytes]:
    for packed in tensor.pieces(order):
        values = _finite(tensor, packed)
        if added:
            values -= np.float32(added)
        yield values.tobytes()


def _finite(tensor: GgufTensor, packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The values of packed rows. Raises SlmflowError where some are not numbers."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(invalid="ignore", over="ignore"):
        values = np.array(dequantize(packed, GGMLQuantizationType(tensor.kind.number)), np.float32)
    if not np.isfinite(values).all():
        raise SlmflowError(
            f"{tensor.path.name}: tensor {tensor.name} of type {tensor.kind.name} holds values that are no "
            "numbers: the file is damaged, fetch it again"
        )
    return values
