"""The text part of a model that also sees is a language model of its own, with the very weights."""

import json

import pytest
from safetensors.torch import load_file, save_file

from slmflow.errors import SlmflowError
from slmflow.sources.huggingface import make_huggingface
from slmflow.sources.text_part import left_out, text_config
from tests.families import make_family


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return make_family("Gemma 3", tmp_path_factory.mktemp("published"))


def renamed(published, folder, rename, shards=1):
    """The same model with other names, as other versions of its library wrote it."""
    folder.mkdir()
    for path in published.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    weights = {rename(name): value for name, value in load_file(published / "model.safetensors").items()}
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    places = {name: f"part-{number % shards}.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def newer(name):
    """As transformers 5 names them in memory, and some publishers in their files."""
    return f"model.{name.replace('language_model.model.', 'language_model.')}"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("rename", [str, newer], ids=["as Gemma 3 is published", "as Qwen3.5 is"])
def test_it_has_the_very_weights_whatever_the_larger_model_calls_them(published, tmp_path, rename, shards):
    from transformers import AutoModelForCausalLM

    source = renamed(published, tmp_path / "source", rename, shards)
    assert make_huggingface(source, tmp_path / "text") == "made"
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "text", output_loading_info=True)
    assert not any(report.values()), report
    assert type(model).__name__ == "Gemma3ForCausalLM"
    originals = load_file(published / "model.safetensors")
    own = dict(model.named_parameters())
    texts = {name: value for name, value in originals.items() if name.startswith("language_model.model.")}
    assert len(texts) > 20
    for name, value in texts.items():
        assert (own[name.removeprefix("language_model.")] == value).all(), name


def test_what_is_left_out_is_counted_by_its_part(published, tiny):
    found = left_out(published)
    assert set(found) == {"vision_tower", "multi_modal_projector"}
    assert found["vision_tower"] > 10
    assert left_out(tiny) == {}


def test_nothing_about_pictures_comes_along(published, tmp_path):
    source = renamed(published, tmp_path / "source", str)
    (source / "preprocessor_config.json").write_text("{}")
    make_huggingface(source, tmp_path / "text")
    assert not (tmp_path / "text" / "preprocessor_config.json").exists()
    config = json.loads((tmp_path / "text" / "config.json").read_text())
    assert config["model_type"] == "gemma3_text"
    assert "vision_config" not in config


def test_a_text_part_that_transformers_has_no_language_model_for_is_refused(published, tmp_path):
    source = renamed(published, tmp_path / "source", str)
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["model_type"] = "bert_of_tomorrow"
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        SlmflowError, match="the text part of model_type=gemma3 is of model_type=bert_of_tomor"
    ):
        make_huggingface(source, tmp_path / "text")
    assert not (tmp_path / "text").exists()


@pytest.mark.parametrize(
    ("whole", "text", "names", "tied"),
    [
        ({}, {}, {"model.embed_tokens.weight"}, True),
        ({}, {}, {"model.embed_tokens.weight", "lm_head.weight"}, False),
        ({"tie_word_embeddings": False}, {"tie_word_embeddings": True}, set(), False),
        ({}, {"tie_word_embeddings": True}, {"lm_head.weight"}, True),
    ],
)
def test_whether_head_and_embedding_are_one_is_the_larger_models_word_and_else_the_tensors(
    whole, text, names, tied
):
    config = {"model_type": "mistral3", "text_config": {"model_type": "ministral3", **text}, **whole}
    assert text_config(config, names)["tie_word_embeddings"] is tied
