"""A loaded runtime of the tiny model, once for each engine."""

import pytest

from slmflow.models.slm_runtime.runtime import Options, Runtime
from slmflow.models.slm_runtime.sampling import Sampling

ENGINES = ("generate", "continuous")


@pytest.fixture(scope="package", params=ENGINES)
def runtime(request, tiny_onnx):
    made = Runtime(tiny_onnx, Options("tiny", engine=request.param, sampling=Sampling(max_tokens=8)))
    yield made
    made.close()


@pytest.fixture(scope="package")
def ask(runtime):
    """The whole answer to a request's fields."""

    def asked(kind=None, **body):
        return runtime.answer(runtime.read(body, kind)).whole()

    return asked
