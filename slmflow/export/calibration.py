"""What a model's linear layers are given when it reads a text, for methods that weigh their errors by it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from slmflow.deferred import deferred_model, leaf_names, reading_weights
from slmflow.models.slm_runtime.cores import physical_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXT = Path(__file__).parent.parent / "data" / "calibration.txt"
"""Original prose, code, letters and dialogue: none of it is in the text that fidelity is measured on."""
WINDOW = 512
"""Tokens that are read together."""

Moments = dict[str, "NDArray[np.float32]"]
"""Name of a weight to 2/n times the sum of x xᵀ over its n inputs x, shape (in, in)."""


def second_moments(folder: Path) -> Moments:
    """Read the calibration text with the model, in fp32; memory: one module, and the moments of all.

    A weight that several modules share is named once, as in the file.
    """
    from transformers import AutoTokenizer

    torch.set_num_threads(physical_cores())
    model: Any = deferred_model(folder)
    ids = AutoTokenizer.from_pretrained(folder)(TEXT.read_text(encoding="utf-8"))["input_ids"]
    window = min(WINDOW, model.config.max_position_embeddings)
    sums: dict[str, torch.Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, 0) + x.T @ x

        return hook

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            (name,) = leaf_names(module.weight.data)
            module.register_forward_pre_hook(note(name))
    with torch.inference_mode(), reading_weights(model):
        for start in range(0, len(ids), window):
            model(torch.tensor([ids[start : start + window]]), use_cache=False)
    return {name: (sums.pop(name) * (2 / len(ids))).numpy() for name in list(sums)}
