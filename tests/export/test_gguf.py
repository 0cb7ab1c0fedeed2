"""A GGUF file exported keeps its codes and scales bit for bit, and computes with exactly its weights."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from gguf import RopeScalingType

from slmflow.compose import compose
from slmflow.config import Level
from slmflow.errors import SlmflowError
from slmflow.export import Codes, export_folder
from slmflow.export.proofs import prove
from slmflow.files import digests_under
from slmflow.gguf.blocks import LAYOUTS
from slmflow.gguf.families import FAMILIES, places
from slmflow.gguf.header import read_gguf
from slmflow.sources.huggingface import make_huggingface
from tests.gguf_maker import TYPES, write_gguf

LEVELS = {"gguf_exact_cpu": 1e-10, "gguf_cpu": 1e-9, "gguf_fast_cpu": 1e-4}
"""Export to the KL divergence that it may have on a tiny model of random weights."""


def eightfold(writer):
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)


def q4_k_m(name):
    return "Q6_K" if "attn_v" in name or "ffn_down" in name or name == "output.weight" else "Q4_K"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file of some family and types, its Hugging Face folder, and its export; each made once."""
    kept = {}

    def make(export="gguf_cpu", **options):
        key = str(sorted(options.items(), key=str))
        if key not in kept:
            folder = tmp_path_factory.mktemp("gguf")
            (folder / "source").mkdir()
            kept[key] = write_gguf(folder / "source" / "m.gguf", **options), folder
            make_huggingface(folder / "source", folder / "huggingface")
        made, folder = kept[key]
        if not (folder / export).exists():
            config = compose(export=export).config.export
            codes = Codes("gguf", folder / "source")
            export_folder(config, folder / "huggingface", folder / export, folder / "scratch", codes)
        return made, folder / "huggingface", folder / export

    return make


def proven(exported, export, **options):
    _, huggingface, folder = exported(export, **options)
    proofs = prove(folder, huggingface, compose(export=export).config.export.level)
    assert proofs["tokenizer"]["differences"] == 0
    return max(proofs["logits"].values())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("export", LEVELS)
def test_every_type_computes_with_the_files_weights_at_every_level(exported, kind, export):
    limit = 1e-10 if kind in ("F32", "F16", "BF16") else LEVELS[export]
    assert proven(exported, export, kinds=kind) < limit


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_so_does_every_family_with_types_mixed_in_one_file(exported, family, tied):
    assert proven(exported, "gguf_cpu", family=family, kinds=q4_k_m, tied=tied) < 1e-9


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_linear_scaling_reaches_the_graph(exported, family):
    """The stock builder forgets it for Llama, and stretches Gemma 3's local layers (as of 4 B) with the global ones."""
    assert proven(exported, "gguf_cpu", family=family, kinds="F32", change=eightfold) < 1e-9


def initializers(folder):
    model = onnx.load(folder / "model.onnx")
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def unpacked(codes, bits):
    """(rows, groups, bytes) to codes (rows, weights)."""
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1)
    return codes.reshape(len(codes), -1)


def nibbles(codes, run):
    """The first of two runs low, the second high."""
    low, high = codes.reshape(len(codes), -1, 2, run).transpose(2, 0, 1, 3)
    return (low | high << 4).reshape(len(codes), -1)


def sixes(scales, minima):
    """Eight 6-bit scales and eight minima in twelve bytes, as ggml-quants.c packs them."""
    low, high = slice(0, 4), slice(4, 8)
    return np.concatenate(
        [
            scales[:, low] | (scales[:, high] >> 4) << 6,
            minima[:, low] | (minima[:, high] >> 4) << 6,
            scales[:, high] & 15 | (minima[:, high] & 15) << 4,
        ],
        axis=1,
    )


