"""What the model builder has no right graph of is refused by its config.json, before anything is downloaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slmflow.errors import SlmflowError
from slmflow.export.supported import BUILDER, refuse_unsupported
from tests.conftest import ROOT, run_warm
from tests.families import FAMILIES
from tests.hub_stand_in import Repo, hub

PUBLIC = json.loads((Path(__file__).parent / "public_configs.json").read_text())
"""What the config.json of published models says of their architecture."""
WHY = {
    "openai/gpt-oss-20b": "20 B parameters, in MXFP4: llama.cpp serves it",
    "ibm-granite/granite-4.0-h-small": "experts beside its shared layers",
    "ibm-granite/granite-4.0-h-350m": "Mamba layers",
    "google/gemma-4-E2B-it": "embeddings by layer (hidden_size_per_layer_input, as E2B and E4B have)",
    "google/gemma-4-26B-A4B-it": "experts with GeGLU",
    "google/gemma-3n-E2B-it": "embeddings by layer",
    "google/embeddinggemma-300m": "attention in both directions",
}
PROGRAM = """
import sys
from slmflow.config import HubSource
from slmflow.errors import SlmflowError
from slmflow.workflow.beforehand import refuse_model
for repo in sys.argv[1:]:
    try:
        refuse_model("genai", HubSource(repo=repo))
    except SlmflowError as error:
        print(error)
"""


@pytest.mark.parametrize("name", PUBLIC)
def test_a_published_model_that_cannot_be_taken_is_refused_in_one_line(name):
    with pytest.raises(SlmflowError) as refused:
        refuse_unsupported("genai", PUBLIC[name])
    said = str(refused.value)
    assert "\n" not in said
    assert PUBLIC[name]["architectures"][0] in said
    assert WHY.get(name, "it is none of ") in said
    assert "traced_fp32" in said or "llama.cpp" in said or "take gemma" in said, "and what would do"


def test_other_exporters_refuse_by_themselves():
    refuse_unsupported("traced", PUBLIC["allenai/OLMo-2-0425-1B"])


def test_every_family_that_is_tried_is_taken_and_every_one_that_is_taken_is_tried():
    assert {tiny.kind for tiny in FAMILIES.values()} == set(BUILDER)


def test_nothing_but_the_config_is_downloaded_of_what_is_refused(tmp_path):
    repos = {
        name.replace("/", "__"): Repo(
            {"config.json": json.dumps(config).encode(), "model.safetensors": b"weights"}
        )
        for name, config in PUBLIC.items()
    }
    with hub(**repos) as endpoint:
        done = ask(endpoint, tmp_path, [sys.executable, "-c", PROGRAM, *PUBLIC])
    assert len(done.stdout.splitlines()) == len(PUBLIC), done.stderr
    for repo in repos.values():
        assert not [path for _, path, _ in repo.requests if "safetensors" in path]


def test_a_run_is_refused_before_any_step(tmp_path):
    name = "allenai/OLMo-2-0425-1B"
    repo = Repo({"config.json": json.dumps(PUBLIC[name]).encode(), "model.safetensors": b"weights"})
    with hub(allenai__OLMo_2=repo) as endpoint:
        words = ["-e", "register", "-P", "model=allenai/OLMo_2", "-P", "export=fp32_cpu"]
        done = run_warm(words, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
    assert done.returncode == 1
    assert "Olmo2ForCausalLM (model_type=olmo2) cannot be exported by the model builder" in done.stderr
    assert not [path for _, path, _ in repo.requests if "safetensors" in path]


def ask(endpoint, home, command):
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
