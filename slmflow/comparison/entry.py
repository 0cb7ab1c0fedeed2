"""One evaluated candidate as a comparison sees it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """An evaluation with the run that it is from."""

    run_id: str
    experiment_id: str
    label: str
    evaluation: dict[str, Any]
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Task items by id, as `items.json` has them; empty where there is none."""

    def figure(self, key: str) -> float | None:
        """A figure by its path, `fidelity.kl_mean` or `tasks.kinds.json.score`; None if not measured."""
        node: Any = self.evaluation
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return float(node) if isinstance(node, (int, float)) and not isinstance(node, bool) else None

    @property
    def is_pipeline(self) -> bool:
        """Whether it is the transformers pipeline."""
        return bool(self.evaluation["candidate"] == "pipeline")

    @property
    def machine(self) -> str:
        """Where cost was measured, for people; empty when the evaluation does not say."""
        found = self.evaluation.get("machine") or {}
        return f"{found['cpu']}, {found['cores']} cores" if found else ""

    @property
    def reference(self) -> tuple[Any, ...]:
        """What fidelity is relative to: the weights, and by its perplexity the text."""
        fidelity = self.evaluation.get("fidelity") or {}
        digest = self.evaluation.get("source_digest")
        return (digest, fidelity.get("tokens"), fidelity.get("perplexity_reference"))

    @property
    def tasks(self) -> str:
        """The digest of the items that were answered; empty for none."""
        return str((self.evaluation.get("tasks") or {}).get("digest", ""))


def make_entries(found: list[tuple[str, str, dict[str, Any], dict[str, Any] | None]]) -> list[Entry]:
    """Entries of (run id, experiment id, evaluation, items table), with labels that tell them apart.

    In a fixed order: models by name, the pipeline first, then by size, name and run.
    """
    labels = [_label(evaluation) for _, _, evaluation, _ in found]
    several = len({evaluation.get("name") for _, _, evaluation, _ in found}) > 1
    if several:
        labels = [f"{row[2].get('name') or '?'} {label}" for row, label in zip(found, labels, strict=True)]
    counts = Counter(labels)
    entries = [
        Entry(
            run, experiment, label if counts[label] == 1 else f"{label} {run[:8]}", evaluation, _by_id(items)
        )
        for (run, experiment, evaluation, items), label in zip(found, labels, strict=True)
    ]
    return sorted(entries, key=_order)


def _label(evaluation: dict[str, Any]) -> str:
    if evaluation["candidate"] == "pipeline":
        return f"pipeline {evaluation['precision']}"
    return str(evaluation.get("export") or f"onnx {evaluation['precision']}")


def _order(entry: Entry) -> tuple[Any, ...]:
    size = entry.figure("cost.size_bytes") or 0.0
    return (str(entry.evaluation.get("name") or ""), not entry.is_pipeline, -size, entry.label, entry.run_id)


def _by_id(items: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    if not items:
        return {}
    rows = [dict(zip(items["columns"], row, strict=True)) for row in items["data"]]
    return {str(row["id"]): row for row in rows}
