"""What a candidate is called: what was swept, in as few words as tell it."""

from __future__ import annotations

import shlex
from typing import Any

ASIDE = ("backend", "driver", "experiment", "gate", "model", "monitoring", "score")
"""First parts of keys that change no candidate, or that its name says already."""


def plain_label(evaluation: dict[str, Any]) -> str:
    """By the evaluation alone: the pipeline's precision, or the export."""
    if evaluation["candidate"] == "pipeline":
        return f"pipeline {evaluation['precision']}"
    return str(evaluation.get("export") or f"onnx {evaluation['precision']}")


def words_of(overrides: str, *, pipeline: bool) -> list[str]:
    """Those of some overrides that can set a candidate apart; an export's do not concern the pipeline."""
    try:
        tokens = [token.lstrip("+") for token in shlex.split(overrides) if "=" in token]
    except ValueError:
        return []
    aside = (*ASIDE, "export", "package") if pipeline else ASIDE
    return [token for token in tokens if token.partition("=")[0].partition(".")[0] not in aside]


def labels_of(evaluations: dict[str, dict[str, Any]], overrides: dict[str, str]) -> dict[str, str]:
    """Run to its label: the plain one, with the overrides that not all of the candidates have."""
    words = {
        run: words_of(overrides.get(run, ""), pipeline=evaluation["candidate"] == "pipeline")
        for run, evaluation in evaluations.items()
    }
    labels = {}
    for run, evaluation in evaluations.items():
        peers = [
            words[other] for other, its in evaluations.items() if its["candidate"] == evaluation["candidate"]
        ]
        own = [word for word in words[run] if not all(word in theirs for theirs in peers)]
        own = [word for word in own if word.partition("=")[0] != "export"]
        labels[run] = " ".join([plain_label(evaluation), *map(_short, own)])
    return labels


def _short(word: str) -> str:
    """Without the groups that the key is in: `block_size=16`."""
    key, _, value = word.partition("=")
    return f"{key.rpartition('.')[2]}={value}"
