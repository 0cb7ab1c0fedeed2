"""Random models repeat byte for byte."""

import json

import pytest

from slmflow.compose import compose
from slmflow.files import digests_under
from slmflow.sources import take


def make(tmp_path, overrides=""):
    return digests_under(
        take(compose(model="tiny_phi3", overrides=overrides).config.model.source, tmp_path).folder
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(tmp_path):
    first = make(tmp_path / "a")
    assert make(tmp_path / "b") == first
    other = make(tmp_path / "c", "model.source.seed=1")
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3"])
@pytest.mark.parametrize("tied", ["true", "false"])
def test_every_architecture_can_be_made(tmp_path, architecture, tied):
    overrides = f"model.source.architecture={architecture} model.source.tied={tied}"
    source = compose(model="tiny_phi3", overrides=overrides).config.model.source
    folder = take(source, tmp_path).folder
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == architecture
    assert config["tie_word_embeddings"] is (tied == "true")
