"""Putting items to a candidate: several at a time, of much the same length, each text read once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from slmflow.errors import SlmflowError
from slmflow.quality.candidates import in_common
from slmflow.quality.items import NEW_TOKENS
from slmflow.quality.tasks import Row, chat_of, judged, line_of, rows_in

if TYPE_CHECKING:
    from pathlib import Path

    from slmflow.quality.candidates import Branches, Candidate
    from slmflow.quality.items import Item, Items

CHOSEN = 40
"""Questions of multiple choice between two entries of the journal."""
CONTINUED = 4
"""Choices that go on from one reading of their context: each holds keys and values of the whole text."""


def measure_tasks(candidate: Candidate, items: Items, journal: Path) -> list[Row]:
    """Ask every item; a row an item, in the order of the set.

    Rows are appended to `journal` as they come, and those found there are not asked again; what follows a
    torn line is. Raises SlmflowError, before anything is asked, naming an item that the context cannot hold.
    """
    from tqdm import tqdm

    check_lengths(candidate, items)
    known = {row.id: row for row in rows_in(journal)}
    with journal.open("w", encoding="utf-8") as file:
        file.writelines(line_of(row) for row in known.values())
        with tqdm(desc="  tasks", total=len(items.rows), initial=len(known)) as bar:
            for group in groups(candidate, items.rows):
                # Whole groups, so that a batch never depends on where an earlier run stopped.
                if all(item.id in known for item in group):
                    continue
                rows = [row for row in _asked(candidate, group) if row.id not in known]
                known |= {row.id: row for row in rows}
                file.writelines(map(line_of, rows))
                file.flush()
                bar.update(len(rows))
    return [known[item.id] for item in items.rows]


def check_lengths(candidate: Candidate, items: Items) -> None:
    """Raises SlmflowError naming the first item that the candidate's context cannot hold."""
    for item in items.rows:
        longest = sum(load_of(candidate, item))
        if item.kind == "multiple_choice":
            longest = max(len(candidate.encode(f"{item.prompt} {text}")) for text in item.fields["choices"])
        if longest > candidate.context_length:
            raise SlmflowError(
                f"item {item.id!r} needs {longest} tokens with its answer, the model's context holds "
                f"{candidate.context_length}: shorten it, or set evaluate.items=none"
            )


def load_of(candidate: Candidate, item: Item) -> tuple[int, int]:
    """Tokens that an item takes to read, and to answer at most."""
    if item.kind == "multiple_choice":
        texts = [item.prompt, *(f" {text}" for text in item.fields["choices"])]
        return sum(len(candidate.encode(text)) for text in texts), 0
    return len(candidate.prompt_ids(chat_of(item))), NEW_TOKENS[item.kind]


def loads(candidate: Candidate, items: Sequence[Item]) -> list[tuple[int, int]]:
    """`load_of` each item, less what closed questions have in common and is read once."""
    closed = [candidate.prompt_ids(chat_of(item)) for item in items if item.kind == "closed"]
    common = in_common(closed) if candidate.rows(max(map(len, closed), default=1)) > 1 else 0
    found = [load_of(candidate, item) for item in items]
    return [
        (read - common if item.kind == "closed" else read, new)
        for item, (read, new) in zip(items, found, strict=True)
    ]


def groups(candidate: Candidate, items: Sequence[Item]) -> Iterator[list[Item]]:
    """The items that are asked between two entries of the journal, the short ones first.

    Closed questions stand together, as they have their beginning in common.
    """
    for kinds in (("multiple_choice",), ("closed",), ("instruction", "json")):
        sized = [(sum(load_of(candidate, item)), item) for item in items if item.kind in kinds]
        sized.sort(key=lambda pair: pair[0])
        while sized:
            count = CHOSEN
            if kinds[0] != "multiple_choice":
                count = _fitting(candidate, [size for size, _ in sized])
            yield [item for _, item in sized[:count]]
            sized = sized[count:]


def _fitting(candidate: Candidate, sizes: list[int]) -> int:
    """How many texts, of sizes that grow, are answered together; at least one."""
    numbers = range(2, len(sizes) + 1)
    return 1 + sum(1 for _ in itertools.takewhile(lambda n: n <= candidate.rows(sizes[n - 1]), numbers))


def _asked(candidate: Candidate, group: list[Item]) -> list[Row]:
    if group[0].kind == "multiple_choice":
        return _chosen(candidate, group)
    prompts = [candidate.prompt_ids(chat_of(item)) for item in group]
    answers = candidate.answers(prompts, [NEW_TOKENS[item.kind] for item in group])
    return [judged(item, said) for item, said in zip(group, answers, strict=True)]


def _chosen(candidate: Candidate, group: list[Item]) -> list[Row]:
    asked = [(item.prompt, [f" {choice}" for choice in item.fields["choices"]]) for item in group]
    rows = []
    for item, sums in zip(group, log_likelihoods(candidate, asked), strict=True):
        choices, right = item.fields["choices"], item.fields["answer"]
        chosen = int(np.argmax(sums))
        per_letter = int(np.argmax(np.array(sums) / [len(choice) for choice in choices]))
        correct = chosen == right
        rows.append(Row(item.id, item.kind, correct, choices[chosen], choices[right], per_letter == right))
    return rows


def log_likelihoods(candidate: Candidate, asked: Sequence[tuple[str, list[str]]]) -> list[list[float]]:
    """Ln P(continuation | context) of each continuation of each context.

    A continuation is tokenised together with its context, as lm-evaluation-harness does.
    """
    prepared = [_branches(candidate, *one) for one in asked]
    logs = iter(candidate.branch_logprobs([part for parts, _ in prepared for part in parts]))
    sums = []
    for parts, unscored in prepared:
        found = [log for _ in parts for log in next(logs)]
        sums.append([float(log[skip:].sum()) for log, skip in zip(found, unscored, strict=True)])
    return sums


def _branches(
    candidate: Candidate, context: str, continuations: list[str]
) -> tuple[list[Branches], list[int]]:
    """What is read once with what follows it, CONTINUED at a time; and how many tokens are not scored."""
    # White space at the context's end belongs to the continuation, as there.
    border = len(candidate.encode(context.rstrip()))
    texts = [candidate.encode(context + continuation) for continuation in continuations]
    # Where the border's tokens join, at least the last one is the continuation's.
    firsts = [max(1, min(border, len(ids) - 1)) for ids in texts]
    common = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*texts, strict=False))
    known = min(*firsts, len(list(common)))
    size = CONTINUED if known else 1
    known = max(known, 1)
    parts = [texts[start : start + size] for start in range(0, len(texts), size)]
    branches = [(part[0][:known], [ids[known:] for ids in part]) for part in parts]
    return branches, [first - known for first in firsts]
