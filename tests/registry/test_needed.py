"""As much is asked as the gate's margins need: fewer tokens or items, and an equal candidate would miss."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmflow.compose import compose
from slmflow.config import Threshold
from slmflow.quality.items import read_items
from slmflow.quality.order import nested
from slmflow.registry.gate import judge
from slmflow.registry.needed import FLIPS, KL_SPREAD, items_needed, rows_for, tokens_needed, tokens_of_row
from slmflow.registry.relative import Champion
from tests.registry.test_gate import evaluation

GATE = compose().config.gate
SHIPPED = [item.kind for item in nested(read_items("shipped").rows)]


def test_the_shipped_gate_needs_these_numbers():
    """1.645² · 2 · 0.94 · 0.06 / 0.03² = 339.2, for a large model 1.645² · 2 · 0.97 · 0.03 / 0.015² = 699.9."""
    assert tokens_needed(GATE, 135_000_000) == 340
    assert tokens_needed(GATE, 3_800_000_000) == tokens_needed(GATE, None) == 700
    assert items_needed(SHIPPED, GATE.max_task_score_decrease) == 151
    assert items_needed(SHIPPED, GATE.max_task_score_decrease, dict.fromkeys(SHIPPED, 0.03)) == 51
    assert items_needed(SHIPPED, 1.0) == items_needed([], 0.05) == 0
    assert items_needed(SHIPPED, 0.01) == math.inf


def test_every_row_that_could_judge_a_model_of_the_size_counts():
    assert [row.max_kl for row in rows_for(GATE, 135_000_000)] == [0.02]
    assert [row.max_kl for row in rows_for(GATE, 1_000_000_000)] == [0.08, 0.01]
    assert tokens_needed(compose(overrides="gate=off gate.thresholds=[]").config.gate, None) == 0


rows = st.builds(
    Threshold,
    max_kl=st.floats(1e-4, 1),
    min_top1=st.floats(0, 1),
    max_kl_increase=st.floats(1e-3, 1) | st.just(math.inf),
    max_top1_decrease=st.floats(1e-2, 1),
)


def gate_of(row):
    return replace(GATE, thresholds=[row])


@given(rows, st.data())
def test_an_identical_model_with_as_many_tokens_passes_whatever_its_agreement_and_divergence(row, data):
    tokens = max(tokens_needed(gate_of(row), None), 2) + data.draw(st.integers(0, 50))
    agreement = data.draw(st.floats(row.min_top1, 1))
    kl = data.draw(st.floats(0, row.max_kl))
    found = {
        "tokens": float(tokens),
        "windows_digest": "w",
        "kl_mean": kl,
        "kl_mean_se": KL_SPREAD * kl * data.draw(st.floats(0, 1)) / math.sqrt(tokens),
        "top1_agreement": agreement,
        "top1_agreement_se": math.sqrt(agreement * (1 - agreement) / tokens),
    }
    # Another decode_ figure, so that they are not taken for one measurement.
    champion = Champion("3", evaluation(fidelity={**found, "decode_kl_mean": 1.0}, fingerprint="theirs"))
    verdict = judge(evaluation(fidelity=found), gate_of(row), champion)
    missed = [check for check in verdict.misses if abs(check.limit - check.value) > 1e-9]
    assert not missed


@given(rows, st.floats(0.1, 1))
def test_with_a_tenth_less_the_error_alone_exceeds_the_margin(row, share):
    """At the worst that the row itself lets pass: the number is no larger than it must be."""
    needed = tokens_of_row(row)
    assume(20 < needed < math.inf)
    fewer = 0.9 * needed
    least = max(row.min_top1, 0.5)
    agreement = 1.645 * math.sqrt(2 * least * (1 - least) / fewer)
    divergence = 1.645 * math.sqrt(2 / fewer) * KL_SPREAD * row.max_kl
    assert agreement > row.max_top1_decrease or divergence > row.max_kl_increase


@given(rows, st.floats(1.01, 3))
def test_a_wider_margin_never_needs_more_tokens(row, factor):
    wider = Threshold(
        max_kl=row.max_kl,
        min_top1=row.min_top1,
        max_kl_increase=row.max_kl_increase * factor,
        max_top1_decrease=min(row.max_top1_decrease * factor, 1),
    )
    assert tokens_of_row(wider) <= tokens_of_row(row)


kinds = st.lists(st.sampled_from("abcd"), min_size=1, max_size=300)


@given(kinds, st.floats(0.01, 0.99), st.floats(1, 3), st.floats(0, 0.5))
def test_a_wider_margin_or_fewer_flips_never_need_more_items(order, margin, factor, flips):
    shares = dict.fromkeys(order, flips)
    needed = items_needed(order, margin, shares)
    assert items_needed(order, min(margin * factor, 1), shares) <= needed
    assert items_needed(order, margin, dict.fromkeys(order, flips / 2)) <= needed


@given(st.floats(0.03, 0.3), st.integers(0, 2**32), st.integers(0, 40))
def test_an_equal_candidate_with_as_many_items_passes_at_the_flips_that_were_reckoned_with(
    margin, seed, more
):
    """Of each kind as many items become right as become wrong, at most the share of FLIPS together."""
    needed = items_needed(SHIPPED, margin)
    assume(needed < math.inf)
    order = SHIPPED[: int(min(needed + more, len(SHIPPED)))]
    chance = np.random.default_rng(seed)
    theirs = chance.integers(0, 2, len(order)).astype(bool)
    mine = theirs.copy()
    for kind in set(order):
        places = np.array([at for at, one in enumerate(order) if one == kind])
        for right in (True, False):
            of_these = places[theirs[places] == right]
            count = min(
                int(FLIPS * len(places)) // 2, *(int((theirs[places] == r).sum()) for r in (True, False))
            )
            mine[chance.permutation(of_these)[:count]] ^= True
    verdict = judged(order, mine, theirs, margin)
    assert [check.name for check in verdict.misses] == []


def judged(order, mine, theirs, margin):
    def side(right, name):
        counts = Counter(order)
        scores = [right[[at for at, o in enumerate(order) if o == kind]].mean() for kind in counts]
        table = {
            "columns": ["id", "kind", "correct"],
            "data": [[str(at), kind, bool(r)] for at, (kind, r) in enumerate(zip(order, right, strict=True))],
        }
        tasks = {"digest": "d", "score": float(np.mean(scores)), "score_se": 0.0}
        return evaluation(tasks=tasks, fingerprint=name), table

    gate = replace(GATE, max_task_score_decrease=margin)
    ours, items = side(mine, "ours")
    champion, their_items = side(theirs, "theirs")
    return judge(ours, gate, Champion("3", champion, their_items), items)


@pytest.mark.parametrize("margin", [0.0, 0.001])
def test_a_margin_that_no_number_can_show_is_infinite(margin):
    assert items_needed(SHIPPED, margin) == math.inf
    row = Threshold(max_kl=0.01, min_top1=0.9, max_kl_increase=0.0, max_top1_decrease=0.1)
    assert tokens_of_row(row) == math.inf
