"""One evaluated candidate as a comparison sees it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from slmflow.comparison.label import labels_of
from slmflow.quality.alike import finite


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
        """A figure by its path, `fidelity.kl_mean` or `tasks.kinds.json.score`.

        None if it was not measured, or is NaN or infinite: that is nowhere best, and on no picture.
        """
        return finite(self._at(key))

    def broken(self, key: str) -> str:
        """`nan` or `inf` where a figure is that; else empty."""
        value = self._at(key)
        measured = isinstance(value, (int, float)) and not isinstance(value, bool)
        return str(value) if measured and finite(value) is None else ""

    def _at(self, key: str) -> Any:
        node: Any = self.evaluation
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    @property
    def is_pipeline(self) -> bool:
        """Whether it is the transformers pipeline."""
        return bool(self.evaluation["candidate"] == "pipeline")

    @property
    def machine(self) -> str:
        """Where cost was measured, for people; empty when the evaluation does not say."""
        found = self.evaluation.get("machine") or {}
        units = {"cores": " cores", "threads": " threads"}
        order = [*(name for name in ("cpu", "cores", "threads", "system") if name in found)]
        order += sorted(set(found) - set(order))
        return ", ".join(f"{found[name]}{units.get(name, '')}" for name in order)

    @property
    def tasks(self) -> str:
        """The digest of the items that were answered; empty for none."""
        return str((self.evaluation.get("tasks") or {}).get("digest", ""))


def make_entries(
    found: list[tuple[str, str, dict[str, Any], dict[str, Any] | None]],
    overrides: dict[str, str] | None = None,
) -> list[Entry]:
    """Entries of (run id, experiment id, evaluation, items table), with labels that tell them apart.

    `overrides` has, by run, the words that each was made with: those that differ are in the labels. In a
    fixed order: models by name, the pipeline first, then by size, name and run.
    """
    named = labels_of({run: evaluation for run, _, evaluation, _ in found}, overrides or {})
    labels = [named[run] for run, *_ in found]
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


def _order(entry: Entry) -> tuple[Any, ...]:
    size = entry.figure("cost.size_bytes") or 0.0
    return (str(entry.evaluation.get("name") or ""), not entry.is_pipeline, -size, entry.label, entry.run_id)


def _by_id(items: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    if not items:
        return {}
    rows = [dict(zip(items["columns"], row, strict=True)) for row in items["data"]]
    return {str(row["id"]): row for row in rows}
