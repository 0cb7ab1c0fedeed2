"""The stock model builder beside ours, and models whose answer depends on every part of them."""

import contextlib
import io
from unittest.mock import patch

import numpy as np

from slmflow.export.builder_config import settle
from slmflow.export.genai import builder_options, described
from slmflow.files import sha256_of
from slmflow.models.slm_runtime.open_engine import open_engine
from slmflow.quality.fidelity import kl_divergence, log_softmax
from slmflow.quality.reference import reference_logits
from slmflow.sources.random_model import save_tokenizer

TOKENS = 96
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_theta": 10_000.0,
}
"""Llama 3's own scaling of positions."""


def stock(config, source, folder, *, settled=False, own_stamp=False):
    """The folder as the stock builder makes it of the same options.

    `settled`: of a configuration as it reads it, where it cannot read transformers 5's. Without `own_stamp`
    it writes its own commit into the graph and not that of the repository that it is installed in.
    """
    import onnxruntime_genai
    from onnxruntime_genai.models import builder

    arguments = (
        "",
        str(source),
        str(folder),
        config.precision.value,
        config.provider.value,
        f"{folder}-cache",
    )
    options = [f"{k}={v}" for k, v in builder_options(config, described(source)).items()]
    right = patch.object(builder.Model, "get_genai_commit", lambda: onnxruntime_genai.__commit__)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.nullcontext() if own_stamp else right:
        prepared = builder.parse_extra_options(*arguments, options)
        if settled:
            settle(prepared["hf_details"]["hf_config"])
        builder.create_model(*arguments, **prepared)
    return folder


def assert_same_graph(ours, theirs):
    """Byte by byte; the tokenizer's files are the source's own in ours, and transformers' making in theirs."""
    for name in ("model.onnx", "model.onnx.data", "genai_config.json"):
        assert sha256_of(ours / name) == sha256_of(theirs / name), name


def strong_model(folder, kind, **fields):
    """A random model of a class with weights so large that each of its parts changes the answer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 4,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **fields}))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.dim() >= 2:
                weight.mul_(6.0)
            elif "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    save_tokenizer(folder, sizes["max_position_embeddings"])
    return folder


def distance(onnx, source):
    """Mean KL divergence (nats) of a genai folder from transformers' own forward, over TOKENS tokens."""
    ids = [int(token) for token in np.random.default_rng(0).integers(5, 1000, TOKENS)]
    graph = log_softmax(open_engine(onnx).score(ids))
    return float(kl_divergence(log_softmax(next(reference_logits(source, [ids]))), graph).mean())
