"""A seeded random-weight model with a small tokenizer trained on the project's own text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slmflow.files import read_json, write_json
from slmflow.sources.manifest import Taken
from slmflow.text import shipped_text

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.config import RandomSource

VOCABULARY = 1024
SPECIAL = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""Phi-3's turns: each a role marker, the text, and the end marker."""


FORMAT = "4.57.6"
"""The transformers whose format config.json has: 4 and 5 read it alike, and earlier runs have it."""


def take(source: RandomSource, folder: Path) -> Taken:
    """Make the model at `folder`; the same seed and sizes give the same bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    config = AutoConfig.for_model(
        source.architecture.value,
        vocab_size=VOCABULARY,
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_hidden_layers=source.layers,
        num_attention_heads=source.heads,
        num_key_value_heads=source.kv_heads,
        head_dim=source.hidden_size // source.heads,
        max_position_embeddings=source.context,
        original_max_position_embeddings=source.context,
        tie_word_embeddings=source.tied,
        bos_token_id=0,
        eos_token_id=SPECIAL.index("<|end|>"),
        pad_token_id=0,
    )
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(source.seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    torch.random.set_rng_state(generator_state)
    model.save_pretrained(folder)
    for name, written in (("config.json", config_of_4), ("generation_config.json", generation_of_4)):
        text = json.dumps(written(read_json(folder / name)), indent=2, sort_keys=True)
        (folder / name).write_text(f"{text}\n")
    save_tokenizer(folder, source.context)
    name = f"{source.architecture.value}-{source.hidden_size}x{source.layers}"
    return Taken(folder, f"random:{name} seed {source.seed}")


def config_of_4(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json of transformers 5 as FORMAT wrote it; only of rotary tables that are not scaled."""
    kept = {key: value for key, value in config.items() if key != "rope_parameters"}
    kept |= {"rope_scaling": None, "transformers_version": FORMAT}
    rotary = config["rope_parameters"]
    if "full_attention" in rotary:
        bases = {kind: rotary[kind]["rope_theta"] for kind in rotary}
        return kept | {
            "rope_theta": bases["full_attention"],
            "rope_local_base_freq": bases["sliding_attention"],
        }
    return kept | {key: value for key, value in rotary.items() if key != "rope_type"}


def generation_of_4(config: dict[str, Any]) -> dict[str, Any]:
    """A generation_config.json of transformers 5 as FORMAT wrote it: less some defaults."""
    added = ("output_attentions", "output_hidden_states", "use_cache")
    return {key: value for key, value in config.items() if key not in added} | {
        "transformers_version": FORMAT
    }


def save_tokenizer(folder: Path, context: int) -> None:
    """Train the tokenizer on the project's own text, and write its files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(shipped_text().splitlines(keepends=True), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
        "model_max_length": context,
    }
    write_json(folder / "tokenizer_config.json", config)