def packed_again(kind, parts):
    """The file's rows, from nothing but what is in the ONNX file."""
    layout = LAYOUTS[kind]
    block = 256 if kind.endswith("K") else 32
    rows = len(parts["codes"])
    codes = unpacked(parts["codes"], layout.bits).reshape(-1, block)
    count = len(codes)
    d, m = (
        parts[name].reshape(count, 1).view(np.uint8).reshape(count, 2) if name in parts else None
        for name in ("d", "m")
    )
    plain = (codes.astype(int) - layout.middle + {"Q4": 8, "Q5": 16, "Q6": 32, "Q8": 0}[kind[:2]]).astype(
        np.uint8
    )
    fifth = np.packbits(plain >> 4 & 1, axis=1, bitorder="little")
    if "minimum_codes" in parts:
        six = sixes(*(parts[name].reshape(count, 8) for name in ("scale_codes", "minimum_codes")))
    match kind:
        case "Q4_0":
            raw = [d, nibbles(plain, 16)]
        case "Q4_1":
            raw = [d, m, nibbles(plain, 16)]
        case "Q5_0":
            raw = [d, fifth, nibbles(plain & 15, 16)]
        case "Q5_1":
            raw = [d, m, fifth, nibbles(plain & 15, 16)]
        case "Q8_0":
            raw = [d, plain]
        case "Q4_K":
            raw = [d, m, six, nibbles(plain, 32)]
        case "Q5_K":
            bits = (plain >> 4).reshape(count, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
            raw = [d, m, six, np.bitwise_or.reduce(bits, axis=1), nibbles(plain & 15, 32)]
        case "Q6_K":
            two = (plain >> 4).reshape(count, 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
            upper = np.bitwise_or.reduce(two, axis=2).reshape(count, 64)
            scales = parts["scale_codes"].reshape(count, 16).view(np.uint8)
            raw = [nibbles(plain & 15, 64), upper, scales, d]
    return np.concatenate(raw, axis=1).reshape(rows, -1)


def parts_of(stored, weight):
    """A weight's initializers by part; several where its rows are of several types."""
    found = {}
    for name, values in stored.items():
        if match := re.fullmatch(rf"{re.escape(weight)}(_\d+)?\.(\w+)", name):
            found.setdefault(match[1] or "", {})[match[2]] = values
    return [found[key] for key in sorted(found)]


def stacked(file, layers):
    """Each weight of an exported Llama to the file's tensors whose rows are stacked in it."""
    found = {"model.embed_tokens.weight": ["token_embd.weight"]}
    for layer in range(layers):
        own = f"model.layers.{layer}"
        found[f"{own}.attn.qkv_proj.MatMul.weight"] = [f"blk.{layer}.attn_{part}.weight" for part in "qkv"]
        found[f"{own}.attn.o_proj.MatMul.weight"] = [f"blk.{layer}.attn_output.weight"]
        for part in ("gate", "up", "down"):
            found[f"{own}.mlp.{part}_proj.MatMul.weight"] = [f"blk.{layer}.ffn_{part}.weight"]
    assert sorted(name for names in found.values() for name in names) == sorted(
        name for name, tensor in file.tensors.items() if len(tensor.shape) == 2
    )
    return found


def assert_the_files_blocks_can_be_made_again(path, folder):
    """Of every quantised weight of a tied Llama in which those that are stacked have one type."""
    file, stored = read_gguf(path), initializers(folder)
    where = places(file)
    for weight, names in stacked(file, file.integer("llama.block_count")).items():
        (parts,) = parts_of(stored, weight)
        tensors = [file.tensors[name] for name in names]
        theirs = [tensor.rows()[where[tensor.name].order(tensor.shape[0])] for tensor in tensors]
        ours = packed_again(tensors[0].kind.name, parts)
        np.testing.assert_array_equal(ours, np.concatenate(theirs), err_msg=weight)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_from_the_onnx_file_the_gguf_files_blocks_can_be_made_again_bit_for_bit(exported, kind):
    made, _, folder = exported("gguf_cpu", kinds=kind)
    assert_the_files_blocks_can_be_made_again(made.path, folder)


def test_rows_of_several_types_stay_apart_bit_for_bit(exported):
    made, _, folder = exported("gguf_cpu", kinds=q4_k_m)
    first, second = parts_of(initializers(folder), "model.layers.0.attn.qkv_proj.MatMul.weight")
    where = places(read_gguf(made.path))
    names = [f"blk.0.attn_{part}.weight" for part in "qkv"]
    q, k, v = (made.raw[name][where[name].order(len(made.raw[name]))] for name in names)
    np.testing.assert_array_equal(packed_again("Q4_K", first), np.concatenate([q, k]))
    np.testing.assert_array_equal(packed_again("Q6_K", second), v)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_weights_that_the_runtime_computes_with_are_the_files_to_one_unit_in_the_last_place(
    exported, kind, tmp_path
):
    """Scales and offsets by onnxruntime, from the nodes on constants that it folds when it loads."""
    made, _, folder = exported("gguf_cpu", kinds=kind)
    model = onnx.load(folder / "model.onnx")
    nodes = {output: node for node in model.graph.node for output in node.output}
    name = "model.layers.0.mlp.down_proj.MatMul.weight"
    used = [node for node in model.graph.node if node.op_type == "MatMulNBits" and name in node.input[1]]
    (matmul,) = used
    offsets = [
        node.input[1] for node in model.graph.node if node.op_type == "MatMul" and name in node.input[1]
    ]
    wanted = [matmul.input[2], *offsets]
    needed, open_names = [], list(wanted)
    while open_names:
        if (node := nodes.get(open_names.pop())) is not None and node not in needed:
            needed.append(node)
            open_names += node.input
    outputs = [onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None) for value in wanted]
    inputs = {value for node in needed for value in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in inputs]
    graph = onnx.helper.make_graph(
        [n for n in model.graph.node if n in needed], "constants", [], outputs, kept
    )
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    scales, *offsets = onnxruntime.InferenceSession(part.SerializeToString()).run(None, {})
    (parts,) = parts_of(initializers(folder), name)
    layout = LAYOUTS[kind]
    codes = unpacked(parts["codes"], layout.bits).astype(np.float32) - layout.middle
    ours = codes.reshape(*scales.shape, -1) * scales[..., None]
    if offsets:
        ours = ours + offsets[0].T[..., None]
    theirs = made.values["blk.0.ffn_down.weight"]
    distance = np.abs(ours.reshape(theirs.shape) - theirs)
    assert np.all(distance <= np.spacing(np.abs(theirs)))


def test_a_second_export_gives_the_same_bytes(exported, tmp_path):
    made, huggingface, folder = exported("gguf_cpu", kinds=q4_k_m)
    config = compose(export="gguf_cpu").config.export
    export_folder(config, huggingface, tmp_path / "onnx", tmp_path / "s", Codes("gguf", made.path.parent))
    assert digests_under(tmp_path / "onnx") == digests_under(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_its_embedding_is_stored_once(exported, tied):
    _, _, folder = exported("gguf_cpu", kinds="Q8_0", tied=tied)
    heads = [
        name
        for name in initializers(folder)
        if name.endswith(".codes") and ("embed" in name or "lm_head" in name)
    ]
    assert len(heads) == (1 if tied else 2)


@pytest.mark.parametrize(("kind", "most"), [("Q4_1", 1.01), ("Q8_0", 1.01), ("Q4_K", 1.04), ("Q6_K", 1.32)])
def test_the_weights_are_as_large_as_the_files(exported, kind, most):
    made, _, folder = exported("gguf_cpu", kinds=kind)
    tables = sum(values.nbytes for name, values in initializers(folder).items() if "_cache" in name)
    theirs = sum(tensor.nbytes for tensor in read_gguf(made.path).tensors.values())
    assert ((folder / "model.onnx.data").stat().st_size - tables) / theirs < most


def test_a_model_that_is_no_gguf_is_refused_before_work(tiny, tmp_path):
    config = compose(export="gguf_cpu").config.export
    assert config.level is Level.precise
    with pytest.raises(SlmflowError, match="this model has none: choose another export="):
        export_folder(config, tiny, tmp_path / "onnx", tmp_path)


def test_an_adapter_cannot_be_merged_into_codes(tmp_path):
    with pytest.raises(SlmflowError, match=r"model\.adapter changes the weights: choose another export"):
        compose(model="smollm2_135m", export="gguf_cpu", overrides=f"model.adapter.path={tmp_path}")


def test_another_provider_is_refused_with_what_to_choose(tmp_path):
    with pytest.raises(
        SlmflowError, match="exporter gguf is for the CPU; for others choose export=int4_cuda"
    ):
        compose(export="gguf_cpu", overrides="export.provider=cuda")
