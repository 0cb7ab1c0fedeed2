"""A GGUF header is believed in nothing: what does not hold together is refused in one line, and nothing is allocated."""

import struct
import tracemalloc

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.errors import SlmflowError
from slmflow.gguf.file import KINDS, described
from slmflow.gguf.header import read_gguf
from tests.gguf_maker import HIDDEN, TYPES, write_gguf


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "valid.gguf"
    write_gguf(path, kinds=lambda name: "Q8_0" if "embd" in name else "Q4_1")
    return path


def test_a_header_is_what_the_gguf_package_reads(valid):
    theirs = gguf.GGUFReader(valid)
    ours = read_gguf(valid)
    assert ours.metadata.keys() == {key for key in theirs.fields if not key.startswith("GGUF.")}
    assert ours.text("general.name") == "Tiny Test"
    assert ours.texts("tokenizer.ggml.tokens") == theirs.fields["tokenizer.ggml.tokens"].contents()
    assert ours.number("llama.attention.layer_norm_rms_epsilon") == 1e-5
    assert ours.tensors.keys() == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.kind.name == tensor.tensor_type.name
        assert mine.shape == tuple(reversed(tensor.shape.tolist()))
        np.testing.assert_array_equal(mine.rows().reshape(-1), tensor.data.view(np.uint8).reshape(-1))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_type_has_the_block_that_ggml_says(kind):
    assert TYPES[kind.name].name == kind.name
    assert gguf.GGML_QUANT_SIZES[TYPES[kind.name]] == (kind.block, kind.bytes)


def test_a_file_says_what_it_is(valid):
    own = described(read_gguf(valid))
    assert own["name"] == "Tiny Test"
    assert own["licence"] == "apache-2.0"
    assert own["file"] == "valid.gguf"
    assert own["quantisation"].startswith("Q4_1 8")


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def tensor(name, shape, kind, offset):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def header(
    entries=(), tensors=(), data=b"", *, version=3, tensor_count=None, entry_count=None, magic=b"GGUF"
):
    counts = struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(entries) if entry_count is None else entry_count,
    )
    content = magic + counts + b"".join(entries) + b"".join(tensors)
    return content + bytes(-len(content) % 32) + data


