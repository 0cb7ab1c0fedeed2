"""Many at once: the right answer to each, and no memory that grows."""

import random
import sys
import threading

import psutil
import pytest

from tests.serving.live.conftest import Live


def mixed_bodies(count, seed=0):
    """Requests of many kinds, each with an answer that does not depend on chance."""
    chance = random.Random(seed)
    for number in range(count):
        text = f"Number {number}: " + "very " * chance.randrange(30)
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": chance.randrange(1, 24)}
        if chance.random() < 0.3:
            body |= {"temperature": 1.0, "seed": number}
        if chance.random() < 0.2:
            body |= {"n": 2, "temperature": 0.8, "seed": number}
        if chance.random() < 0.2:
            body["stop"] = ["e", "zz"]
        if chance.random() < 0.2:
            body |= {"presence_penalty": 1.0, "frequency_penalty": 0.5}
        yield body


def texts(live, body):
    response = live.ask(**body)
    assert response.status_code == 200, response.text
    return [choice["message"]["content"] for choice in response.json()["choices"]]


def at_once(live, bodies, threads=8):
    """Every body's answer, asked by several threads in a shuffled order."""
    order = list(range(len(bodies)))
    random.Random(1).shuffle(order)
    answers = [None] * len(bodies)
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                if not order:
                    return
                at = order.pop()
            answers[at] = texts(live, bodies[at])

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    return answers


def test_eight_threads_of_fifty_requests_get_exactly_the_serial_answers_when_deterministic(live):
    bodies = [{**body, "deterministic": True} for body in mixed_bodies(400)]
    serial = [texts(live, body) for body in bodies[::4]]
    assert at_once(live, bodies)[::4] == serial


def test_in_a_batch_no_request_holds_anothers_text(live):
    bodies = list(mixed_bodies(200, seed=7))
    alone = [texts(live, {**body, "deterministic": True}) for body in bodies]
    together = at_once(live, bodies)
    # An fp32 model has no near ties that a batch could turn.
    assert together == alone


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["generate", "continuous"])
def test_two_thousand_requests_leave_no_memory_behind(served_store, engine):
    """In a server whose memory is all its own."""
    live = Live(served_store, "models:/tiny-onnx@champion", f"engine={engine}", python=sys.executable)
    try:
        grows_by_less_than_a_twentieth(live)
    finally:
        live.stop()


def grows_by_less_than_a_twentieth(live):
    worker = psutil.Process(live.process.pid).children()[0]
    at_once(live, list(mixed_bodies(400, seed=1)))
    before = worker.memory_info().rss, psutil.Process(live.process.pid).memory_info().rss
    for seed in range(2, 7):
        at_once(live, list(mixed_bodies(400, seed=seed)))
    after = worker.memory_info().rss, psutil.Process(live.process.pid).memory_info().rss
    assert after[0] < before[0] * 1.05
    assert after[1] < before[1] * 1.05
