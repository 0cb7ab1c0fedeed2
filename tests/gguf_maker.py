"""GGUF files of every family and type, made by the `gguf` package: tiny, with weights that are known."""

import io
import json
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from gguf.quants import dequantize, quantize

from slmflow.gguf.file import KINDS
from slmflow.sources.random_model import TEMPLATE, save_tokenizer
from slmflow.text import shipped_text

TYPES = {kind.name: gguf.GGMLQuantizationType(kind.number) for kind in KINDS.values()}
BLOCKS = {kind.name: (kind.block, kind.bytes) for kind in KINDS.values()}
LEGACY = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
HEADS, KV_HEADS, HEAD, HIDDEN, FEED, LAYERS, CONTEXT = 4, 2, 64, 256, 512, 2, 256


@dataclass(frozen=True)
class Sizes:
    """Of a model; what the tests use."""

    hidden: int = HIDDEN
    feed: int = FEED
    heads: int = HEADS
    kv_heads: int = KV_HEADS
    head: int = HEAD
    layers: int = LAYERS
    context: int = CONTEXT


@dataclass
class Made:
    """What a file holds."""

    path: object
    values: dict = field(default_factory=dict)
    """Tensor name to the fp32 values that it stands for."""
    raw: dict = field(default_factory=dict)
    """Tensor name to its packed rows."""


def random_blocks(kind, rows, columns, random, scale=0.02):
    """Valid blocks of any type, of weights of about `scale`: packed rows, and the values that they stand for."""
    if kind in LEGACY:
        packed = quantize((random.standard_normal((rows, columns)) * scale).astype(np.float32), TYPES[kind])
        return packed, dequantize(packed, TYPES[kind]).astype(np.float32)
    block, size = BLOCKS[kind]
    raw = random.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)

    # scale codes are random, so the factors in front of them are kept small; all bits of the rest are valid
    def halves(values):
        return values.astype(np.float16).view(np.uint8).reshape(len(raw), 2)

    factor = random.uniform(0.5, 1, len(raw)) * scale / (32 * 64 if kind == "Q6_K" else 8 * 32)
    if kind == "Q6_K":
        raw[:, 208:210] = halves(factor)
    else:
        raw[:, 0:2] = halves(factor)
        raw[:, 2:4] = halves(factor * random.uniform(4, 8, len(raw)))
    packed = raw.reshape(rows, -1)
    return packed, dequantize(packed, TYPES[kind]).astype(np.float32)


def shapes_of(family, sizes):
    """Tensors of a family's layer, and those beside the layers."""
    queries, keys = sizes.heads * sizes.head, sizes.kv_heads * sizes.head
    layer = {"attn_norm.weight": (sizes.hidden,), "ffn_norm.weight": (sizes.hidden,)}
    layer |= {"attn_output.weight": (sizes.hidden, queries), "ffn_down.weight": (sizes.hidden, sizes.feed)}
    if family == "phi3":
        layer |= {
            "attn_qkv.weight": (queries + 2 * keys, sizes.hidden),
            "ffn_up.weight": (2 * sizes.feed, sizes.hidden),
        }
    else:
        layer |= {
            "attn_q.weight": (queries, sizes.hidden),
            "attn_k.weight": (keys, sizes.hidden),
            "attn_v.weight": (keys, sizes.hidden),
        }
        layer |= {"ffn_gate.weight": (sizes.feed, sizes.hidden), "ffn_up.weight": (sizes.feed, sizes.hidden)}
    if family == "qwen2":
        layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if family in ("qwen3", "gemma3"):
        layer |= {"attn_q_norm.weight": (sizes.head,), "attn_k_norm.weight": (sizes.head,)}
    if family == "gemma3":
        layer |= {"post_attention_norm.weight": (sizes.hidden,), "post_ffw_norm.weight": (sizes.hidden,)}
    return layer


def write_gguf(
    path,
    family="llama",
    kinds="Q4_1",
    tied=True,
    seed=0,
    tokenizer=None,
    change=None,
    norms="F32",
    sizes=Sizes(),
    keep=True,
    licence="apache-2.0",
):
    """A file of a family; `kinds` is a type, or a function of a tensor's name. `change(writer)` adds metadata."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, family)
    writer.add_name("Tiny Test")
    writer.add_license(licence)
    writer.add_block_count(sizes.layers)
    writer.add_context_length(sizes.context)
    writer.add_embedding_length(sizes.hidden)
    writer.add_feed_forward_length(sizes.feed)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(sizes.head)
    if family in ("qwen3", "gemma3"):
        writer.add_key_length(sizes.head)
        writer.add_value_length(sizes.head)
    if family == "gemma3":
        writer.add_sliding_window(64)
    # transformers reads any folder of Qwen 2 by Qwen's own rules, whatever it names.
    pre = "qwen2" if family == "qwen2" else "gpt-2"
    tokens = tokenizer(writer) if tokenizer else byte_level(writer, pre)
    if change:
        change(writer)
    shapes = {"token_embd.weight": (tokens, sizes.hidden), "output_norm.weight": (sizes.hidden,)}
    if not tied:
        shapes["output.weight"] = (tokens, sizes.hidden)
    for layer in range(sizes.layers):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in shapes_of(family, sizes).items()}
    made = Made(path)
    for name, shape in shapes.items():
        kind = kinds if isinstance(kinds, str) else kinds(name)
        if len(shape) == 1:
            middle = 0.0 if name.endswith("bias") else 1.0
            values = (middle + random.standard_normal(shape) * 0.1).astype(np.float32)
            writer.add_tensor(name, values.astype(np.float16) if norms == "F16" else values)
            made.values[name] = values
            continue
        packed, values = random_blocks(kind, *shape, random)
        if keep:
            made.values[name], made.raw[name] = values, packed
        writer.add_tensor(name, packed, raw_dtype=TYPES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def byte_level(writer, pre="gpt-2"):
    """Byte-level BPE of the project's own random models; returns how many tokens it has."""
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(Path(folder), CONTEXT)
        model = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(4)
    writer.add_chat_template(TEMPLATE)
    return len(tokens)


def sentence_piece(writer, spaced=True, size=600):
    """SentencePiece BPE trained on the project's own text, as Llama 2's; returns how many tokens it has."""
    processor = train_sentence_piece(size, spaced)
    count = processor.get_piece_size()
    kinds = [
        2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1
        for i in range(count)
    ]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([processor.id_to_piece(i) for i in range(count)])
    writer.add_token_scores([processor.get_score(i) for i in range(count)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if not spaced:
        writer.add_add_space_prefix(False)
    return count


@cache
def train_sentence_piece(size, spaced):
    """The judge: sentencepiece itself, with byte fallback and Llama 2's settings."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(shipped_text().splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        add_dummy_prefix=spaced,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
