"""A folder whose class would leave out rules of tokenizer.json is read by the file, as it was trained."""

import json

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.export import export_folder
from slmflow.export.proofs import prove
from slmflow.models.slm_runtime.tokenizer import TextTokenizer
from slmflow.sources.huggingface import make_huggingface
from slmflow.sources.tokenizer_class import drops_rules

TEXT = "In 1234567890 there are 10 digits, 3.14159 and ½."
FP32 = compose(export="fp32_cpu").config.export


@pytest.fixture(scope="module")
def llama(make_model):
    """Of a Llama, as SmolLM2 is; of Phi-3 transformers reads the file whatever class is named."""
    return make_model("model.source.architecture=llama")


def folder_of(tiny, folder, name, *, digits_apart):
    """The tiny model as a folder that names a class, its digits split one by one or not."""
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    # GPT-2's pattern takes numbers together: add a few to the vocabulary, so that the difference is seen.
    tokenizer.add_tokens(["1234", "567890", "10", "14159"])
    apart = [pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated")] if digits_apart else []
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*apart, byte_level]) if apart else byte_level
    tokenizer.save(str(folder / "tokenizer.json"))
    said = json.loads((tiny / "tokenizer_config.json").read_text()) | {"tokenizer_class": name}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def pre_tokenizer_in(folder):
    from transformers import AutoTokenizer

    return json.loads(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())["pre_tokenizer"]


def test_transformers_leaves_out_the_rule_and_the_folder_that_is_made_keeps_it(llama, tmp_path, capsys):
    source = folder_of(llama, tmp_path / "source", "GPT2Tokenizer", digits_apart=True)
    rules = json.loads((source / "tokenizer.json").read_text())["pre_tokenizer"]
    assert pre_tokenizer_in(source) != rules, "if it is read right one day, this module can go"
    before = (source / "tokenizer_config.json").read_bytes()
    assert make_huggingface(source, tmp_path / "huggingface") == "made"
    assert "its tokenizer_class would leave out rules of tokenizer.json" in capsys.readouterr().out
    assert pre_tokenizer_in(tmp_path / "huggingface") == rules
    assert (source / "tokenizer_config.json").read_bytes() == before
    made = tmp_path / "huggingface" / "model.safetensors"
    assert made.samefile(source / "model.safetensors"), "linked, not copied"


@pytest.mark.parametrize(
    ("name", "apart", "drops"),
    [
        ("GPT2Tokenizer", True, True),
        ("GPT2TokenizerFast", True, True),
        ("GPT2Tokenizer", False, False),
        ("PreTrainedTokenizerFast", True, False),
    ],
)
def test_only_a_class_that_would_leave_something_out_is_changed(llama, tmp_path, name, apart, drops):
    source = folder_of(llama, tmp_path / "source", name, digits_apart=apart)
    assert drops_rules(source) is drops
    assert make_huggingface(source, tmp_path / "huggingface") == ("made" if drops else "source")


def test_a_folder_that_reaches_the_export_with_such_a_class_is_refused(llama, tmp_path):
    """The exported model has the file's rules, and the pipeline would read other ids."""
    source = folder_of(llama, tmp_path / "source", "GPT2Tokenizer", digits_apart=True)
    export_folder(FP32, source, tmp_path / "onnx", tmp_path)
    assert (tmp_path / "onnx" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert TextTokenizer(tmp_path / "onnx").encode(TEXT)
    with pytest.raises(
        SlmflowError, match="tokenizer ids differ from the source's .* as GPT2Tokenizer reads it"
    ):
        prove(tmp_path / "onnx", source, FP32.precision)
