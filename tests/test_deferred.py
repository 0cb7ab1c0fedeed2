"""A deferred weight is moved about without being read, and then has the values that it would have had."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from slmflow.deferred import DeferredTensor, Leaf, deferred_model, stored
from slmflow.errors import SlmflowError

MOVES = {
    "transpose": lambda t: t.T,
    "twice": lambda t: torch.cat([t, t], dim=0),
    "tail": lambda t: t[t.shape[0] // 2 :],
    "halves": lambda t: torch.split(t, (t.shape[0] + 1) // 2, dim=0)[-1],
    "first": lambda t: t.unsqueeze(0)[0],
    "flat": lambda t: t.reshape(-1).reshape(t.shape),
    "row": lambda t: t[:1],
}
ARITHMETIC = {"add": lambda t: t + 1, "scale": lambda t: t * 0.3, "exp": torch.exp}


@pytest.fixture(scope="module")
def leaf(tmp_path_factory):
    """A bf16 matrix in a file: the deferred one, and its values in fp32."""
    path = tmp_path_factory.mktemp("leaf") / "model.safetensors"
    values = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    save_file({"w": values}, path)
    return DeferredTensor(torch.empty(6, 4, device="meta"), Leaf(path, "w")), values.float()


@given(names=st.lists(st.sampled_from(sorted(MOVES | ARITHMETIC)), max_size=6))
def test_any_chain_of_operations_gives_the_values_that_it_gives_on_the_weights_themselves(leaf, names):
    deferred, real = leaf
    for name in names:
        deferred, real = (MOVES | ARITHMETIC)[name](deferred), (MOVES | ARITHMETIC)[name](real)
        assert isinstance(deferred, DeferredTensor)
        assert deferred.shape == real.shape
    assert torch.equal(stored(deferred).float(), real), "bf16 widened late is bf16 widened early"


def test_what_is_only_moved_about_stays_in_the_files_dtype(leaf):
    deferred, _ = leaf
    assert deferred.dtype is torch.float32
    assert stored(torch.cat([deferred, deferred]).T).dtype is torch.bfloat16
    assert stored(deferred + 1).dtype is torch.float32


def test_a_value_that_is_asked_for_is_read(leaf):
    deferred, real = leaf
    assert deferred[0, 0].item() == real[0, 0].item()


def test_a_weight_cannot_be_changed_in_place(leaf):
    with pytest.raises(NotImplementedError, match="in place"):
        leaf[0].add_(1)


def test_a_model_of_deferred_weights_has_those_of_the_loaded_model(tiny):
    from transformers import AutoModelForCausalLM

    loaded = dict(AutoModelForCausalLM.from_pretrained(tiny).named_parameters())
    deferred = dict(deferred_model(tiny).named_parameters())
    assert deferred.keys() == loaded.keys()
    for name, parameter in loaded.items():
        assert torch.equal(stored(deferred[name].data), parameter.detach()), name


def test_a_tensor_that_is_missing_is_named(tiny, tmp_path):
    from safetensors.torch import load_file

    for path in tiny.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tiny / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(SlmflowError, match=r"no tensor model\.layers\.1\.mlp\.down_proj\.weight of shape"):
        deferred_model(tmp_path)
