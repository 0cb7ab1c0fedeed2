"""The tokenizer in a GGUF file's metadata, as a Hugging Face tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError
from slmflow.files import write_json

if TYPE_CHECKING:
    from pathlib import Path

CONTROL, USER_DEFINED = 3, 4
"""Token types of GGUF's `tokenizer.ggml.token_type`: control tokens are special, user-defined are not."""


def save_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of a byte-level BPE (`gpt2`, pre-tokenizer `smollm`).

    Raises SlmflowError for another tokenizer model or pre-tokenizer: a guess would give other ids.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if (model, pre) != ("gpt2", "smollm"):
        raise SlmflowError(
            f"GGUF tokenizer {model!r} with pre-tokenizer {pre!r} is not supported: only gpt2/smollm is"
        )
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True):
        if kind in (CONTROL, USER_DEFINED):
            tokenizer.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))

    def token_of(role: str) -> str | None:
        index = metadata.get(f"tokenizer.ggml.{role}_token_id")
        return None if index is None else tokens[index]

    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": token_of("bos"),
        "eos_token": token_of("eos"),
        "unk_token": token_of("unknown"),
        "pad_token": token_of("padding"),
        "chat_template": metadata.get("tokenizer.chat_template"),
        "model_max_length": metadata.get("llama.context_length"),
    }
    write_json(folder / "tokenizer_config.json", {k: v for k, v in config.items() if v is not None})
