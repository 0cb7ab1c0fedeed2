"""Rows whose layers keep more than keys and values: convolutions, recurrent states, heads that differ by layer."""

import queue
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmflow.models.slm_runtime.job import End, Piece
from slmflow.models.slm_runtime.open_engine import open_engine
from slmflow.models.slm_runtime.request import Request
from slmflow.models.slm_runtime.runtime import Options, Runtime
from slmflow.models.slm_runtime.sampling import Sampling
from tests.families import text_and_graph

FAMILIES = ("Qwen3.5", "LFM2", "LFM2-MoE", "Gemma 4")
WITH_STATES = FAMILIES[:3]
CLIENTS = 8
EXPORTS = ("fp32_cpu", "int8_cpu")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A family's graph by its name and variant, made once for each."""
    made = {}

    def of(family, export="fp32_cpu"):
        if (family, export) not in made:
            made[family, export] = text_and_graph(family, tmp_path_factory.mktemp("graph"), export)[1]
        return made[family, export]

    return of


@pytest.fixture
def serve(graphs):
    """A runtime of a family's graph."""
    running = []

    def start(family, export="fp32_cpu", engine="continuous"):
        sampling = Sampling(max_tokens=24, temperature=0.0, ignore_eos=True)
        running.append(Runtime(graphs(family, export), Options("tiny", engine=engine, sampling=sampling)))
        return running[-1]

    yield start
    for one in running:
        one.close()


def words(client):
    """A chat of its own length."""
    return [{"role": "user", "content": f"Client {client} says: " + "one two three " * client}]


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_of_eight_clients_is_answered_as_alone_though_others_leave_and_one_fails(serve, family, export):
    runtime = serve(family, export)

    def ask(client):
        return runtime.answer(runtime.read({"messages": words(client)})).whole()["choices"][0]["message"][
            "content"
        ]

    alone = [ask(client) for client in range(CLIENTS)]
    assert len(set(alone)) > CLIENTS // 2
    runtime.close()
    runtime = serve(family, export)
    gate = threading.Barrier(CLIENTS)

    def leave(client):
        gate.wait()
        stream = runtime.stream(runtime.read({"messages": words(client), "stream": True}))
        for _ in range(3):
            next(stream)
        stream.close()

    def fail(client):
        heard = []

        def sink(told):
            heard.append(told)
            if isinstance(told, Piece) and len(heard) == 4:
                raise RuntimeError("this consumer is broken")

        gate.wait()
        runtime.submit(runtime.read({"messages": words(client)}), sink)

    def stay(client):
        gate.wait()
        return ask(client)

    roles = [stay, leave, stay, fail, stay, leave, stay, stay]
    with ThreadPoolExecutor(CLIENTS) as clients:
        said = list(clients.map(lambda client: roles[client](client), range(CLIENTS)))
    for client, role in enumerate(roles):
        if role is stay:
            assert said[client] == alone[client], (family, client)


@pytest.mark.parametrize("family", WITH_STATES)
def test_a_prefix_is_reused_whole_or_not_at_all(serve, family):
    runtime = serve(family)

    def ask(ids):
        ended = queue.SimpleQueue()
        request = Request("prompt", ids, Sampling(max_tokens=4, temperature=0.0, ignore_eos=True))
        job, _ = runtime.submit(request, lambda told: ended.put(told) if isinstance(told, End) else None)
        assert ended.get().error is None
        return job.cached_tokens, job.sequences[0].ids

    ids = [5 + at % 900 for at in range(0, 4000, 41)]
    cached, said = ask(ids)
    assert cached == 0
    held = [*ids, *said[:-1]]  # the last token was drawn, and not read
    assert ask([*held, 7, 8])[0] == len(held), "the chat goes on"
    assert ask([*ids[:60], 9, 9])[0] == 0, "another chat with the same beginning"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_that_fails_leaves_all_rows_as_they_were(graphs, family):
    ids = [[5, 9, 13, 17], [21, 25], [33, 37, 41, 45, 49, 53]]

    def begun():
        engine = open_engine(graphs(family), "continuous")
        rows = [engine.open(32) for _ in ids]
        for row, one in zip(rows, ids, strict=True):
            engine.prefill(row, one)
        engine.decode(rows, [3, 4, 5])
        return engine, rows

    engine, rows = begun()
    expected = engine.decode(rows, [6, 7, 8])
    engine, rows = begun()
    right = engine._batch._session
    engine._batch._session = Breaking(right)
    with pytest.raises(RuntimeError, match="broken in the middle"):
        engine.decode(rows, [9, 9, 9])
    engine._batch._session = right
    np.testing.assert_array_equal(engine.decode(rows, [6, 7, 8]), expected)


