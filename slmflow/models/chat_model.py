"""The MLflow model around an exported ONNX folder: prompt in, text out; chat in, chat out.

Logged by path (models from code, no pickle) with the package `slm_runtime` beside it:

    model = mlflow.pyfunc.load_model("models:/smollm2-135m-onnx@champion")
    model.predict({"prompt": "The capital of Spain is"})
    model.predict({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 32})
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray
from slm_runtime.chat import answer, read
from slm_runtime.engine import GenerateEngine, Sampling
from slm_runtime.tokenizer import TextTokenizer


class ChatModel(PythonModel):
    """Answers every row of its input; rows share the weights and nothing else."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the folder under the artifact `onnx` with the logged model_config."""
        config = context.model_config
        folder = Path(context.artifacts["onnx"])
        self.engine = GenerateEngine(folder, threads=int(config["threads"]))
        self.tokenizer = TextTokenizer(folder)
        self.name = str(config["served_name"])
        self.defaults = Sampling(
            max_tokens=int(config["max_tokens"]),
            temperature=float(config["temperature"]),
            top_p=float(config["top_p"]),
        )

    # MLflow reads the hint of model_input as a schema: a table is the one that it leaves to the signature.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str | dict[str, Any]]:
        """One answer a row: text where the row has `prompt`, an OpenAI object where it has `messages`.

        Raises ValueError naming the row and the field that cannot be answered, before any row is.
        """
        if not len(model_input.columns):
            raise ValueError("the input has neither `prompt` nor `messages`")
        requests = []
        for number, row in enumerate(rows_of(model_input)):
            try:
                requests.append(read(row, self.defaults, self.engine, self.tokenizer))
            except ValueError as error:
                raise ValueError(f"row {number}: {error}") from None
        return [answer(request, self.engine, self.tokenizer, self.name) for request in requests]

    def logprobs(self, ids: list[int]) -> NDArray[np.float32]:
        """Natural log-probabilities of every next token, shape (len(ids), vocabulary), of what ships."""
        logits = self.engine.logits(ids)
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return logits

    def generate_exactly(self, ids: list[int], new_tokens: int) -> Iterator[int]:
        """A greedy answer of exactly `new_tokens`, token by token: for speed measurements."""
        return self.engine.generate(ids, Sampling(max_tokens=new_tokens, ignore_eos=True))


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts. MLflow hands `{"prompt": ["a", "b"]}` over as one row that holds the list."""
    rows = []
    for row in table.to_dict("records"):
        prompts = row.get("prompt")
        several = prompts if isinstance(prompts, (list, np.ndarray)) else [prompts]
        rows += [
            {**{str(name): value for name, value in row.items()}, "prompt": prompt} for prompt in several
        ]
    return rows


mlflow.models.set_model(ChatModel())
