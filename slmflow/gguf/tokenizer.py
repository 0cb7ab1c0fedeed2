"""The tokenizer in a GGUF file's metadata, as a Hugging Face tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, first_line
from slmflow.files import write_json
from slmflow.sources.tokenizer_class import BY_THE_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from slmflow.gguf.file import GgufFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Token types of `tokenizer.ggml.token_type`: unknown and control tokens are special."""
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LLAMA3 = rf"{CONTRACTIONS}|{LETTERS}|\p{{N}}{{1,3}}|{REST}"
QWEN2 = rf"{CONTRACTIONS}|{LETTERS}|\p{{N}}|{REST}"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    rf"{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {
    "gpt-2": "",
    "smollm": r"\p{N}",
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "dbrx": LLAMA3,
    "smaug-bpe": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "gpt-4o": GPT4O,
}
"""Name in the file to the pattern by which text is cut into words before the merges.

As `llama-vocab.cpp` has them; the first two cut by GPT-2's own pattern after it.
"""
BY_GPT2 = ("gpt-2", "smollm")
LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")
"""Those whose text begins with BOS when the file does not say, and whose vocabulary has words that no merge
leads to."""
END_TEXTS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"),
    *("<|end_of_text|>", "<EOT>", "_<EOT>", "<end_of_utterance>", "<|return|>", "[EOT]", "[EOS]"),
    *("<｜end▁of▁sentence｜>", "<eos>"),
)
"""Markers at which a turn is over; files seldom name them, and llama.cpp knows them by their text too."""
MOST_MERGE_WORK = 200_000_000
"""Squares of the lengths of all tokens, summed: each is cut at every place to find SentencePiece's merges."""
NOT_STRIPPED = ("<unk>", "<s>", "<|endoftext|>")
"""Of Phi-3's special tokens, those that do not swallow the white space behind them."""


