"""Generated answers under `mlflow.genai.evaluate`: a trace an item, judged by our own scorers on its page.

The verdicts are those of `slmflow.quality.tasks`. This road costs some 0.25 s an item more (docs/evaluate.md)
and shows each answer with its verdict in MLflow's pages.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError
from slmflow.quality.asking import check_lengths
from slmflow.quality.items import NEW_TOKENS
from slmflow.quality.tasks import (
    MEASURES,
    Row,
    chat_of,
    judged,
    line_of,
    rows_in,
)

if TYPE_CHECKING:
    from mlflow.genai.evaluation.entities import EvaluationResult

    from slmflow.quality.candidates import Candidate, Chat
    from slmflow.quality.items import Items

ENVIRONMENT = {
    # The harness calls from ten threads by default; a model on a CPU answers one.
    "MLFLOW_GENAI_EVAL_MAX_WORKERS": "1",
    # It would ask the first item once more to see whether there is a trace.
    "MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION": "true",
    # It would hold itself to ten calls a second.
    "MLFLOW_GENAI_EVAL_PREDICT_RATE_LIMIT": "0",
}
"""What MLflow's harness reads when it starts."""
DIGEST = 36
"""Characters of a digest, at most, that MLflow's stores hold."""


def trace_answers(
    candidate: Candidate, items: Items, journal: Path, model_id: str, judge: Any = None
) -> EvaluationResult:
    """Ask every item whose answer is generated, within the active run; call `measure_tasks` after it.

    Rows are appended to `journal`, where `measure_tasks` finds them and asks only what is left; the answers
    that it holds already are traced as they are. MLflow logs `<measure>/mean` on the run and on the model.
    Raises what the candidate raised, after the row that it failed at; SlmflowError when a scorer failed.
    """
    import mlflow

    check_lengths(candidate, items)
    known = {row.id: row for row in rows_in(journal)}
    journal.write_text("".join(map(line_of, known.values())), encoding="utf-8")
    asked = {item.id: item for item in items.rows if item.kind in NEW_TOKENS}
    failures: list[Exception] = []

    @mlflow.trace(name="answer", span_type="CHAT_MODEL")
    def answer(item: str, messages: Chat, max_tokens: int) -> str:
        if failures:
            raise failures[0]
        if item not in known:
            try:
                (said,) = candidate.answers([candidate.prompt_ids(messages)], [max_tokens])
            except Exception as error:
                failures.append(error)
                raise
            known[item] = judged(asked[item], said)
            with journal.open("a", encoding="utf-8") as file:
                file.write(line_of(known[item]))
        return known[item].answer

    data = [
        {
            "inputs": {"item": item.id, "messages": chat_of(item), "max_tokens": NEW_TOKENS[item.kind]},
            # One text: MLflow writes each expectation by itself, and slowly.
            "expectations": {"expected": judged(item, "").expected},
            "tags": {"slmflow.item": item.id, "slmflow.kind": item.kind},
        }
        for item in asked.values()
    ]
    if not data:
        raise SlmflowError("evaluate.traces=true: no item has an answer to generate; set it to false")
    scorers = [*_scorers({item.kind for item in asked.values()}, known), *([judge] if judge else [])]
    with _environment(ENVIRONMENT):
        result = mlflow.genai.evaluate(data=data, predict_fn=answer, scorers=scorers, model_id=model_id)
    if failures:
        raise failures[0]
    _check(result, {kind: sum(item.kind == kind for item in asked.values()) for kind in NEW_TOKENS}, judge)
    return result


def log_items(items: Items, name: str, model_id: str) -> None:
    """Note the items as input of the active run, with their digest, and which model they were put to."""
    import mlflow
    import pandas as pd
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.entities import LoggedModelInput

    frame = pd.DataFrame([{"id": item.id, "kind": item.kind, "prompt": item.prompt} for item in items.rows])
    # Not the name alone: MLflow would take `shipped` for a path.
    source = CodeDatasetSource(tags={"items": name})
    dataset = mlflow.data.from_pandas(frame, source=source, name="tasks", digest=items.digest[:DIGEST])
    mlflow.log_input(dataset, context="tasks", model=LoggedModelInput(model_id=model_id))


def _scorers(kinds: set[str], known: dict[str, Row]) -> list[Any]:
    """One a kind, by the name of its measure; it says nothing about the others."""
    from mlflow.genai.scorers import scorer

    def of_kind(kind: str) -> Any:
        def verdict(inputs: dict[str, Any]) -> bool | None:
            row = known.get(inputs["item"])
            return row.correct if row is not None and row.kind == kind else None

        return scorer(verdict, name=MEASURES[kind])

    return [of_kind(kind) for kind in NEW_TOKENS if kind in kinds]


def _check(result: EvaluationResult, counts: dict[str, int], judge: Any) -> None:
    """MLflow takes means over the rows that have a verdict: here all must have one."""
    frame = result.result_df
    assert frame is not None
    wanted = {MEASURES[kind]: count for kind, count in counts.items() if count}
    if judge:
        wanted[judge.name] = sum(counts.values())
    for name, count in wanted.items():
        column = f"{name}/value"
        found = int(frame[column].notna().sum()) if column in frame else 0
        if found < count:
            raise SlmflowError(
                f"{name} judged {found} of {count} answers: the errors are on the run's traces; "
                "run again to go on, the answers are kept"
            )


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
