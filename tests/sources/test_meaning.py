"""A folder of transformers 4 and one of transformers 5 of the same model mean the same, and answer the same."""

import json
import shutil
import tarfile

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from slmflow.quality.alike import same_source
from slmflow.quality.reference import reference_logits
from slmflow.sources.meaning import meaning_of
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """As transformers 4.57.6 saved it."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests" / "packaging" / "champions_before.tar.xz") as archive:
        archive.extractall(folder)
    return folder / "pipeline" / "model"


@pytest.fixture(scope="module")
def new(old, tmp_path_factory):
    """The same, saved by today's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("new") / "model"
    AutoModelForCausalLM.from_pretrained(old, dtype="auto").save_pretrained(folder, max_shard_size="60KB")
    AutoTokenizer.from_pretrained(old).save_pretrained(folder)
    return folder


def test_other_files_of_the_same_model_mean_the_same_and_answer_the_same(old, new):
    said = [json.loads((folder / "config.json").read_text()) for folder in (old, new)]
    assert [one["transformers_version"].split(".")[0] for one in said] == ["4", "5"]
    assert "rope_parameters" in said[1]
    assert len(list(new.glob("*.safetensors"))) > 1
    assert meaning_of(old) == meaning_of(new)
    ids = list(range(5, 60))
    ours, theirs = (next(reference_logits(folder, [ids])) for folder in (old, new))
    assert np.array_equal(ours, theirs)


def weights(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def said(file, **fields):
    def change(folder):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


@pytest.mark.parametrize(
    "change",
    [
        weights,
        said("config.json", rope_theta=20_000.0),
        said("config.json", rms_norm_eps=1e-3),
        said("tokenizer_config.json", chat_template="{{ messages }}"),
        said("tokenizer_config.json", eos_token="<|endoftext|>"),
    ],
)
def test_what_changes_an_answer_changes_the_meaning(old, tmp_path, change):
    shutil.copytree(old, tmp_path / "changed")
    change(tmp_path / "changed")
    assert meaning_of(tmp_path / "changed") != meaning_of(old)


def test_evaluations_of_other_files_of_one_model_are_of_one_source():
    def of(digest, meaning):
        return {"source_digest": digest, "fidelity": {"source_meaning": meaning}}

    assert same_source(of("a", "m"), of("b", "m"))
    assert same_source(of("a", "m"), {"source_digest": "a", "fidelity": {}})
    assert not same_source(of("a", "m"), of("b", "n"))
    assert not same_source(of("a", ""), of("b", ""))
    assert not same_source({"source_digest": "a"}, {"source_digest": "b"})