F32, Q4_1 = 0, 3
ARRAY, STRING, UINT16, UINT32 = 9, 8, 2, 4
HUGE = 1 << 62
BAD = {
    "no bytes": (b"", "cannot be read as GGUF"),
    "another file": (b"PK\x03\x04" + bytes(100), "does not begin with the letters GGUF"),
    "old": (header(version=1), "version is 1: only 2 and 3"),
    "big-endian": (header(version=3 << 24), "big-endian"),
    "cut in the counts": (b"GGUF\x03\x00\x00\x00", "ends within the number of tensors"),
    "countless tensors": (header(tensor_count=HUGE), f"claims {HUGE} tensors"),
    "countless entries": (header(entry_count=HUGE), f"claims {HUGE} metadata entries"),
    "more tensors than bytes": (header(tensor_count=60_000)[:24], "ends within a tensor's name"),
    "endless key": (header([struct.pack("<Q", HUGE)], entry_count=1), "ends within a metadata key"),
    "endless text": (
        header([entry("a", STRING, struct.pack("<Q", HUGE))]),
        "ends within metadata 'a'",
    ),
    "no text": (header([struct.pack("<Q", 2) + b"\xff\xfe"], entry_count=1), "a metadata key is no text"),
    "endless array": (
        header([entry("a", ARRAY, struct.pack("<IQ", UINT32, HUGE))]),
        f"metadata 'a' claims {HUGE} elements",
    ),
    "long array of texts": (
        header([entry("a", ARRAY, struct.pack("<IQ", STRING, 4_000_000))]),
        "ends within metadata 'a'",
    ),
    "arrays of arrays": (header([entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "array of the type 9"),
    "unknown value": (header([entry("a", 13, b"")]), "metadata 'a' has the type 13"),
    "key twice": (header([entry("a", UINT32, bytes(4))] * 2), "metadata 'a' twice"),
    "split": (
        header([entry("split.count", UINT16, b"\x03\x00"), entry("split.no", UINT16, b"\x00\x00")]),
        "is one of 3 parts: join them first",
    ),
    "alignment": (header([entry("general.alignment", UINT32, struct.pack("<I", 7))]), "alignment is 7"),
    "no alignment": (header([entry("general.alignment", UINT32, bytes(4))]), "alignment is 0"),
    "tensor twice": (
        header((), [tensor("a", [8], F32, 0), tensor("a", [8], F32, 32)], bytes(64)),
        "the tensor a twice",
    ),
    "no name": (header((), [tensor("", [8], F32, 0)], bytes(32)), "name '' is empty"),
    "terminal codes": (
        header((), [tensor("a\x1b[2J", [8], F32, 0)], bytes(32)),
        r"name 'a\\x1b\[2J' is empty, too long, or not printable",
    ),
    "split by a text": (header([entry("split.count", STRING, text("x"))]), "is one of 'x' parts"),
    "split without end": (
        header([entry("split.count", 6, struct.pack("<f", float("inf")))]),
        "is one of inf parts",
    ),
    "arrays beyond a vocabulary": (
        header(
            [entry(key, ARRAY, struct.pack("<IQ", UINT32, 3_000_000) + bytes(12_000_000)) for key in "ab"]
        ),
        "metadata 'b' claims 3000000 elements: more than a vocabulary has",
    ),
    "long name": (header((), [tensor("n" * 64, [8], F32, 0)], bytes(32)), "empty, too long"),
    "dimensions": (header((), [tensor("a", [1] * 5, F32, 0)], bytes(32)), "tensor a has 5 dimensions"),
    "scalar": (header((), [tensor("a", [], F32, 0)], bytes(32)), "tensor a has 0 dimensions"),
    "empty tensor": (header((), [tensor("a", [0], F32, 0)], bytes(32)), r"type F32 has the shape \[0\]"),
    "overflow": (
        header((), [tensor("a", [1 << 33, 1 << 33], F32, 0)], bytes(32)),
        "tensor a of type F32 has the shape",
    ),
    "half a block": (
        header((), [tensor("a", [40], Q4_1, 0)], bytes(32)),
        "rows of 40 are no multiple of Q4_1's 32",
    ),
    "truncated": (
        header((), [tensor("blk.0.attn_q.weight", [32, 4], Q4_1, 0)], bytes(79)),
        r"tensor blk\.0\.attn_q\.weight of type Q4_1 ends at byte \d+, and the file has \d+: it was cut short",
    ),
    "far away": (header((), [tensor("a", [8], F32, HUGE)], bytes(32)), "tensor a of type F32 ends at byte"),
    "crooked": (header((), [tensor("a", [4], F32, 4)], bytes(32)), "begins at 4, which is not aligned to 32"),
    "over each other": (
        header((), [tensor("a", [16], F32, 0), tensor("b", [8], F32, 32)], bytes(64)),
        "tensors a and b lie over each other",
    ),
    "unknown type": (header((), [tensor("a", [8], 99, 0)], bytes(32)), "tensor a has the type 99"),
    "known, not read": (
        header((), [tensor("a", [256], 10, 0)], bytes(96)),
        "tensor a has the type Q2_K; what can be read is F32, F16, BF16, Q4_0",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_refused_and_says_why(tmp_path, name):
    content, said = BAD[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(SlmflowError, match=said) as error:
        read_gguf(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(error.value).startswith("model.gguf")
    assert "\n" not in str(error.value)
    assert most < 30_000_000


@given(data=st.data())
def test_whatever_bytes_are_changed_a_file_is_read_or_refused(tmp_path_factory, valid, data):
    content = bytearray(valid.read_bytes()[:40_000])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 900), st.integers(0, len(content) - 8)))
        value = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8)))
        content[at : at + len(value)] = value
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    path.write_bytes(bytes(content) + bytes(1_000_000 if data.draw(st.booleans()) else 0))
    try:
        file = read_gguf(path)
    except SlmflowError:
        return
    size = path.stat().st_size
    for found in file.tensors.values():
        assert found.offset + found.nbytes <= size
        assert found.rows().nbytes == found.nbytes


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda file: file.text("llama.block_count"), "llama.block_count is 2, and should be text"),
        (lambda file: file.integer("general.name"), "general.name is 'Tiny Test', and should be an integer"),
        (lambda file: file.integer("no.such"), "its metadata has no no.such"),
        (lambda file: file.numbers("tokenizer.ggml.tokens"), "should be an array of numbers"),
    ],
)
def test_metadata_of_another_type_is_refused_by_its_key(valid, read, said):
    with pytest.raises(SlmflowError, match=said):
        read(read_gguf(valid))


def test_a_tensor_is_read_where_it_lies(tmp_path):
    made = write_gguf(tmp_path / "a.gguf", kinds="Q6_K")
    file = read_gguf(tmp_path / "a.gguf")
    assert file.tensors["blk.1.ffn_down.weight"].shape[0] == HIDDEN
    for name, raw in made.raw.items():
        np.testing.assert_array_equal(file.tensors[name].rows(), raw.reshape(raw.shape[0], -1).view(np.uint8))
