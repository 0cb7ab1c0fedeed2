"""Checkpoints of AWQ and GPTQ: 4-bit codes in int32 words, and the Hugging Face folder that they stand for.

The export takes the codes as they are; pipeline and reference read the weights that the codes mean.
Layouts: AutoAWQ's `WQLinear_GEMM` and AutoGPTQ's `qlinear_cuda`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError
from slmflow.files import files_under, link_or_copy, read_json, write_json
from slmflow.tensors import tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column of each run of eight that AWQ keeps in nibble 0, 1, … of a word."""
SHARD_BYTES = 1_000_000_000


def packed_method(source: Path) -> str | None:
    """`awq` or `gptq` for a Hugging Face folder of such codes, else None.

    Raises SlmflowError for another kind of quantised checkpoint, or another width than 4 bits.
    """
    config = read_json(source / "config.json").get("quantization_config")
    if config is None:
        return None
    method, bits = config.get("quant_method"), config.get("bits", config.get("w_bit"))
    if method not in ("awq", "gptq") or bits != 4:
        raise SlmflowError(
            f"config.json: a checkpoint quantised by {method} at {bits} bits cannot be read: "
            "only awq and gptq at 4 bits, or the weights before they were quantised"
        )
    if str(config.get("version", "gemm")).lower() != "gemm":
        raise SlmflowError(f"config.json: awq version {config['version']!r} cannot be read: only gemm")
    if config.get("checkpoint_format", "gptq") != "gptq":
        raise SlmflowError(
            f"config.json: checkpoint_format {config['checkpoint_format']!r} cannot be read: only gptq"
        )
    return str(method)


def unpack_folder(source: Path, folder: Path) -> None:
    """Write the Hugging Face folder whose weights are what the codes stand for, in the scales' dtype."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = read_json(source / "config.json")
    quantisation = config.pop("quantization_config")
    write_json(folder / "config.json", config)
    places: dict[str, str] = {}
    shard: dict[str, Any] = {}

    def flush() -> None:
        name = f"model-{len(set(places.values())):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, tensor in _tensors(source, quantisation):
        shard[name] = tensor.contiguous()
        if sum(value.nbytes for value in shard.values()) > SHARD_BYTES:
            flush()
    if shard:
        flush()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    for path in files_under(source):
        if path.name != "config.json" and ".safetensors" not in path.name:
            link_or_copy(path, folder / path.relative_to(source))


def _tensors(source: Path, quantisation: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the model by name, packed ones unpacked; one at a time."""
    from safetensors import safe_open

    where = {name: tensor.path for name, tensor in tensors_in(source).items()}

    def read(key: str) -> torch.Tensor:
        if key not in where:
            raise SlmflowError(f"the checkpoint has no tensor {key}, which its codes need")
        with safe_open(where[key], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(key)
        return tensor

    for key in sorted(where):
        module, _, part = key.rpartition(".")
        if part == "qweight":
            words, zeros, scales = (read(f"{module}.{name}") for name in ("qweight", "qzeros", "scales"))
            if quantisation["quant_method"] == "awq":
                yield f"{module}.weight", unpack_awq(words, zeros, scales)
            else:
                groups = read(f"{module}.g_idx") if f"{module}.g_idx" in where else None
                yield f"{module}.weight", unpack_gptq(words, zeros, scales, groups)
        elif part not in ("qzeros", "scales", "g_idx"):
            yield key, read(key)


def unpack_awq(words: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The weight (out, in) of AWQ's words (in, out / 8), zeros (groups, out / 8), scales (groups, out)."""
    order = sorted(range(8), key=AWQ_ORDER.__getitem__)
    codes, points = _nibbles(words)[..., order].flatten(1), _nibbles(zeros)[..., order].flatten(1)
    each = len(codes) // len(scales)
    values = (codes - points.repeat_interleave(each, 0)).float()
    return (values * scales.float().repeat_interleave(each, 0)).to(scales.dtype).T


def unpack_gptq(
    words: torch.Tensor,
    zeros: torch.Tensor,
    scales: torch.Tensor,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weight (out, in) of GPTQ's words (in / 8, out), zeros (groups, out / 8), scales (groups, out).

    `groups` is the group of each input. Zeros are stored less one.
    """
    codes = _nibbles(words).transpose(1, 2).flatten(0, 1)
    points = _nibbles(zeros).flatten(1) + 1
    if groups is None:
        import torch

        groups = torch.arange(len(codes)) // (len(codes) // len(scales))
    index = groups.long()
    return ((codes - points[index]).float() * scales.float()[index]).to(scales.dtype).T


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    """The eight 4-bit values of each int32, lowest first, along a new last axis."""
    import torch

    return (words.unsqueeze(-1) >> torch.arange(0, 32, 4, dtype=torch.int32)) & 15