class Breaking:
    """A session that computes, and then fails."""

    def __init__(self, session):
        self._session = session

    def io_binding(self):
        return self._session.io_binding()

    def run_with_iobinding(self, binding):
        self._session.run_with_iobinding(binding)
        raise RuntimeError("broken in the middle")


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_rows_that_come_go_and_wait_in_any_order_hold_what_they_would_alone(graphs, family, seed):
    """Random schedules of reading, decoding together, parking, copying and closing."""
    chance = random.Random(seed)
    engine = shared_engine(graphs(family))
    rows = {}
    for _ in range(25):
        choice = chance.choice(
            ("open", "open", "read", "decode", "decode", "decode", "park", "copy", "close")
        )
        if choice == "open" and len(rows) < 5:
            rows[engine.open(64)] = []
        elif choice == "copy" and rows and len(rows) < 5:
            source = chance.choice(list(rows))
            if source.tokens and (taken := engine.reuse(source, source.tokens, 64)) is not None:
                rows[taken] = list(rows[source])
        elif choice == "read" and (empty := [row for row, held in rows.items() if not held]):
            row, ids = empty[0], [chance.randrange(5, 1000) for _ in range(chance.randrange(1, 9))]
            rows[row] = ids
            assert_alone(engine, engine.prefill(row, ids), ids)
        elif choice == "decode" and (ready := [row for row, held in rows.items() if 0 < len(held) < 50]):
            group = chance.sample(ready, chance.randrange(1, len(ready) + 1))
            tokens = [chance.randrange(5, 1000) for _ in group]
            logits = engine.decode(group, tokens)
            for row, token, found in zip(group, tokens, logits, strict=True):
                rows[row] = [*rows[row], token]
                assert_alone(engine, found, rows[row])
        elif choice in ("park", "close") and rows:
            row = chance.choice(list(rows))
            if choice == "park":
                engine.park(row)
            else:
                engine.close(row)
                del rows[row]
    for row in rows:
        engine.close(row)
    assert engine.kv_bytes() == 0


ENGINES = {}


def shared_engine(folder):
    """One engine a folder: loading it for each example would take most of the time."""
    if folder not in ENGINES:
        ENGINES[folder] = open_engine(folder, "continuous")
    return ENGINES[folder]


def assert_alone(engine, logits, ids):
    np.testing.assert_allclose(logits, engine.score(ids)[-1], atol=2e-4)


@pytest.mark.parametrize("family", WITH_STATES)
def test_generate_reads_again_what_it_cannot_turn_back_to(graphs, family):
    engine = open_engine(graphs(family), "generate")
    assert not engine.turns_back
    cache = engine.open(64)
    engine.prefill(cache, [5, 6, 7, 8])
    assert engine.reuse(cache, 2, 32) is None
    assert engine.reuse(cache, 4, 32) is cache


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_what_the_graph_takes(graphs, family):
    """Layers without keys take none, and states take the same for any length."""
    engine = open_engine(graphs(family), "continuous")
    row = engine.open(64)
    of = engine.description
    assert engine.kv_bytes() == 64 * of.position_bytes + of.row_bytes
    assert bool(of.row_bytes) == (family in WITH_STATES)
    engine.close(row)
