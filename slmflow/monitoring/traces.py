"""Production traces as rows that can be asked again: redacted, in the order in which they came."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, first_line
from slmflow.monitoring.call import Call, failed, observed
from slmflow.monitoring.redaction import Redactor
from slmflow.tracking import raise_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlflow.entities import Span, Trace

    from slmflow.monitoring.patterns import Finder

FIELDS = (
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "ignore_eos",
    "response_format",
    "tools",
    "tool_choice",
)
"""What is asked again: not how many answers there were, how they were sent, and who asked."""
TEXTS = ("messages", "prompt", "stop", "response_format", "tools", "tool_choice")
PAGE = 100
MOST_READ = 20
"""Traces read at most, as a multiple of those wanted: an experiment may hold many that are left out."""


@dataclass(frozen=True)
class Row:
    """One production request with its answer, both redacted."""

    id: str
    """The trace's id; of several calls in a trace with their number."""
    began: int
    """Milliseconds since 1970."""
    model_id: str
    """The LoggedModel that answered; empty when the trace does not say."""
    request: dict[str, Any]
    production: Call
    redacted: dict[str, int]
    """Placeholder to how often it was put into the request."""


@dataclass
class Traces:
    """What was read of an experiment."""

    rows: list[Row]
    """From the oldest to the newest."""
    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Why a trace or call was left out, to how many."""


def experiment_of(given: str) -> str:
    """The id of an experiment, by its name or id. Raises SlmflowError when there is none."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        found = client.get_experiment_by_name(given)
        if found is None and given.isdigit():
            found = client.get_experiment(given)
    except MlflowException as error:
        raise_problem(error)
        raise SlmflowError(f"traces={given}: {first_line(error)}") from None
    if found is None:
        raise SlmflowError(f"traces={given}: there is no experiment of that name or id in this store")
    return str(found.experiment_id)


def read_traces(
    experiment_id: str, wanted: int, models: set[str], rules: dict[str, Finder], ours: Callable[[str], bool]
) -> Traces:
    """The newest `wanted` calls of an experiment that can be asked again.

    `models` are the LoggedModels whose traces count (empty: all; a trace that names none always does); `ours`
    says whether a run is one of ours, whose calls are measurements and no production.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client, traces = MlflowClient(), Traces([])
    token: str | None = None
    while len(traces.rows) < wanted and traces.read < wanted * MOST_READ:
        try:
            page = client.search_traces(
                locations=[experiment_id], max_results=PAGE, order_by=["timestamp_ms DESC"], page_token=token
            )
        except MlflowException as error:
            raise_problem(error)
            raise SlmflowError(f"the traces cannot be read: {first_line(error)}") from None
        for trace in page:
            traces.read += 1
            if reason := _left_out(trace, models, ours):
                traces.skipped[reason] += 1
                continue
            for span, name in _calls(trace):
                row = row_of(span, name, trace, Redactor(rules))
                if isinstance(row, str):
                    traces.skipped[row] += 1
                elif len(traces.rows) < wanted:
                    traces.rows.append(row)
            if len(traces.rows) >= wanted:
                break
        token = page.token
        if not token:
            break
    traces.rows.sort(key=lambda row: (row.began, row.id))
    return traces


def _left_out(trace: Trace, models: set[str], ours: Callable[[str], bool]) -> str:
    metadata = trace.info.trace_metadata or {}
    model = metadata.get("mlflow.modelId", "")
    if models and model and model not in models:
        return "answered by another model"
    run = metadata.get("mlflow.sourceRun", "")
    if run and ours(run):
        return "made by a run of this project, not by production"
    if str(getattr(trace.info.state, "value", trace.info.state)) == "IN_PROGRESS":
        return "not finished"
    if not trace.data.spans:
        return "without spans"
    return ""


def _calls(trace: Trace) -> Iterator[tuple[Span, str]]:
    """The calls of a model in a trace with their names; the root where no span says that it is one."""
    spans = [span for span in trace.data.spans if span.span_type == "CHAT_MODEL"]
    roots = [span for span in trace.data.spans if span.parent_id is None]
    spans = spans or roots[:1]
    for number, span in enumerate(spans, 1):
        yield span, trace.info.trace_id if len(spans) == 1 else f"{trace.info.trace_id}#{number}"


def row_of(span: Span, name: str, trace: Trace, redactor: Redactor) -> Row | str:
    """A call as a row, redacted; else why it cannot be asked again."""
    inputs = span.inputs if isinstance(span.inputs, dict) else {}
    given = {field: inputs[field] for field in FIELDS if inputs.get(field) is not None}
    messages, prompt = given.get("messages"), given.get("prompt")
    if (messages is None) == (prompt is None):
        return "its inputs hold neither messages nor a prompt"
    if prompt is not None and (not isinstance(prompt, str) or not prompt):
        return "its prompt is no text"
    if messages is not None and not (
        isinstance(messages, list) and messages and all(isinstance(said, dict) for said in messages)
    ):
        return "its messages are no list of messages"
    request = {field: redactor.value(said) if field in TEXTS else said for field, said in given.items()}
    if any(not isinstance(request[field], (int, float, bool)) for field in request if field not in TEXTS):
        return "a number of its request is no number"
    counts = dict(sorted(redactor.counts.items()))
    seconds = (span.end_time_ns - span.start_time_ns) / 1e9 if span.end_time_ns else None
    status = getattr(span.status.status_code, "value", span.status.status_code)
    if str(status) == "ERROR":
        call = failed(span.status.description or "unknown", seconds, redactor)
    else:
        usage = span.get_attribute("mlflow.chat.tokenUsage")
        reasons = span.get_attribute("gen_ai.response.finish_reasons")
        call = observed(given, span.outputs, usage, reasons, seconds, redactor)
    model = str((trace.info.trace_metadata or {}).get("mlflow.modelId", ""))
    return Row(name, span.start_time_ns // 10**6, model, request, call, counts)
