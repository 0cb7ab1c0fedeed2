"""A hub model with an adapter, through `mlflow run`: one merged model for every step, and its pin printed."""

import json

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save

from tests.conftest import run_project, store_uri
from tests.hub_stand_in import COMMIT, Repo, hub, repo_of

NAME = "model.layers.0.self_attn.o_proj"


def lora(seed):
    """A repository with an adapter of one weight."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"base_model.model.{NAME}.lora_{side}.weight": torch.randn(shape, generator=generator)
        for side, shape in {"A": (2, 64), "B": (64, 2)}.items()
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    return Repo(
        {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(tensors)}
    )


@pytest.mark.slow
def test_every_step_sees_the_merged_model_and_the_adapters_commit_is_pinned(tiny, tmp_path):
    words = "model.source.repo=org/tiny model.adapter.repo=org/lora model.licence=MIT evaluate=quick export=fp32_cpu"
    with hub(org__tiny=repo_of(tiny), org__lora=lora(1)) as endpoint:
        done = run_project(
            ["-P", "model=hub", "-P", f"overrides={words}"],
            tmp_path,
            HF_ENDPOINT=endpoint,
            HF_HOME=str(tmp_path / "hf"),
            HF_HUB_OFFLINE="0",
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hub:org/lora: merged into 1 weights" in done.stdout
    assert f"model.adapter.revision={COMMIT}" in done.stdout
    assert "KL 0" in done.stdout or "e-1" in done.stdout, "export and reference are of the same weights"
    mlflow.set_tracking_uri(store_uri(tmp_path))
    (fetch,) = MlflowClient().search_runs(["0"], "tags.slmflow.step = 'fetch'")
    (pipeline,) = MlflowClient().search_runs(["0"], "tags.slmflow.step = 'log_pipeline'")
    mlflow.set_tracking_uri(None)
    folder = fetch.info.artifact_uri
    plain = load_file(f"{folder}/source/model.safetensors")[f"{NAME}.weight"]
    merged = load_file(f"{folder}/huggingface/model.safetensors")[f"{NAME}.weight"]
    assert not torch.equal(plain, merged)
    model = pipeline.outputs.model_outputs[0].model_id
    (shipped,) = (tmp_path / "mlruns").rglob(f"{model}/**/model.safetensors")
    assert torch.equal(load_file(shipped)[f"{NAME}.weight"], merged)
