"""Both LoggedModels, loaded by MLflow as users load them."""

import json
import os
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

from slmflow.compose import compose
from slmflow.config import PackageConfig
from slmflow.errors import SlmflowError
from slmflow.packaging.onnx_model import EXAMPLES, log_onnx_model
from slmflow.packaging.pipeline_model import dtype_of, log_pipeline_model
from slmflow.packaging.weights import weights_of
from slmflow.quality.candidates import load
from tests.conftest import ROOT

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest.fixture
def onnx_model(tiny_onnx, store, tmp_path):
    with mlflow.start_run():
        package = PackageConfig(max_tokens=4)
        return log_onnx_model(tiny_onnx, "tiny", package, tmp_path / "onnx_scratch", {"source": "test"})


@pytest.fixture
def predict(onnx_model):
    return mlflow.pyfunc.load_model(f"models:/{onnx_model}").predict


def test_a_prompt_and_a_chat_are_answered(predict):
    assert isinstance(predict({"prompt": "Once"})[0], str)
    reply = predict(CHAT)[0]
    assert reply["model"] == "tiny"
    assert reply["usage"]["completion_tokens"] <= 4


def test_every_row_of_a_table_is_answered_and_rows_do_not_touch_each_other(predict):
    prompts = ["Once", "The ferry", "Once"]
    answers = predict(pd.DataFrame({"prompt": prompts}))
    assert len(answers) == 3
    assert answers[0] == answers[2]
    assert [predict({"prompt": prompt})[0] for prompt in prompts] == list(answers)


def test_parameters_differ_by_row_and_gaps_take_the_default(predict):
    frame = pd.DataFrame([{"prompt": "Once", "max_tokens": 1}, {"prompt": "Once"}])
    short, default = predict(frame)
    assert default.startswith(short)
    assert len(default) > len(short)


@pytest.mark.parametrize("example", sorted(EXAMPLES))
def test_the_examples_that_are_logged_are_answered(predict, example):
    assert predict(EXAMPLES[example])


def test_a_bad_row_is_named_and_nothing_is_answered(predict):
    with pytest.raises(ValueError, match="row 1: top_p"):
        predict(pd.DataFrame([{"prompt": "Once"}, {"prompt": "Once", "top_p": 1.5}]))
    with pytest.raises(ValueError, match=r"row 2: .* context of 512"):
        predict(pd.DataFrame({"prompt": ["Once", "Once", "a" * 2000]}))


def test_one_row_that_holds_a_list_of_prompts_is_as_many_rows(predict):
    assert list(predict({"prompt": ["Once", "The ferry"]})) == [
        predict({"prompt": p})[0] for p in ("Once", "The ferry")
    ]


@pytest.mark.parametrize("request_body", [{"promt": "x"}, {"temperature": 1}])
def test_a_request_without_prompt_or_messages_is_refused_and_not_lost(predict, request_body):
    with pytest.raises(Exception, match="prompt"):
        predict(request_body)


def test_the_onnx_model_is_code_and_pins_and_never_torch(onnx_model):
    folder = weights_of(onnx_model)
    requirements = (folder / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in requirements} == {
        "mlflow",
        "onnxruntime-genai",
        "onnxruntime",
        "numpy",
        "tokenizers",
        "jinja2",
        "llguidance",
    }
    assert all("==" in line and "+" not in line for line in requirements)
    assert not list(folder.rglob("*.pkl"))
    card = yaml.safe_load((folder / "MLmodel").read_text())
    assert "torch" not in str(card["flavors"])
    assert card["metadata"]["source"] == "test"


@pytest.fixture
def pipeline_model(tiny, store, tmp_path):
    (tmp_path / "scratch").mkdir()
    with mlflow.start_run():
        return log_pipeline_model(tiny, "tiny", tmp_path / "scratch", {"source": "test"})


def test_the_pipeline_answers_chats_by_its_registered_signature(pipeline_model):
    model = mlflow.pyfunc.load_model(f"models:/{pipeline_model}")
    reply = model.predict({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})[0]
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "tiny", "the name, and no path of the machine that logged it"
    names = {column["name"] for column in model.metadata.signature.inputs.to_dict()}
    assert {"messages", "temperature", "max_tokens", "stop", "n", "stream"} <= names


def test_the_pipeline_keeps_the_dtype_of_its_weights(make_model, store, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "bf16"
    AutoModelForCausalLM.from_pretrained(make_model(), dtype=torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((make_model() / name).read_bytes())
    assert "bfloat16" in json.dumps(json.loads((folder / "config.json").read_text()))
    (tmp_path / "scratch").mkdir()
    with mlflow.start_run():
        model_id = log_pipeline_model(folder, "tiny", tmp_path / "scratch", {})
    assert mlflow.transformers.load_model(f"models:/{model_id}").model.dtype == torch.bfloat16
    measured = load("pipeline", f"models:/{model_id}")
    assert measured._model.dtype == torch.bfloat16, "measured in it as well, on whatever machine"
    assert measured.logprobs([1, 2, 3]).dtype == np.float32
    assert measured.answers([[1, 2, 3], [4, 5]], [4, 4]) == measured.answers([[1, 2, 3], [4, 5]], [4, 4])


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
def test_weights_whose_dtype_config_json_does_not_state_keep_their_own(make_model, tmp_path, stored):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_model(), dtype=getattr(torch, stored))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert dtype_of(tmp_path) == stored == (config.pop("dtype", None) or config.pop("torch_dtype"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert dtype_of(tmp_path) == stored


def test_both_models_load_without_a_network(onnx_model, tmp_path):
    program = f"import mlflow; m = mlflow.pyfunc.load_model('models:/{onnx_model}'); print(m.predict({{'prompt': 'Once'}}))"
    env = {
        **os.environ,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_model_whose_weights_are_gone_is_never_taken_for_whole(onnx_model):
    folder = weights_of(onnx_model)
    for path in folder.rglob("*.onnx"):
        path.unlink()
    with pytest.raises(SlmflowError, match="has no weights"):
        weights_of(onnx_model)
    with pytest.raises(SlmflowError, match="log it again"):
        weights_of("m-0123456789abcdef0123456789abcdef")


def test_no_logged_model_names_the_folders_it_was_made_from(pipeline_model, onnx_model, tiny_onnx, tiny):
    for model_id in (pipeline_model, onnx_model):
        text = (weights_of(model_id) / "MLmodel").read_text()
        for path in (ROOT, tiny_onnx, tiny):
            assert str(path) not in text


def test_the_package_defaults_are_those_of_the_configuration(tiny_onnx, store, tmp_path):
    package = compose(overrides="package.max_tokens=2").config.package
    with mlflow.start_run():
        model_id = log_onnx_model(tiny_onnx, "tiny", package, tmp_path / "scratch", {})
    reply = mlflow.pyfunc.load_model(f"models:/{model_id}").predict({"messages": CHAT["messages"]})[0]
    assert reply["usage"]["completion_tokens"] <= 2
