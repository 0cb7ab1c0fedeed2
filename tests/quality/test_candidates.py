"""The two packaged models behind one face, with the tiny real models."""

import mlflow
import numpy as np
import pytest

from slmflow.config import PackageConfig
from slmflow.config.export import Engine
from slmflow.packaging.onnx_model import log_onnx_model
from slmflow.packaging.pipeline_model import log_pipeline_model
from slmflow.quality.candidates import load

CONTEXT = [1, *range(40, 300)]
CONTINUATIONS = [[7], [7, 9, 11], [5, 9], [300, 301, 302, 303, 304]]


@pytest.fixture(params=["pipeline", "continuous", "generate"])
def candidate(request, store, tiny, tiny_onnx, tmp_path):
    with mlflow.start_run():
        if request.param == "pipeline":
            model_id = log_pipeline_model(tiny, "tiny", tmp_path / "scratch", {})
        else:
            package = PackageConfig(engine=Engine(request.param))
            model_id = log_onnx_model(tiny_onnx, "tiny", package, tmp_path / "scratch", {})
    return load("pipeline" if request.param == "pipeline" else "onnx", f"models:/{model_id}")


def test_continuations_of_a_context_are_what_whole_texts_give(candidate):
    for chosen in (CONTINUATIONS, CONTINUATIONS[:1], CONTINUATIONS[1:2]):
        found = candidate.continuation_logprobs(CONTEXT, chosen)
        for ids, logs in zip(chosen, found, strict=True):
            whole = candidate.logprobs(CONTEXT + ids)[len(CONTEXT) - 1 : -1]
            assert logs.shape == whole.shape == (len(ids), whole.shape[1])
            np.testing.assert_allclose(logs, whole, atol=2e-4)


def test_continuations_are_the_same_to_the_last_digit_whatever_was_asked_before(candidate):
    first = candidate.continuation_logprobs(CONTEXT, CONTINUATIONS)
    candidate.continuation_logprobs(CONTEXT[:50], CONTINUATIONS[::-1])
    again = candidate.continuation_logprobs(CONTEXT, CONTINUATIONS)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
