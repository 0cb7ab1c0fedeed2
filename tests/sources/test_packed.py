"""AWQ and GPTQ checkpoints: the export has their codes, pipeline and reference the weights that these mean."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array
from safetensors.torch import load_file, save_file

from slmflow.compose import compose
from slmflow.config import Precision
from slmflow.errors import SlmflowError
from slmflow.export import export_folder
from slmflow.export.proofs import prove
from slmflow.sources.huggingface import codes_in
from slmflow.sources.packed import AWQ_ORDER, unpack_awq, unpack_folder, unpack_gptq

GROUP = 32


def words(codes, order=range(8)):
    """Eight codes of the last axis in an int32, the code at `order[i]` in nibble i."""
    runs = codes.reshape(*codes.shape[:-1], -1, 8)[..., list(order)].to(torch.int64)
    packed = (runs << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def quantised(weight):
    """Codes (in, out), zero points and scales (groups, out) of a weight, rounded to nearest by group."""
    grouped = weight.T.reshape(-1, GROUP, weight.shape[0])
    low, high = grouped.amin(1), grouped.amax(1)
    scales = ((high - low) / 15).to(torch.float16)
    zeros = (-low / scales.float()).round().clamp(0, 15)
    codes = (grouped / scales.float()[:, None] + zeros[:, None]).round().clamp(0, 15)
    return codes.reshape(weight.T.shape).to(torch.int32), zeros.to(torch.int32), scales


def packed(method, weight):
    """The tensors of one module, and the weight that they stand for."""
    codes, zeros, scales = quantised(weight)
    each = GROUP
    meant = (codes - zeros.repeat_interleave(each, 0)).float() * scales.float().repeat_interleave(each, 0)
    meant = meant.to(torch.float16).T
    if method == "awq":
        return {
            "qweight": words(codes, AWQ_ORDER),
            "qzeros": words(zeros, AWQ_ORDER),
            "scales": scales,
        }, meant
    return {
        "qweight": words(codes.T.contiguous()).T.contiguous(),
        "qzeros": words((zeros - 1) & 15),
        "scales": scales,
        "g_idx": torch.arange(len(codes), dtype=torch.int32) // GROUP,
    }, meant


@pytest.fixture(params=["awq", "gptq", "awq with its head"])
def checkpoint(request, make_model, tmp_path):
    """A folder of codes, the weights that they mean by name, and the codes by module."""
    method, _, head = request.param.partition(" ")
    model = make_model("model.source.architecture=llama")
    folder = shutil.copytree(model, tmp_path / "packed")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": GROUP}
    config["quantization_config"] |= {"zero_point": True, "version": "gemm"} if method == "awq" else {}
    config["quantization_config"] |= {"desc_act": False, "sym": False} if method == "gptq" else {}
    (folder / "config.json").write_text(json.dumps(config))
    tensors, meant, codes = {}, {}, {}
    for name, weight in load_file(model / "model.safetensors").items():
        if "_proj" in name or (head and "lm_head" in name):
            module = name.removesuffix(".weight")
            parts, meant[name] = packed(method, weight)
            codes[module] = quantised(weight)[0]
            tensors |= {f"{module}.{part}": value for part, value in parts.items()}
        else:
            tensors[name] = meant[name] = weight
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, meant, codes


def test_the_unpacked_folder_has_the_weights_that_the_codes_mean(checkpoint, tmp_path):
    folder, meant, _ = checkpoint
    unpack_folder(folder, tmp_path / "unpacked")
    found = {}
    for path in (tmp_path / "unpacked").glob("*.safetensors"):
        found |= load_file(path)
    assert found.keys() == meant.keys()
    for name, weight in meant.items():
        assert torch.equal(found[name], weight), name
    assert "quantization_config" not in json.loads((tmp_path / "unpacked" / "config.json").read_text())


def test_the_exported_graph_has_the_checkpoints_codes_and_is_the_same_model(checkpoint, tmp_path):
    folder, _, codes = checkpoint
    unpack_folder(folder, tmp_path / "unpacked")
    export_folder(compose(export="int4_cpu").config.export, folder, tmp_path / "onnx", tmp_path)
    proofs = prove(tmp_path / "onnx", tmp_path / "unpacked", Precision.int4)
    assert max(proofs["logits"].values()) < 1e-3
    graph = onnx.load(tmp_path / "onnx" / "model.onnx").graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    (node,) = [n for n in graph.node if n.op_type == "MatMulNBits" and "layers.1/mlp/down" in n.name]
    stored = to_array(weights[node.input[1]])
    flat = np.stack([stored & 15, stored >> 4], -1).reshape(len(stored), -1)
    assert np.array_equal(flat, codes["model.layers.1.mlp.down_proj"].T.numpy())


def test_inputs_of_gptq_may_be_in_any_group():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (64, 8), generator=generator, dtype=torch.int32)
    zeros = torch.randint(1, 16, (2, 8), generator=generator, dtype=torch.int32)
    scales = torch.rand(2, 8, generator=generator)
    groups = torch.randint(0, 2, (64,), generator=generator, dtype=torch.int32)
    expected = (codes - zeros[groups]) * scales[groups]
    found = unpack_gptq(words(codes.T.contiguous()).T, words(zeros - 1), scales, groups)
    assert torch.equal(found, expected.T)


def test_awq_keeps_its_columns_in_its_own_order():
    codes = torch.arange(8, dtype=torch.int32).reshape(1, 8)
    word = words(codes, AWQ_ORDER)
    assert word.item() == 0x75316420
    assert unpack_awq(
        word, torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 8)
    ).flatten().tolist() == list(range(8))


@pytest.mark.parametrize(
    ("quantisation", "said"),
    [
        ({"quant_method": "awq", "bits": 8}, "quantised by awq at 8 bits cannot be read"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}, "checkpoint_format 'gptq_v2'"),
        ({"quant_method": "bitsandbytes"}, "quantised by bitsandbytes at None bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "awq version 'gemv' cannot be read"),
    ],
)
def test_another_kind_of_checkpoint_is_refused(tiny, tmp_path, quantisation, said):
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantisation}))
    assert codes_in(tmp_path) is None, "not for a folder without safetensors"
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SlmflowError, match=said):
        codes_in(tmp_path)
    assert codes_in(tiny) is None
