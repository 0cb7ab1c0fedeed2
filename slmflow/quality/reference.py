"""The reference: the source weights in fp32 arithmetic, by transformers' own code.

The weights of one module are in memory at a time, so that a model of 3.8 B parameters needs no 15 GB.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from slmflow.errors import SlmflowError
from slmflow.files import link_or_copy, read_json, write_json, write_text
from slmflow.models.slm_runtime.cores import physical_cores
from slmflow.quality.evaluation import Reference
from slmflow.quality.fidelity import log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from slmflow.quality.windows import Window

LOGITS_AT_ONCE = 100_000_000
"""Logits of one pass, at most, if it is not a single list: 400 MB."""


def reference_logits(huggingface: Path, batches: list[list[int]]) -> Iterator[NDArray[np.float32]]:
    """Logits after each token of each list of ids, (len(ids), vocabulary), one list at a time.

    Memory: the largest module in fp32, and the logits of one pass. Each pass reads all weights, so lists of
    one length go through together as far as `LOGITS_AT_ONCE` allows.
    """
    import torch

    torch.set_num_threads(physical_cores())
    model, reading = _model(huggingface)
    for length, run in itertools.groupby(batches, len):
        together = max(1, LOGITS_AT_ONCE // (length * model.config.vocab_size))
        while group := list(itertools.islice(run, together)):
            with torch.inference_mode(), reading():
                logits = model(torch.tensor(group), use_cache=False).logits
            yield from logits.numpy()


def _model(huggingface: Path) -> tuple[Any, Callable[[], AbstractContextManager[None]]]:
    """The model, and what it computes within; whole where its tensors have names of their own."""
    import torch

    from slmflow.deferred import attention_for, deferred_model, reading_weights

    try:
        model = deferred_model(huggingface)
    except SlmflowError:
        from transformers import AutoConfig, AutoModelForCausalLM

        whole = AutoModelForCausalLM.from_pretrained(
            huggingface,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention_for(AutoConfig.from_pretrained(huggingface)),
        )
        return whole.eval(), contextlib.nullcontext
    return model, lambda: reading_weights(model)


def scored_logprobs(huggingface: Path, windows: list[Window], place: Path) -> NDArray[np.float32]:
    """The reference's log-probabilities at every scored position, (positions, vocabulary).

    They are mapped from the file `place`; what an interrupted call has left there is not computed again.
    """
    from tqdm import tqdm

    borders = np.cumsum([0, *(len(window.targets) for window in windows)])
    count = place.with_suffix(".done")
    done = int(count.read_text()) if count.exists() else 0
    rest = windows[done:]
    logs: np.memmap[Any, np.dtype[np.float32]] | None = None
    if done:  # whole, it may be the file of a run's artifact already, which is read-only
        logs = np.load(place, mmap_mode="r+" if rest else "r")
    parts = reference_logits(huggingface, [window.ids for window in rest]) if rest else iter(())
    for number, part in enumerate(tqdm(parts, "  reference", initial=done, total=len(windows)), done):
        if logs is None:
            shape = (int(borders[-1]), part.shape[-1])
            logs = np.lib.format.open_memmap(place, mode="w+", dtype=np.float32, shape=shape)
        logs[borders[number] : borders[number + 1]] = log_softmax(part[windows[number].scored])
        logs.flush()
        write_text(count, str(number + 1))
    assert logs is not None
    return logs


def save(
    folder: Path,
    place: Path,
    greedy: list[list[int]],
    windows: list[Window],
    source_digest: str,
    source_meaning: str,
) -> None:
    """Take over the log-probabilities at `place`; note what they are of: the weights and the tokens."""
    folder.mkdir()
    link_or_copy(place, folder / "logprobs.npy")
    ids = [window.ids for window in windows]
    of = {"source_digest": source_digest, "source_meaning": source_meaning}
    write_json(folder / "reference.json", {**of, "windows": ids, "greedy": greedy})


def meaning_in(folder: Path) -> str:
    """The digest of what a stored reference's source means; empty for one of before this was noted."""
    return str(read_json(folder / "reference.json").get("source_meaning", ""))


def read(folder: Path, windows: list[Window], source_digest: str) -> Reference:
    """The stored reference, its log-probabilities memory-mapped.

    Raises SlmflowError when it is of other weights or tokens (another text, window or tokenizer).
    """
    key = read_json(folder / "reference.json")
    if key["source_digest"] != source_digest:
        raise SlmflowError(
            f"the reference was made from other weights (digest {key['source_digest'][:12]}) than the "
            f"candidate (digest {source_digest[:12]}): give the reference_run of the same model"
        )
    if key["windows"] != [window.ids for window in windows]:
        raise SlmflowError(
            "the reference was made on other tokens: the text, the windows or the tokenizer differ; "
            "evaluate the pipeline again with the same evaluate settings"
        )
    return Reference(np.load(folder / "logprobs.npy", mmap_mode="r"), key["greedy"])
