"""The reference: the source weights in fp32 arithmetic, by transformers' own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def reference_logits(huggingface: Path, batches: list[list[int]]) -> list[NDArray[np.float32]]:
    """Logits after each token of each list of ids, one array of (len(ids), vocabulary) a list.

    Memory: the model in fp32, and one list's logits at a time beside the results.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from slmflow.models.slm_runtime.cores import physical_cores

    torch.set_num_threads(physical_cores())
    model = AutoModelForCausalLM.from_pretrained(
        huggingface, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    with torch.inference_mode():
        return [model(torch.tensor([ids])).logits[0].float().numpy() for ids in batches]
