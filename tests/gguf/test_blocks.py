"""Codes, scales and offsets of every type are those of GGML, on random valid blocks."""

import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from slmflow.gguf.blocks import LAYOUTS, packed_codes
from tests.gguf_maker import BLOCKS, TYPES, random_blocks


def scales_and_offsets(layout, raw):
    """Of each group, in fp32 as the graph computes them."""
    scales = layout.d(raw).astype(np.float32)
    if layout.scale_codes is not None:
        scales = scales * layout.scale_codes(raw).astype(np.float32)
    if layout.m is None:
        return scales, None
    minima = layout.m(raw).astype(np.float32)
    if layout.minimum_codes is not None:
        minima = -minima * layout.minimum_codes(raw).astype(np.float32)
    return scales, np.float32(layout.centre) * scales + minima


@pytest.mark.parametrize("kind", LAYOUTS)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-4, 0.02, 3.0]))
def test_they_give_ggmls_weights_to_one_unit_in_the_last_place(kind, seed, size):
    packed, values = random_blocks(kind, 3, 512, np.random.default_rng(seed), size)
    layout, (_, bytes_of_block) = LAYOUTS[kind], BLOCKS[kind]
    raw = packed.reshape(-1, bytes_of_block)
    scales, offsets = scales_and_offsets(layout, raw)
    codes = layout.codes(raw).reshape(-1, layout.group).astype(np.float32) - layout.middle
    ours = codes * scales.reshape(-1, 1) + (0 if offsets is None else offsets.reshape(-1, 1))
    distance = np.abs(ours.reshape(-1) - values.reshape(-1))
    assert np.all(distance <= np.spacing(np.abs(values.reshape(-1))))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_codes_stay_around_their_middle(kind):
    packed, _ = random_blocks(kind, 4, 512, np.random.default_rng(0))
    layout, (_, bytes_of_block) = LAYOUTS[kind], BLOCKS[kind]
    codes = layout.codes(packed.reshape(-1, bytes_of_block)).astype(int) - layout.middle
    width = {"Q4": 8, "Q5": 16, "Q6": 32, "Q8": 128}[kind[:2]]
    assert -width <= codes.min() < 0 < codes.max() <= width - 1


def test_the_types_are_all_that_can_be_read_but_the_floats():
    assert set(LAYOUTS) == set(TYPES) - {"F32", "F16", "BF16"}


def test_two_4_bit_codes_share_a_byte_the_first_one_low():
    assert packed_codes(np.array([[1, 2, 3, 15]], np.uint8), 4).tolist() == [[0x21, 0xF3]]
    assert packed_codes(np.array([[1, 200]], np.uint8), 8).tolist() == [[1, 200]]


def test_the_maker_makes_what_ggml_can_read():
    for kind in TYPES:
        packed, values = random_blocks(kind, 2, 256, np.random.default_rng(1))
        np.testing.assert_array_equal(dequantize(packed, TYPES[kind]), values)
        assert np.isfinite(values).all()
        assert 0.005 < np.abs(values).mean() < 0.05
