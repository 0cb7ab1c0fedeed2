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
from slmflow.gguf.file import GgufFile, GgufTensor
from slmflow.gguf.header import read_gguf
from slmflow.gguf.tokenizer import save_tokenizer
from slmflow.sources.shards import Weight, write_shards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from slmflow.gguf.families import Place

KEPT = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types whose values are written as they are."""
PIECE_WEIGHTS = 4_000_000
"""Weights that are taken out of their blocks at once; K-quants need some 100 MB for them."""


def to_huggingface(path: Path, folder: Path) -> None:
    """Write config.json, the weights and the tokenizer.

    Quantised weights become the fp32 values that they stand for; floats keep their type. Raises SlmflowError
    when the file cannot be read, or its architecture or tokenizer are not known.
    """
    file = read_gguf(path)
    config, where = config_of(file), places(file)
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(file, folder)
    write_json(folder / "config.json", config)
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot")]
    ends = sorted({file.integer(key) for key in keys if key in file.metadata})
    eos = ends if len(ends) > 1 else config["eos_token_id"]
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": eos, "do_sample": False}
    write_json(folder / "generation_config.json", generation)
    write_shards(_weights(file, where), folder)


def _weights(file: GgufFile, where: dict[str, Place]) -> Iterator[Weight]:
    for name, place in where.items():
        tensor = file.tensors[name]
        order = place.order(tensor.shape[0])
        if tensor.kind.name in KEPT and not place.added:
            rows = tensor.rows().reshape(len(order), -1)
            yield Weight(place.name, KEPT[tensor.kind.name], tensor.shape, rows[order].tobytes())
        else:
            values = weights_of(tensor, order) - np.float32(place.added)
            yield Weight(place.name, "float32", tensor.shape, values.tobytes())


def weights_of(tensor: GgufTensor, order: NDArray[np.int64]) -> NDArray[np.float32]:
    """The values of a vector or of the rows of a matrix, in `order`."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType(tensor.kind.number)
    rows = tensor.rows()
    if len(tensor.shape) == 1:
        return np.asarray(dequantize(rows[0], kind), np.float32)[order]
    if len(tensor.shape) != 2:
        raise SlmflowError(f"{tensor.path.name}: tensor {tensor.name} has {len(tensor.shape)} dimensions")
    found = np.empty(tensor.shape, np.float32)
    step = max(1, PIECE_WEIGHTS // tensor.shape[1])
    for start in range(0, len(order), step):
        found[start : start + step] = dequantize(rows[order[start : start + step]], kind)
    return found
