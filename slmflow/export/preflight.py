"""Whether this machine can do an export, asked before the work: memory, disk and execution provider.

The figures are of exports that were measured (docs/export.md), rounded up.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slmflow.config import ExportConfig, GenaiExport, GgufExport, Method, Precision, Provider
from slmflow.config.export import RUNTIMES
from slmflow.errors import SlmflowError
from slmflow.machine import available_memory
from slmflow.tensors import tensors_in

if TYPE_CHECKING:
    from pathlib import Path

BASE = 700_000_000
"""Bytes of Python, torch, transformers and onnxruntime."""
FLOATS_FROM = 1.5
"""Bytes a weight from which a GGUF file is of floats, which are widened when they are loaded."""
BITS = {Precision.fp32: 32, Precision.fp16: 16, Precision.int8: 8, Precision.int4: 4}


@dataclass(frozen=True)
class Weights:
    """What the size of an export depends on."""

    total: int
    """Weights of the model."""
    largest: int
    """Weights of its largest tensor."""
    embedding: int
    """Weights of the embedding, which a quantised graph keeps in its float type unless the head shares it."""
    moments: int
    """Second moments of all layers' inputs, which calibration holds: inputs squared, summed."""
    widest: int
    """Inputs of the widest layer."""


@dataclass(frozen=True)
class Room:
    """Bytes that an export needs at its highest."""

    memory: int
    disk: int


def weights_in(folder: Path) -> Weights:
    """From the headers of a Hugging Face folder's safetensors; nothing else is read."""
    held = tensors_in(folder)
    sizes = {name: tensor.size for name, tensor in held.items()}
    embedding = max((size for name, size in sizes.items() if "embed_tokens" in name), default=0)
    inputs = [tensor.shape[1] for tensor in held.values() if len(tensor.shape) == 2]
    moments = sum(width**2 for width in inputs)
    return Weights(sum(sizes.values()), max(sizes.values()), embedding, moments, max(inputs, default=0))


def room_needed(config: ExportConfig, weights: Weights, published: int = 0) -> Room:
    """Memory of the export or of its proof, whichever is more, and disk for the folder.

    The builder's weights pass one at a time; optimum traces the whole model in fp32 and holds it three
    times. The proof loads the folder as serving does, then one module of the source after another. The
    folder of a GGUF file depends on its size, `published`: at most 1.7 times (5-bit codes become bytes).
    """
    if isinstance(config, GgufExport):
        widened = 5 if published > FLOATS_FROM * weights.total else 3
        return Room(BASE + max(widened * published, 8 * weights.largest), int(1.7 * published))
    if not isinstance(config, GenaiExport):
        whole = 4 * weights.total
        return Room(BASE + 3 * whole, 2 * whole)
    bits = BITS[config.precision]
    folder = weights.total * bits / 8
    if config.precision in (Precision.int4, Precision.int8):
        folder += weights.total * 4 / config.block_size + weights.embedding * 4
    exporting, serving, reference = 8 * weights.largest, 1.2 * folder, 8 * weights.largest
    if config.method is Method.gptq:
        exporting += 4 * weights.moments + 24 * weights.widest**2
    return Room(BASE + int(max(exporting, serving, reference)), int(folder))


def refuse_what_cannot_end(
    config: ExportConfig, huggingface: Path, scratch: Path, published: int = 0
) -> None:
    """Raise SlmflowError, with the figures, where memory, disk or the provider do not suffice."""
    _refuse_provider(config.provider)
    needed = room_needed(config, weights_in(huggingface), published)
    for name, need, have, remedy in (
        ("memory", needed.memory, available_memory(), "end other programs, or export on a larger machine"),
        ("disk", needed.disk, shutil.disk_usage(scratch).free, f"make room below {scratch}"),
    ):
        if need > have:
            raise SlmflowError(
                f"the export needs {need / 1e9:.1f} GB of {name}, and {have / 1e9:.1f} GB are free: "
                f"{remedy}, or choose an export= with smaller weights"
            )


def _refuse_provider(provider: Provider) -> None:
    import onnxruntime_genai

    here: dict[Provider, Any] = {
        Provider.cuda: onnxruntime_genai.is_cuda_available,
        Provider.dml: onnxruntime_genai.is_dml_available,
    }
    if provider in here and not here[provider]():
        raise SlmflowError(
            f"export.provider={provider.value}: the installed onnxruntime-genai has no such provider, so the "
            "graph could not be proven; export on a machine that has it, with "
            f"{RUNTIMES[provider.value][0]} installed in its place"
        )
