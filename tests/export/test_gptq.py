"""Calibrated weights lose less of what the layer computes, and are laid out as the kernel reads them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slmflow.compose import compose
from slmflow.deferred import leaf_names
from slmflow.export import export_folder
from slmflow.export.calibration import TEXT, second_moments
from slmflow.export.gptq import gptq, inverse_factor
from slmflow.export.nbits import Recipe, quantise
from slmflow.export.proofs import prove
from slmflow.text import shipped_text


def values_of(parts, rows, block_size):
    """The weight (K, N) that 4-bit parts stand for."""
    codes, zeros = parts["codes"], parts["zero_points"]
    columns, blocks, _ = codes.shape
    codes = np.stack([codes & 15, codes >> 4], -1).reshape(columns, blocks, block_size).astype(np.float32)
    zeros = np.stack([zeros & 15, zeros >> 4], -1).reshape(columns, -1)[:, :blocks, None].astype(np.float32)
    return ((codes - zeros) * parts["scales"][..., None]).reshape(columns, -1)[:, :rows].T


def correlated(rows, seed):
    """Inputs of a layer that lie near a space of a quarter of its dimensions, and their moments."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(rows, max(1, rows // 4)))
    inputs = generator.normal(size=(1000, mixing.shape[1])) @ mixing.T
    inputs += 0.1 * generator.normal(size=inputs.shape)
    return inputs, (2 / len(inputs)) * inputs.T @ inputs


@given(
    rows=st.integers(16, 100),
    columns=st.integers(1, 9),
    block_size=st.sampled_from([16, 32]),
    seed=st.integers(0, 9),
)
def test_any_weight_is_laid_out_by_columns_and_blocks(rows, columns, block_size, seed):
    weight = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    codes, scales, zeros = gptq(weight, inverse_factor(correlated(rows, seed)[1]), 4, block_size)
    parts = quantise(weight, Recipe("gptq", 4, block_size, True), inverse_factor(correlated(rows, seed)[1]))
    blocks = np.arange(rows) // block_size
    meant = (codes.astype(np.float32) - zeros[blocks]) * scales[blocks]
    assert np.array_equal(values_of(parts, rows, block_size), meant)


@pytest.mark.parametrize("seed", range(3))
def test_what_the_layer_computes_is_twice_closer_than_by_rounding(seed):
    inputs, moments = correlated(128, seed)
    weight = np.random.default_rng(seed).normal(size=(128, 32)).astype(np.float32)

    def error(method):
        parts = quantise(weight, Recipe(method, 4, 32, False), inverse_factor(moments))
        return np.linalg.norm(inputs @ (weight - values_of(parts, 128, 32)))

    assert error("gptq") < error("rtn") / 2


def test_without_correlation_or_inputs_it_is_rounding():
    weight = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    rounded = quantise(weight, Recipe("rtn", 4, 32, False))
    for moments in (np.eye(64), np.zeros((64, 64))):
        fitted = quantise(weight, Recipe("gptq", 4, 32, False), inverse_factor(moments))
        assert np.allclose(values_of(fitted, 64, 32), values_of(rounded, 64, 32), atol=1e-5)


def test_the_moments_are_those_of_each_layers_inputs(tiny):
    """Against transformers' own model, loaded whole, on the same text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    moments = second_moments(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    name = "model.layers.1.mlp.down_proj"
    seen = []
    model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    ids = AutoTokenizer.from_pretrained(tiny)(TEXT.read_text())["input_ids"]
    with torch.inference_mode():
        for start in range(0, len(ids), 512):
            model(torch.tensor([ids[start : start + 512]]))
    x = torch.cat(seen)
    assert len(x) == len(ids) > 1000
    assert torch.allclose(torch.tensor(moments[f"{name}.weight"]), 2 / len(x) * x.T @ x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_a_calibrated_export_loads_and_is_faithful_tied_or_not(make_model, tmp_path, tied):
    model = make_model(f"model.source.architecture=llama model.source.tied={tied}")
    config = compose(model="tiny_phi3", export="int4_gptq_cpu").config.export
    export_folder(config, model, tmp_path / "onnx", tmp_path)
    assert max(prove(tmp_path / "onnx", model, config.precision)["logits"].values()) < 1e-3


def test_the_calibration_text_is_not_the_text_that_is_measured():
    lines = {line for line in TEXT.read_text().splitlines() if len(line) > 30}
    assert lines
    assert not lines & set(shipped_text().splitlines())


def test_a_deferred_tensor_knows_what_it_is_made_of(tiny):
    from slmflow.deferred import deferred_model

    weights = dict(deferred_model(tiny).named_parameters())
    first, second = (weights[f"model.layers.{i}.mlp.down_proj.weight"].data for i in (0, 1))
    made = torch.cat([first, second]).T
    assert leaf_names(made) == [f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)]
    assert leaf_names(torch.zeros(2)) == []
