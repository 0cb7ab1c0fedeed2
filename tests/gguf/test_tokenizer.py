"""The tokenizer of a GGUF file gives the ids that llama.cpp and sentencepiece give."""

import json

import pytest

from slmflow.errors import SlmflowError
from slmflow.gguf.header import read_gguf
from slmflow.gguf.tokenizer import save_tokenizer
from slmflow.models.slm_runtime.tokenizer import TextTokenizer
from slmflow.sources.random_model import TEMPLATE
from tests.gguf.judge import IDS, TEXTS, TOKENIZERS
from tests.gguf_maker import byte_level, sentence_piece, train_sentence_piece, write_gguf

JUDGED = json.loads(IDS.read_text())["ids"]


def tokenizer_of(tmp_path, **options):
    write_gguf(tmp_path / "m.gguf", **options)
    save_tokenizer(read_gguf(tmp_path / "m.gguf"), tmp_path)
    return TextTokenizer(tmp_path)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_llama_cpps(tmp_path, name):
    tokenizer = tokenizer_of(tmp_path, tokenizer=TOKENIZERS[name])
    before = len(tokenizer.encode(""))  # BOS, which the judge was not asked for
    for text, ids in zip(TEXTS, JUDGED[name], strict=True):
        assert tokenizer.encode(text)[before:] == ids, text[:80]


@pytest.mark.parametrize("spaced", [True, False])
def test_ids_are_sentencepieces(tmp_path, spaced):
    tokenizer = tokenizer_of(tmp_path, tokenizer=lambda writer: sentence_piece(writer, spaced))
    judge = train_sentence_piece(600, spaced)
    for text in TEXTS:
        if "<s>" in text:
            continue  # a marker in a text is text to sentencepiece
        assert tokenizer.encode(text)[1:] == judge.encode(text), text[:80]
        assert tokenizer.decode(tokenizer.encode(text)) == judge.decode(judge.encode(text))


def add(key, value, kind="bool"):
    def tokenizer(writer):
        count = byte_level(writer)
        writer.kv_data[0].pop(key, None)
        getattr(writer, f"add_{kind}")(key, value)
        return count

    return tokenizer


def without(key):
    def tokenizer(writer):
        count = byte_level(writer)
        del writer.kv_data[0][key]
        return count

    return tokenizer


@pytest.mark.parametrize(("pre", "count"), [("llama-bpe", 2), ("dbrx", 4)])
def test_a_word_that_no_merge_leads_to_is_one_token_for_llama_3_only(tmp_path, pre, count):
    def tokenizer(writer):
        tokens = byte_level(writer, pre)
        fields = writer.kv_data[0]
        vocabulary, merges = (fields[f"tokenizer.ggml.{name}"].value for name in ("tokens", "merges"))
        merges[:] = [merge for merge in merges if vocabulary[-1] not in merge.replace(" ", "")]
        vocabulary[-1] = "zqxj"
        return tokens

    ids = tokenizer_of(tmp_path, tokenizer=tokenizer).encode("zqxj")
    assert len(ids) == count, "with BOS, or letter by letter"


def test_a_vocabulary_of_thousands_of_markers_is_read_at_once(tmp_path):
    """Gemma 3 has some 6,000; one by one their time grows with the square."""

    def tokenizer(writer):
        count = byte_level(writer)
        fields = writer.kv_data[0]
        fields["tokenizer.ggml.tokens"].value.extend(f"<unused{i}>" for i in range(20_000))
        fields["tokenizer.ggml.token_type"].value.extend([3] * 20_000)
        return count + 20_000

    assert tokenizer_of(tmp_path, tokenizer=tokenizer).encode("<unused19999>") == [1024 + 19_999]


def test_a_vocabulary_of_endless_words_is_refused(tmp_path):
    def tokenizer(writer):
        count = sentence_piece(writer)
        writer.kv_data[0]["tokenizer.ggml.tokens"].value[-1] = "a" * 100_000
        return count

    with pytest.raises(SlmflowError, match="tokens are too long for a vocabulary"):
        tokenizer_of(tmp_path, tokenizer=tokenizer)


def test_texts_begin_with_bos_and_end_with_eos_as_the_file_says(tmp_path):
    bare = tokenizer_of(tmp_path, tokenizer=byte_level).encode("abc")
    bos = tokenizer_of(tmp_path, tokenizer=add("tokenizer.ggml.add_bos_token", True)).encode("abc")
    eos = tokenizer_of(tmp_path, tokenizer=add("tokenizer.ggml.add_eos_token", True)).encode("abc")
    assert bos == [0, *bare]
    assert eos == [*bare, 4]


def test_the_chat_template_and_the_special_tokens_are_the_files(tmp_path):
    tokenizer = tokenizer_of(tmp_path)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.special_tokens == {"bos_token": "<|endoftext|>", "eos_token": "<|end|>"}
    ids = tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    assert ids[0] == 2
    assert tokenizer.decode(ids).strip().startswith("hi")


def test_phi_3s_markers_swallow_the_white_space_behind_them(tmp_path):
    def tokenizer(writer):
        count = sentence_piece(writer)
        tokens = writer.kv_data[0]["tokenizer.ggml.tokens"].value
        kinds = writer.kv_data[0]["tokenizer.ggml.token_type"].value
        tokens[-1], kinds[-1] = "<|end|>", 3
        return count

    swallowing = tokenizer_of(tmp_path, family="phi3", tokenizer=tokenizer)
    keeping = tokenizer_of(tmp_path, family="llama", tokenizer=tokenizer)
    assert swallowing.encode("a<|end|>\nb") == swallowing.encode("a<|end|>b")
    assert keeping.encode("a<|end|>\nb") != keeping.encode("a<|end|>b")


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (
            lambda writer: byte_level(writer, "deepseek-llm"),
            "pre-tokenizer 'deepseek-llm' is not supported: only gpt-2",
        ),
        (add("tokenizer.ggml.model", "t5", "string"), "tokenizer 't5' is not supported: only gpt2"),
        (add("tokenizer.ggml.eos_token_id", 99_999, "uint32"), "eos_token_id is 99999, and there are 1024"),
        (add("tokenizer.ggml.token_type", [1, 1], "array"), "token_type has 2 int32 for 1024 tokens"),
        (add("tokenizer.ggml.token_type", [float("nan")] * 1024, "array"), "token_type has 1024 float32 for"),
        (without("tokenizer.ggml.pre"), "no tokenizer.ggml.pre: it was made before May 2024"),
        (add("tokenizer.ggml.merges", ["zz qq"], "array"), "tokenizer.ggml.merges"),
    ],
)
def test_a_tokenizer_that_is_not_known_or_does_not_fit_is_refused(tmp_path, tokenizer, said):
    with pytest.raises(SlmflowError, match=said):
        tokenizer_of(tmp_path, tokenizer=tokenizer)
