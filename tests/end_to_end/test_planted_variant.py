"""A graph with one layer's scales doubled: its perplexity is close, and the gate refuses it all the same."""

import shutil

import mlflow
import numpy as np
import onnx
import pytest

from slmflow.compose import compose
from slmflow.export import export_folder
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.quality import reference
from slmflow.quality.candidates import load
from slmflow.quality.evaluation import Reference, measure_fidelity
from slmflow.quality.journal import Journal
from slmflow.quality.windows import windows_of
from slmflow.registry.gate import judge
from slmflow.sources import take
from slmflow.sources.huggingface import make_huggingface
from slmflow.text import shipped_text

pytestmark = pytest.mark.slow
SCALES = "model.layers.3.attn.o_proj.MatMul.weight_scales"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("planted", artifact_location=f"{folder}/mlruns")
    mlflow.set_experiment("planted")
    config = compose(model="smollm2_135m", export="int8_cpu").config
    taken = take(config.model.source, folder / "source")
    make_huggingface(taken.folder, folder / "huggingface")
    export_folder(config.export, folder / "huggingface", folder / "good", folder / "scratch", None)
    plant(folder / "good", folder / "bad")
    return folder


def plant(good, bad):
    """Double one layer's scales in the file that holds them."""
    bad.mkdir()
    for path in good.iterdir():
        shutil.copyfile(path, bad / path.name)
    graph = onnx.load(str(good / "model.onnx"), load_external_data=False).graph
    (scales,) = (one for one in graph.initializer if one.name == SCALES)
    place = {entry.key: entry.value for entry in scales.external_data}
    values = np.memmap(
        bad / place["location"], np.float32, "r+", int(place["offset"]), int(place["length"]) // 4
    )
    values *= 2
    values.flush()


def evaluation(folder, name, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    config = compose(model="smollm2_135m", export="int8_cpu").config
    with mlflow.start_run():
        model_id = log_onnx_model(folder / name, "smollm2-135m", config.package, folder / f"log-{name}", {})
    candidate = load("onnx", f"models:/{model_id}")
    ids = candidate.encode(shipped_text())
    windows = windows_of(ids, 512, 3, candidate.encode(""))
    place = folder / "logprobs.npy"
    logs = reference.scored_logprobs(folder / "huggingface", windows, place)
    figures, _ = measure_fidelity(candidate, windows, Reference(logs, []), Journal(name))
    return {
        "candidate": "onnx",
        "parameters": 135_000_000,
        "precision": "int8",
        "fidelity": figures,
        "cost": {"decode_tokens_per_second": 1.0},
    }


def test_a_planted_bad_variant_is_refused_though_its_perplexity_is_close(folder, monkeypatch):
    gate = compose().config.gate
    good, bad = (evaluation(folder, name, monkeypatch) for name in ("good", "bad"))
    assert bad["fidelity"]["perplexity_ratio"] < 1.05
    verdict = judge(bad, gate)
    assert {check.name for check in verdict.misses} == {"kl_mean", "top1_agreement"}
    assert judge(good, gate).passed
    assert good["fidelity"]["decode_kl_mean"] < 0.02 < bad["fidelity"]["decode_kl_mean"]
