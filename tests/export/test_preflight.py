"""An export that cannot end is refused before it begins, with the figures."""

import shutil
from types import SimpleNamespace

import pytest

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.export import preflight
from slmflow.export.preflight import Weights, refuse_what_cannot_end, room_needed, weights_in
from slmflow.files import size_under
from slmflow.machine import available_memory

PHI3 = Weights(
    total=3_821_000_000, largest=98_500_000, embedding=98_500_000, moments=3_000_000_000, widest=8192
)


def test_the_estimate_is_read_from_the_headers(tiny):
    found = weights_in(tiny)
    assert found.embedding == 1024 * 64
    assert found.total * 4 <= size_under(tiny) <= found.total * 4.5 + 100_000


def test_a_model_of_3_8_billion_fits_into_8_gb_at_int4_and_not_at_fp32():
    int4 = room_needed(compose(export="int4_cpu").config.export, PHI3)
    assert 2.7e9 < int4.disk < 3.2e9
    assert 3.3e9 < int4.memory < 5e9, "loading it takes 3.3 GB"
    assert room_needed(compose(export="int4_gptq_cpu").config.export, PHI3).memory > 12e9
    assert room_needed(compose(export="fp32_cpu").config.export, PHI3).memory > 15e9
    assert room_needed(compose(export="optimum_fp32").config.export, PHI3).memory > 45e9


@pytest.mark.parametrize(
    ("memory", "disk", "said"),
    [
        (600e6, 1e12, r"needs 0\.7 GB of memory, and 0\.6 GB are free: end other programs"),
        (1e12, 1e5, r"needs 0\.0 GB of disk, and 0\.0 GB are free: make room below"),
    ],
)
def test_too_little_room_is_refused(tiny, tmp_path, monkeypatch, memory, disk, said):
    monkeypatch.setattr(preflight, "available_memory", lambda: memory)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=disk))
    with pytest.raises(SlmflowError, match=said):
        refuse_what_cannot_end(compose(export="fp32_cpu").config.export, tiny, tmp_path)


def test_enough_room_is_not(tiny, tmp_path):
    refuse_what_cannot_end(compose(export="fp32_cpu").config.export, tiny, tmp_path)
    assert available_memory() > 0


@pytest.mark.parametrize("export", ["int4_cuda", "fp16_dml"])
def test_a_graph_for_a_provider_that_is_not_here_is_refused(tiny, tmp_path, export):
    with pytest.raises(SlmflowError, match="has no such provider, so the graph could not be proven"):
        refuse_what_cannot_end(compose(export=export).config.export, tiny, tmp_path)
