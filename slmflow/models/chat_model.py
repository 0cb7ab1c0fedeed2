"""The MLflow model around an exported ONNX folder: prompt in, text out; chat in, chat out.

Logged by path (models from code, no pickle) with the package `slm_runtime` beside it:

    model = mlflow.pyfunc.load_model("models:/smollm2-135m-onnx@champion")
    model.predict({"prompt": "The capital of Spain is"})
    model.predict({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 32})
    for chunk in model.predict_stream({"messages": [{"role": "user", "content": "Hello!"}]}): ...

With `params={"requests": "json"}` each prompt is a whole request in JSON, and each row gets a report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray
from slm_runtime.errors import BadRequestError
from slm_runtime.reports import report_on
from slm_runtime.request import Request, plain
from slm_runtime.runtime import Options, Runtime
from slm_runtime.sampling import Sampling
from slm_runtime.scheduler import Limits
from slm_runtime.tracing import record, traced


class ChatModel(PythonModel):
    """Answers every row of its input, several at once; rows share the weights and nothing else."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the folder under the artifact `onnx` with the logged model_config."""
        self.tracing = bool(context.model_config["tracing"])
        self.runtime = Runtime(Path(context.artifacts["onnx"]), options_of(context.model_config))

    # MLflow reads the hint of model_input as a schema: a table is the one that it leaves to the signature.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str | dict[str, Any]]:
        """One answer a row: text where the row has `prompt`, an OpenAI object where it has `messages`.

        Raises ValueError naming the row and the field that cannot be answered, before any row is. With
        the parameter requests=json nothing is raised for a row: its report says why it has no answer.
        """
        if (params or {}).get("requests") == "json":
            return self._in_threads(lambda body: report_on(self.runtime, body), list(model_input["prompt"]))
        requests = self._requests(model_input)
        if any(request.stream for request in requests):
            raise BadRequestError("stream=true: predict answers in one piece; call predict_stream", "stream")
        if len(requests) == 1:
            return [self._answer(requests[0])]
        return self._in_threads(self._answer, requests)

    def predict_stream(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Iterator[str | dict[str, Any]]:
        """Pieces of text for a prompt, `chat.completion.chunk` objects for messages; one row only."""
        requests = self._requests(model_input)
        if len(requests) != 1:
            raise BadRequestError(f"predict_stream answers one row, and the input has {len(requests)}")
        return self.runtime.stream(requests[0])

    def logprobs(self, ids: list[int], chunk: int = 128) -> NDArray[np.float32]:
        """Natural log-probabilities of every next token, shape (len(ids), vocabulary), of what ships.

        A chunk of 1 takes the path of decoding, whose quantised kernels differ from those of prefill.
        """
        logits: NDArray[np.float32] = self.runtime.scheduler.call(lambda engine: engine.score(ids, chunk))
        for row in logits:  # one by one: a copy of all would be as large again
            row -= row.max()
            row -= np.log(np.exp(row).sum())
        return logits

    def generate_exactly(self, ids: list[int], new_tokens: int) -> Iterator[int]:
        """A greedy answer of exactly `new_tokens`, token by token."""
        return self.runtime.tokens(ids, Sampling(max_tokens=new_tokens, ignore_eos=True))

    def token_times(self, ids: list[int], new_tokens: int) -> list[float]:
        """Seconds from the call to each token of a greedy answer of exactly `new_tokens`."""
        return self.runtime.token_times(ids, Sampling(max_tokens=new_tokens, ignore_eos=True))

    def record_trace(self, request: Request, answer: Any, whole: Any, began: int) -> None:
        """Leave a trace of a call that a server made through `runtime`; `began` in ns since 1970."""
        record(self.runtime, request, answer, whole, began)

    def _in_threads(self, work: Callable[[Any], Any], rows: list[Any]) -> list[Any]:
        """What `work` makes of each row, as many at once as the engine decodes together."""
        with ThreadPoolExecutor(max(1, min(len(rows), self.runtime.options.limits.rows))) as pool:
            # Each within a copy of this thread's context, which says of which model a trace is.
            waiting = [pool.submit(copy_context().run, work, row) for row in rows]
            return [answer.result() for answer in waiting]

    def _requests(self, table: pd.DataFrame) -> list[Request]:
        if not len(table.columns):
            raise BadRequestError("the input has neither `prompt` nor `messages`")
        requests = []
        for number, row in enumerate(rows_of(table)):
            try:
                requests.append(self.runtime.read(row))
            except BadRequestError as error:
                raise BadRequestError(f"row {number}: {error}", error.param) from None
        return requests

    def _answer(self, request: Request) -> str | dict[str, Any]:
        if not self.tracing:
            return self.runtime.answer(request).whole()
        return traced(self.runtime, request)


def options_of(config: dict[str, Any]) -> Options:
    """The logged model_config as options."""
    return Options(
        name=str(config["served_name"]),
        engine=str(config["engine"]),
        threads=int(config["threads"]),
        sampling=Sampling(
            max_tokens=int(config["max_tokens"]),
            temperature=float(config["temperature"]),
            top_p=float(config["top_p"]),
        ),
        deterministic=bool(config["deterministic"]),
        timeout=float(config["timeout"]),
        limits=Limits(
            rows=int(config["rows"]),
            waiting=int(config["waiting"]),
            kv_bytes=int(config["kv_megabytes"]) * 10**6,
        ),
    )


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts. MLflow hands `{"prompt": ["a", "b"]}` over as one row that holds the list."""
    rows = []
    for cells in table.to_dict("records"):
        row = {str(name): plain(value) for name, value in cells.items()}
        prompts = row.get("prompt")
        several = prompts if isinstance(prompts, list) else [prompts]
        rows += [{**row, "prompt": prompt} for prompt in several]
    return rows


mlflow.models.set_model(ChatModel())
