"""Fidelity is measured window by window: the same twice, and not again after a crash."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmflow.quality import reference
from slmflow.quality.evaluation import Reference, greedy_answers, measure_fidelity, window_rows
from slmflow.quality.fidelity import log_softmax
from slmflow.quality.journal import Journal
from slmflow.quality.windows import spread, windows_of

VOCABULARY, SIZE = 50, 80


class Table:
    """A candidate whose next token depends on the last one alone; it counts the windows that it reads."""

    context_length = 512

    def __init__(self, seed, noise=0.0, fail_at=None):
        chance = np.random.default_rng(3)
        self.logits = chance.standard_normal((VOCABULARY, VOCABULARY)).astype(np.float32) * 3
        self.logits += (
            np.random.default_rng(seed).standard_normal(self.logits.shape).astype(np.float32) * noise
        )
        self.read, self.fail_at = 0, fail_at

    def logprobs(self, ids):
        if self.read == self.fail_at:
            raise MemoryError("meant")
        self.read += 1
        return log_softmax(self.logits[ids])

    def decode_logprobs(self, ids, start):
        return log_softmax(self.logits[ids[start:]])

    def greedy(self, ids, new_tokens):
        answer = [ids[-1]]
        for _ in range(new_tokens):
            answer.append(int(self.logits[answer[-1]].argmax()))
        return answer[1:]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def windows():
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 4 * SIZE).tolist()
    return windows_of(ids, SIZE, 4, [])


def made(candidate, windows):
    logs = np.concatenate([candidate.logprobs(window.ids)[window.scored] for window in windows])
    return Reference(logs, greedy_answers(candidate, windows))


def test_the_reference_itself_loses_nothing_on_any_path(windows):
    figures, _ = measure_fidelity(Table(0), windows, made(Table(0), windows), Journal("a"))
    assert figures["kl_mean"] == figures["decode_kl_mean"] == 0
    assert figures["top1_agreement"] == figures["decode_top1_agreement"] == 1
    assert figures["greedy_prefix_mean"] == 32


def test_a_worse_candidate_is_worse_on_both_paths_and_the_same_twice(windows):
    expected = made(Table(0), windows)
    first, rows = measure_fidelity(Table(0, noise=0.5), windows, expected, Journal("a"))
    again, _ = measure_fidelity(Table(0, noise=0.5), windows, expected, Journal("b"))
    assert first == again
    assert first["kl_mean"] > 0.01 < first["decode_kl_mean"]
    assert {name.removeprefix("decode_") for name in first if name.startswith("decode_")} == {
        name for name in first if not name.startswith(("decode_", "greedy_"))
    }
    assert first["greedy_prefix_mean"] < 32
    table = window_rows(windows, rows)
    assert len(table["data"]) == 4
    assert json.loads(json.dumps(table)) == table


def test_what_a_crash_interrupted_goes_on_where_it_stopped_with_the_same_figures(windows):
    expected = made(Table(0), windows)
    whole, _ = measure_fidelity(Table(0, noise=0.5), windows, expected, Journal("whole"))
    with pytest.raises(MemoryError):
        measure_fidelity(Table(0, noise=0.5, fail_at=2), windows, expected, Journal("crashed"))
    candidate = Table(0, noise=0.5)
    resumed, _ = measure_fidelity(candidate, windows, expected, Journal("crashed"))
    assert candidate.read == 2
    assert resumed == whole


def test_a_torn_or_foreign_journal_is_measured_anew(windows):
    expected = made(Table(0), windows)
    journal = Journal("a")
    whole, _ = measure_fidelity(Table(0, noise=0.5), windows, expected, journal)
    path = journal.folder / "window-1.npz"
    path.write_bytes(path.read_bytes()[:200])
    candidate = Table(0, noise=0.5)
    assert measure_fidelity(candidate, windows, expected, journal)[0] == whole
    assert candidate.read == 1
    journal.close()
    candidate = Table(0, noise=0.5)
    measure_fidelity(candidate, windows, expected, Journal("a"))
    assert candidate.read == 4


def test_an_interrupted_reference_goes_on_where_it_stopped(windows, tmp_path, monkeypatch):
    asked = []

    def logits(folder, batches):
        for ids in batches:
            if len(asked) == 2 and not asked.append(None):
                raise MemoryError("meant")
            asked.append(ids)
            yield Table(0).logits[ids]

    monkeypatch.setattr(reference, "reference_logits", logits)
    with pytest.raises(MemoryError):
        reference.scored_logprobs(tmp_path, windows, tmp_path / "logprobs.npy")
    logs = reference.scored_logprobs(tmp_path, windows, tmp_path / "logprobs.npy")
    assert len(asked) == 5
    np.testing.assert_array_equal(logs, made(Table(0), windows).logs)


def test_windows_are_asked_all_over_the_text_however_many(windows):
    assert [spread(count) for count in range(6)] == [
        [],
        [0],
        [0, 1],
        [0, 2, 1],
        [0, 3, 1, 2],
        [0, 4, 2, 1, 3],
    ]


@given(st.integers(2, 60), st.data())
def test_no_gap_is_more_than_twice_another_and_the_first_are_those_of_any_larger_number(count, data):
    order = spread(count)
    assert sorted(order) == list(range(count))
    asked = sorted(order[: data.draw(st.integers(2, count))])
    gaps = [later - place for place, later in itertools.pairwise(asked)]
    assert asked[0] == 0
    assert asked[-1] == count - 1
    assert max(gaps) <= 2 * min(gaps) + 1


def test_what_was_measured_of_a_window_is_found_again_whichever_others_are_asked(windows):
    expected = made(Table(0), windows)
    ends = [windows[0], windows[3]]
    logs = Reference(np.concatenate([expected.logs[:39], expected.logs[-39:]]), [])
    measure_fidelity(Table(0, noise=0.5), ends, logs, Journal("a"))
    candidate = Table(0, noise=0.5)
    whole, rows = measure_fidelity(candidate, windows, expected, Journal("a"))
    assert candidate.read == 2
    assert whole == measure_fidelity(Table(0, noise=0.5), windows, expected, Journal("b"))[0]
    assert [row[0] for row in window_rows(windows, rows)["data"]] == [0, 1, 2, 3]
