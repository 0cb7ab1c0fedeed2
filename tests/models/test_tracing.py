"""Each call of a packaged model leaves a trace that says what was asked, answered and spent."""

import mlflow
import pytest

from slmflow.config import PackageConfig
from slmflow.packaging.onnx_model import log_onnx_model

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest.fixture
def model_id(tiny_onnx, store, tmp_path):
    with mlflow.start_run():
        return log_onnx_model(tiny_onnx, "tiny", PackageConfig(), tmp_path / "scratch", {})


def traces_after(model_id, *requests, **config):
    model = mlflow.pyfunc.load_model(f"models:/{model_id}", model_config=config)
    answers = [model.predict(request)[0] for request in requests]
    mlflow.flush_trace_async_logging()
    return answers, mlflow.search_traces(return_type="list")


def test_a_trace_holds_the_request_as_it_came_its_answer_and_its_tokens(model_id):
    (answer,), (trace,) = traces_after(model_id, CHAT)
    (span,) = trace.data.spans
    assert span.inputs == CHAT
    assert span.outputs == answer
    assert trace.info.token_usage["output_tokens"] == answer["usage"]["completion_tokens"]
    assert trace.info.trace_metadata["mlflow.modelId"] == model_id


def test_what_a_trace_holds_can_be_asked_again_with_the_same_answer(model_id):
    asked = {"prompt": "Once", "max_tokens": 6, "temperature": 1.0, "seed": 7, "deterministic": True}
    (answer,), (trace,) = traces_after(model_id, asked)
    again = mlflow.pyfunc.load_model(f"models:/{model_id}").predict(trace.data.spans[0].inputs)
    assert again == [answer]


def test_tracing_is_off_by_its_setting(model_id):
    _, traces = traces_after(model_id, CHAT, tracing=False)
    assert traces == []
