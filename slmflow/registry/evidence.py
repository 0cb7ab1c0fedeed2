"""What a version carries to say why it is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slmflow.quality.cost import busy
from slmflow.registry.versions import FINGERPRINT_TAG

if TYPE_CHECKING:
    from slmflow.registry.gate import Verdict

FIGURES = (
    "tokens",
    "kl_mean",
    "kl_mean_se",
    "kl_p99",
    "kl_max",
    "top1_agreement",
    "top1_agreement_se",
    "perplexity",
    "perplexity_ratio",
    "decode_kl_mean",
    "decode_top1_agreement",
    "greedy_prefix_mean",
    "size_bytes",
    "load_seconds",
    "peak_resident_bytes",
    "ttft_seconds",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
)
"""Figures that become tags; all others are metrics of the run and of the LoggedModel. A registry that is a
Unity Catalog takes 50 tags."""
TASK_FIGURES = ("items", "score", "score_se", "flips")


def figures_of(evaluation: dict[str, Any]) -> dict[str, float]:
    """The figures of FIGURES and TASK_FIGURES that were measured."""
    measured = {**(evaluation["fidelity"] or {}), **evaluation["cost"]}
    tasks = evaluation.get("tasks") or {}
    found = {name: measured[name] for name in FIGURES if measured.get(name) is not None}
    return found | {f"tasks.{name}": tasks[name] for name in TASK_FIGURES if tasks.get(name) is not None}


def evidence_tags(
    evaluation: dict[str, Any],
    logged: dict[str, Any],
    verdict: Verdict | None,
    digests: dict[str, str],
    run_ids: dict[str, str],
) -> dict[str, str]:
    """Tags of a version: content, source, verdict, digests of what it was measured on, runs, figures.

    `verdict` is None for what was not judged.
    """
    return {
        FINGERPRINT_TAG: evaluation["fingerprint"],
        "source": logged["source"],
        "commit": str(logged["commit"]),
        "licence": logged["licence"],
        "source_digest": logged["source_digest"],
        "precision": logged["precision"],
        **{f"gguf.{key}": str(value) for key, value in (logged["gguf"] or {}).items()},
        "gate": word_of(verdict),
        **({"gate.json": json.dumps(verdict.as_dict())} if verdict else {}),
        **digests,
        **run_ids,
        "machine": ", ".join(str(value) for value in (evaluation.get("machine") or {}).values()),
        **{f"metric.{key}": f"{value:.6g}" for key, value in figures_of(evaluation).items()},
    }


def word_of(verdict: Verdict | None) -> str:
    """The gate's word on a version."""
    return "not judged" if verdict is None else verdict.word


def measured_lines(evaluation: dict[str, Any]) -> list[str]:
    """How much the figures are of, and whether the machine was busy; a Markdown point each."""
    fidelity, tasks, lines = evaluation["fidelity"], evaluation.get("tasks"), []
    if fidelity and "tokens" in fidelity:
        lines.append(f"- Fidelity is of {fidelity['tokens']:,.0f} scored tokens.")
    if tasks and "items" in tasks:
        of = f" of {tasks['set_items']}" if "set_items" in tasks else ""
        lines.append(f"- Tasks are of {tasks['items']}{of} items.")
    if why := busy(evaluation):
        lines.append(f"- Speeds are of a busy machine: {why}.")
    return lines


def parts_left_out(tensors: dict[str, int]) -> str:
    """`visual (12 tensors), mtp (9 tensors)`: what is not of the text part."""
    return ", ".join(f"{name} ({count} tensors)" for name, count in tensors.items())


def description_of(
    evaluation: dict[str, Any],
    logged: dict[str, Any],
    verdict: Verdict | None,
    run_ids: dict[str, str],
    experiment: str,
) -> str:
    """What people read on the version's page, as Markdown: origin, verdict, and links to the runs."""
    own = logged["gguf"]
    what = f"{own['name']} ({own['quantisation']}), " if own else ""
    lines = [
        f"{what}{logged['source']} at {logged['commit']}, {logged['precision']}, "
        f"licence {logged['licence']}. Gate: {word_of(verdict)}."
    ]
    if other := logged.get("left_out"):
        lines.append(f"- Its text part alone: {parts_left_out(other)} are left out.")
    lines += measured_lines(evaluation)
    if verdict is not None:
        lines += [f"- {'✓' if check.passed else '✗'} {check}" for check in verdict.checks]
        lines += [f"- {note}" for note in verdict.notes]
    links = [
        f"[{name.removesuffix('_run')}](#/experiments/{experiment}/runs/{run_id})"
        for name, run_id in run_ids.items()
    ]
    return "\n".join([*lines, "", f"Runs: {', '.join(links)}"])
