"""The measures equal their definitions, computed independently in float64."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.errors import SlmflowError
from slmflow.quality import reference
from slmflow.quality.fidelity import (
    compare,
    kl_divergence,
    log_softmax,
    quantiles,
    top1_agreement,
)
from slmflow.quality.windows import windows_of


def logits(seed, positions=5, vocabulary=17, scale=3.0):
    return (np.random.default_rng(seed).standard_normal((positions, vocabulary)) * scale).astype(np.float32)


def slow_kl(p_logits, q_logits):
    """The definition, word by word, in Python floats."""
    values = []
    for p_row, q_row in zip(p_logits.astype(float), q_logits.astype(float), strict=True):
        p = [math.exp(x) / math.fsum(map(math.exp, p_row)) for x in p_row]
        q = [math.exp(x) / math.fsum(map(math.exp, q_row)) for x in q_row]
        values.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return values


@given(st.integers(0, 1000), st.integers(0, 1000), st.floats(0.1, 8))
def test_kl_divergence_is_its_definition(a, b, scale):
    p, q = logits(a, scale=scale), logits(b, scale=scale)
    np.testing.assert_allclose(
        kl_divergence(log_softmax(p), log_softmax(q)), slow_kl(p, q), rtol=1e-4, atol=1e-6
    )


@given(st.integers(0, 1000), st.floats(-50, 50))
def test_kl_divergence_is_zero_for_equal_distributions_and_never_negative(seed, shift):
    p = logits(seed)
    assert kl_divergence(log_softmax(p), log_softmax(p + np.float32(shift))).max() < 1e-9
    assert kl_divergence(log_softmax(p), log_softmax(logits(seed + 1))).min() >= 0


def test_figures_of_parts_are_those_of_their_positions():
    p, q, targets = log_softmax(logits(1, 20)), log_softmax(logits(2, 20)), np.arange(20) % 17
    whole, part = compare(p, q, targets), compare(p[5:9], q[5:9], targets[5:9])
    assert whole[5:9].figures() == part.figures()
    assert whole.figures()["kl_mean"] == pytest.approx(np.mean(slow_kl(p, q)), rel=1e-5)


@given(st.integers(0, 1000), st.integers(2, 60))
def test_every_figure_is_its_definition_computed_in_plain_floats(seed, positions):
    p, q = (log_softmax(logits(seed + at, positions)) for at in range(2))
    targets = np.random.default_rng(seed).integers(0, 17, positions)
    figures = compare(p, q, targets).figures()
    exact_p, exact_q = p.astype(np.float64), q.astype(np.float64)
    true_p = [math.exp(exact_p[at, token]) for at, token in enumerate(targets)]
    true_q = [math.exp(exact_q[at, token]) for at, token in enumerate(targets)]
    squares = [(b - a) ** 2 for a, b in zip(true_p, true_q, strict=True)]
    losses = [-math.log(b) for b in true_q]
    gains = [math.log(a / b) for a, b in zip(true_p, true_q, strict=True)]
    agree = [float(a.argmax() == b.argmax()) for a, b in zip(p, q, strict=True)]
    share, rms = statistics.fmean(agree), math.sqrt(statistics.fmean(squares))
    ppl, ratio = math.exp(statistics.fmean(losses)), math.exp(statistics.fmean(gains))

    def se(values):
        return statistics.stdev(values) / math.sqrt(len(values))

    expected = {
        "top1_agreement": share,
        "top1_agreement_se": math.sqrt(share * (1 - share) / positions),
        "rms_delta_p": rms,
        "rms_delta_p_se": se(squares) / (2 * rms),
        "perplexity": ppl,
        "perplexity_se": ppl * se(losses),
        "perplexity_reference": math.exp(-statistics.fmean(map(math.log, true_p))),
        "perplexity_ratio": ratio,
        "perplexity_ratio_se": ratio * se(gains),
        "kl_mean_se": se(slow_kl(p, q)),
        "kl_max": max(slow_kl(p, q)),
    }
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name


def test_the_errors_of_means_and_percentiles_are_those_of_repeated_samples():
    chance = np.random.default_rng(0)
    samples = [chance.gamma(0.5, size=1000) for _ in range(400)]
    for percent in (50, 90, 99):
        found = [quantiles("kl", sample) for sample in samples]
        seen = np.std([one[f"kl_p{percent}"] for one in found])
        told = np.mean([one[f"kl_p{percent}_se"] for one in found])
        assert told == pytest.approx(seen, rel=0.15)


def test_one_position_has_figures_and_no_error():
    p = log_softmax(logits(1, 1))
    figures = compare(p, log_softmax(logits(2, 1)), np.array([3])).figures()
    assert figures["kl_mean_se"] == figures["kl_p99_se"] == figures["perplexity_se"] == 0
    assert all(map(math.isfinite, figures.values()))


def test_blocks_do_not_change_the_result():
    p, q = log_softmax(logits(1, positions=200)), log_softmax(logits(2, positions=200))
    np.testing.assert_array_equal(kl_divergence(p, q)[130:], kl_divergence(p[130:], q[130:]))


@given(st.integers(0, 1000), st.floats(-1e4, 1e4))
def test_log_softmax_sums_to_one_however_large_the_logits(seed, shift):
    np.testing.assert_allclose(np.exp(log_softmax(logits(seed) + np.float32(shift))).sum(-1), 1, rtol=1e-5)


def test_perplexity_of_a_uniform_model_is_its_vocabulary():
    uniform = log_softmax(np.zeros((9, 50), dtype=np.float32))
    assert compare(uniform, uniform, np.arange(9)).figures()["perplexity"] == pytest.approx(50)


def test_top1_agreement_counts_equal_first_choices():
    p = log_softmax(np.eye(4, dtype=np.float32) * 5)
    q = log_softmax(np.eye(4, dtype=np.float32)[[0, 1, 3, 2]] * 5)
    assert top1_agreement(p, q).tolist() == [True, True, False, False]


def test_a_candidate_that_is_the_reference_loses_nothing():
    p = log_softmax(logits(3))
    figures = compare(p, p, np.arange(5)).figures()
    assert figures["kl_mean"] == 0
    assert figures["top1_agreement"] == 1
    assert figures["perplexity_ratio"] == 1
    assert figures["tokens"] == 5


def test_perplexity_can_hide_a_ruined_model_that_kl_and_top1_show():
    p = log_softmax(logits(4, positions=400))
    targets = np.random.default_rng(0).integers(0, 17, 400)
    ruined = log_softmax(np.roll(p, 3, axis=1))
    ratio = compare(p, ruined, targets).figures()
    assert ratio["kl_mean"] > 1
    assert ratio["top1_agreement"] < 0.2


@given(st.integers(4, 40), st.integers(1, 6), st.integers(0, 200), st.booleans())
def test_windows_score_their_second_half_against_the_true_next_tokens(size, count, length, begins):
    ids, bos = list(range(length)), [-7] if begins else []
    windows = windows_of(ids, size, count, bos)
    assert all(window.ids[: len(bos)] == bos for window in windows)
    assert len(windows) == min(count, length // size)
    for window in windows:
        scored = window.ids[window.scored]
        assert window.targets.tolist() == [token + 1 for token in scored]
        assert len(scored) == size - 1 - size // 2


def test_a_reference_is_read_back_exactly_and_refused_for_other_tokens(tmp_path):
    windows = windows_of(list(range(20)), 10, 2, [])
    logs = log_softmax(logits(5, positions=8))
    np.save(tmp_path / "logprobs.npy", logs)
    folder = tmp_path / "reference"
    reference.save(folder, tmp_path / "logprobs.npy", [[1, 2]], windows, "digest", "meaning")
    found = reference.read(folder, windows, "digest")
    np.testing.assert_array_equal(found.logs, logs)
    assert found.greedy == [[1, 2]]
    assert reference.meaning_in(folder) == "meaning"
    with pytest.raises(SlmflowError, match="made on other tokens"):
        reference.read(folder, windows_of(list(range(1, 21)), 10, 2, []), "digest")
    with pytest.raises(SlmflowError, match="made from other weights"):
        reference.read(folder, windows, "another digest")
