"""Speed is that of the fastest of some answers, and a busy machine is told from a quiet one."""

import os
import subprocess
import sys
import time

import pytest

from slmflow.quality import cost, others
from slmflow.quality.cost import busy, measure_speed
from slmflow.quality.others import others_at_work


class Clock:
    """A candidate whose answers take what the test says: seconds to the first token, and between two."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0

    def token_times(self, ids, new_tokens):
        first, gap = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [first + gap * at for at in range(new_tokens)]


def test_the_fastest_of_the_answers_is_told_and_the_median_beside_it(monkeypatch):
    monkeypatch.setattr(cost, "others_at_work", lambda: 0.0)
    warming, *rest = (9.0, 9.0), (0.4, 0.1), (0.2, 0.25), (0.5, 0.5)
    candidate = Clock(warming, *rest)
    found = measure_speed(candidate, list(range(64)), 5, 3)
    assert candidate.asked == 4
    assert found["decode_tokens_per_second"] == pytest.approx(10)
    assert found["decode_tokens_per_second_median"] == pytest.approx(4)
    assert found["decode_tokens_per_second_min"] == pytest.approx(2)
    assert (found["ttft_seconds"], found["ttft_seconds_median"]) == (0.2, 0.4)
    assert found["prefill_tokens_per_second"] == pytest.approx(320)


def evaluation(before=0.0, after=0.0, threads="2", cores="2"):
    return {
        "machine": {"threads": threads, "cores": cores},
        "cost": {"others_before": before, "others_after": after},
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (evaluation(), ""),
        (evaluation(0.2, 0.1), ""),
        (evaluation(0.0, 1.3), "other processes used 1.3 of 2 processors"),
        (evaluation(1.0, 0.0), "other processes used 1.0 of 2 processors"),
        (evaluation(3.0, 3.0, threads="8", cores="4"), ""),
        (evaluation(5.0, 3.0, threads="8", cores="4"), "other processes used 5.0 of 8 processors"),
        ({"machine": {"threads": "2", "cores": "2"}, "cost": {"decode_tokens_per_second": 20.0}}, ""),
        ({"cost": {}}, ""),
        ({"machine": None, "cost": None}, ""),
    ],
)
def test_a_machine_is_busy_where_others_leave_too_few_processors_and_an_old_evaluation_says_nothing(
    found, said
):
    assert busy(found) == said


def test_the_work_of_others_is_told_from_our_own():
    """A process that computes is seen as others; the same work in this process is not."""
    spin = [sys.executable, "-c", "while True: pass"]
    before = others_at_work(0.3)
    other = subprocess.Popen(spin)
    try:
        time.sleep(0.2)
        during = others_at_work(1.0)
    finally:
        other.kill()
        other.wait()
    # Beside other tests it may get half of a processor.
    assert during > 0.2
    assert 0 <= before <= len(os.sched_getaffinity(0)) >= during - 0.1


def test_own_work_is_not_that_of_others(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    numbers = iter([(100.0, 5.0), (101.5, 6.5)])
    monkeypatch.setattr(others, "busy_seconds", lambda: next(numbers))
    assert others_at_work(0.5) == 0.0