def save_tokenizer(file: GgufFile, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, with the chat template of the file.

    Raises SlmflowError for a tokenizer or pre-tokenizer that is not known: a guess would give other ids.
    """
    model = file.text("tokenizer.ggml.model")
    tokens = file.texts("tokenizer.ggml.tokens")
    if len(set(tokens)) != len(tokens):
        raise SlmflowError(f"{file.path.name}: tokenizer.ggml.tokens has a token twice")
    if model == "gpt2":
        tokenizer, bos = _byte_level(file, tokens)
    elif model == "llama":
        tokenizer, bos = _sentence_piece(file, tokens)
    else:
        raise SlmflowError(
            f"{file.path.name}: tokenizer {model!r} is not supported: only gpt2 (byte-level BPE) "
            "and llama (SentencePiece BPE) are"
        )
    _add_special(tokenizer, file, tokens)
    names = {role: _token_of(file, tokens, role) for role in ("bos", "eos", "unknown", "padding")}
    _add_ends(tokenizer, file, names, bos)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": BY_THE_FILE,
        "clean_up_tokenization_spaces": False,
        "bos_token": names["bos"],
        "eos_token": names["eos"],
        "unk_token": names["unknown"],
        "pad_token": names["padding"],
        "chat_template": file.text("tokenizer.chat_template", "") or None,
        "model_max_length": file.integer(f"{file.architecture}.context_length"),
    }
    write_json(folder / "tokenizer_config.json", {k: v for k, v in config.items() if v is not None})


def _byte_level(file: GgufFile, tokens: list[str]) -> tuple[Tokenizer, bool]:
    """A byte-level BPE, and whether texts begin with BOS when the file does not say."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    if "tokenizer.ggml.pre" not in file.metadata:
        raise SlmflowError(
            f"{file.path.name}: its metadata has no tokenizer.ggml.pre: it was made before May 2024, and ids "
            "would be a guess; fetch a newer file"
        )
    pre = file.text("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        raise SlmflowError(
            f"{file.path.name}: pre-tokenizer {pre!r} is not supported: only {', '.join(PRE_TOKENIZERS)} are"
        )
    merges: list[Any] = [tuple(merge.split(" ", 1)) for merge in file.texts("tokenizer.ggml.merges")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in LLAMA3_NAMES))
    except Exception as error:  # tokenizers raises bare exceptions
        raise SlmflowError(f"{file.path.name}: tokenizer.ggml.merges: {first_line(error)}") from None
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in BY_GPT2)]
    if pattern := PRE_TOKENIZERS[pre]:
        steps.insert(0, pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if PRE_TOKENIZERS[pre] == QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer, pre in LLAMA3_NAMES


def _sentence_piece(file: GgufFile, tokens: list[str]) -> tuple[Tokenizer, bool]:
    """SentencePiece's BPE: of all pairs that make a token, the one with the best score is merged first."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers.convert_slow_tokenizer import generate_merges

    scores = file.numbers("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise SlmflowError(f"{file.path.name}: {len(scores)} scores for {len(tokens)} tokens")
    if sum(len(token) ** 2 for token in tokens) > MOST_MERGE_WORK:
        raise SlmflowError(f"{file.path.name}: tokenizer.ggml.tokens are too long for a vocabulary")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    kinds = _kinds(file, tokens)
    merged = {
        token: float(score)
        for token, score, kind in zip(tokens, scores, kinds, strict=True)
        if kind not in (UNKNOWN, CONTROL, USER_DEFINED)
    }
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=generate_merges(vocabulary, merged),
            unk_token=_token_of(file, tokens, "unknown"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaced = file.truth("tokenizer.ggml.add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if spaced else []), normalizers.Replace(" ", "▁")]
    )
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*decoding, *([decoders.Strip(" ", 1, 0)] if spaced else [])])
    return tokenizer, True


def _add_special(tokenizer: Tokenizer, file: GgufFile, tokens: list[str]) -> None:
    """Mark control tokens as special, and let tokens that users defined be found as they are."""
    from tokenizers import AddedToken

    # GGUF does not say it; llama.cpp knows it of Phi-3's SentencePiece tokenizer by its name.
    strips = file.architecture == "phi3" and file.text("tokenizer.ggml.model") == "llama"
    tokenizer.add_tokens(
        [
            AddedToken(
                token,
                special=kind != USER_DEFINED,
                normalized=False,
                rstrip=strips and token not in NOT_STRIPPED,
            )
            for token, kind in zip(tokens, _kinds(file, tokens), strict=True)
            if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ]
    )


def _add_ends(tokenizer: Tokenizer, file: GgufFile, names: dict[str, str | None], bos: bool) -> None:
    """Let texts begin with BOS and end with EOS where the file says so."""
    from tokenizers import processors

    before = names["bos"] if file.truth("tokenizer.ggml.add_bos_token", bos) else None
    after = names["eos"] if file.truth("tokenizer.ggml.add_eos_token", False) else None
    ends = [token for token in (before, after) if token is not None]
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*([before] if before else []), "$A", *([after] if after else [])],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in ends],
        )


def end_tokens(file: GgufFile) -> list[int]:
    """The ids at which a turn is over, EOS first: those that the file names, and those with a known text."""
    tokens = file.texts("tokenizer.ggml.tokens")
    named = [file.token(role, len(tokens)) for role in ("eos", "eot", "eom")]
    marked = zip(tokens, _kinds(file, tokens), strict=True)
    known = [i for i, (token, kind) in enumerate(marked) if token in END_TEXTS and kind != NORMAL]
    return list(dict.fromkeys([index for index in named if index is not None] + known))


def _kinds(file: GgufFile, tokens: list[str]) -> list[int]:
    kinds = file.numbers("tokenizer.ggml.token_type")
    if len(kinds) != len(tokens) or kinds.dtype.kind not in "iu":
        raise SlmflowError(
            f"{file.path.name}: tokenizer.ggml.token_type has {len(kinds)} {kinds.dtype} for "
            f"{len(tokens)} tokens"
        )
    return [int(kind) for kind in kinds]


def _token_of(file: GgufFile, tokens: list[str], role: str) -> str | None:
    index = file.token(role, len(tokens))
    return None if index is None else tokens[index]
