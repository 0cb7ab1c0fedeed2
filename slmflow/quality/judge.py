"""A language model as judge of generated answers: only where the user names one, and only when it answers."""

from __future__ import annotations

from typing import Any

from slmflow.errors import SlmflowError, first_line

INSTRUCTIONS = (
    "Does the answer do what the request asks for, correctly and without anything else? "
    "Request: {{ inputs }} Answer: {{ outputs }} What a right answer is or has: {{ expectations }}"
)
"""The names in braces are MLflow's."""
_SECONDS = 10.0


def make_judge(model: str) -> Any:
    """A scorer of MLflow named `judge`, true or false, by a model such as `openai:/gpt-4.1-mini`.

    Its key comes from the environment, as MLflow reads it (`OPENAI_API_KEY`, and `OPENAI_API_BASE` for a
    server of one's own). It is asked one question first. Raises SlmflowError when it cannot be reached or
    refuses: MLflow itself would try again for minutes, and note a failure on every row.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.genai.judges import make_judge as made

    try:
        _reach(model)
        judge = made(name="judge", instructions=INSTRUCTIONS, model=model, feedback_value_type=bool)
        said = judge(
            inputs={"messages": [{"role": "user", "content": "What is 1 plus 1?"}]},
            outputs="2",
            expectations={"expected": "2"},
        )
    except (MlflowException, OSError, ValueError) as error:
        raise SlmflowError(f"evaluate.judge={model}: {first_line(error)[:300]}") from None
    if said.error is not None or not isinstance(said.value, bool):
        raise SlmflowError(
            f"evaluate.judge={model}: it gave no verdict: {str(said.error or said.value)[:300]}"
        )
    return judge


def _reach(model: str) -> None:
    """Raises ValueError where the judge's address does not answer at all."""
    import requests

    # The one place that knows each provider's key and address; MLflow is pinned.
    from mlflow.metrics.genai.model_utils import _get_provider_instance, _parse_model_uri

    address = _get_provider_instance(*_parse_model_uri(model)).get_endpoint_url("llm/v1/chat")
    try:
        requests.head(address, timeout=_SECONDS)
    except requests.RequestException:
        raise ValueError(f"{address} cannot be reached; judges need a network") from None
