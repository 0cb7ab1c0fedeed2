"""The embedded engine: model processes on this machine that answer a partition at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from slmflow.errors import SlmflowError, first_line, one_line
from slmflow.models.slm_runtime.cores import physical_cores

if TYPE_CHECKING:
    from types import TracebackType

    from slmflow.scoring.work import Work

CORES_A_PROCESS = 4
ATTEMPTS = 2
"""Of a partition that failed, before its rows are asked one by one."""
_model: Any = None


class LoadError(Exception):
    """The model cannot be loaded: no row's fault."""


def processes_of(wanted: int) -> int:
    """How many processes there are; 0 asks for one for each four cores."""
    return wanted or max(1, physical_cores() // CORES_A_PROCESS)


def begin_process() -> None:
    """In a model process: leave Ctrl-C to the command, and do not outlive it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = multiprocessing.parent_process()
    assert command is not None

    def end_with_it() -> None:
        connection.wait([command.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def load(uri: str, threads: int) -> None:
    """Load the model, in a process of its own: two versions never live in one. Raises LoadError."""
    global _model
    import mlflow

    if _model is None:
        try:
            _model = mlflow.pyfunc.load_model(uri, model_config={"tracing": False, "threads": threads})
        except Exception as error:
            raise LoadError(first_line(error)) from None


def ask_loaded(uri: str, threads: int, requests: list[str]) -> list[dict[str, Any]]:
    """As `ask`, in a process that need not have the model yet."""
    load(uri, threads)
    return ask(requests)


def ask(requests: list[str]) -> list[dict[str, Any]]:
    """The reports on requests, in their order."""
    import pandas as pd

    found: list[dict[str, Any]] = _model.predict(
        pd.DataFrame({"prompt": requests}), params={"requests": "json"}
    )
    return found


class Pool:
    """Model processes, made anew when one of them dies, and killed when the command is given up.

    Raises SlmflowError where the model cannot be loaded: that is no row's fault.
    """

    def __init__(self, uri: str, processes: int) -> None:
        self._uri, self._processes = uri, processes
        self._threads = max(1, physical_cores() // processes)
        self._executor = self._start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # what they compute is not kept any more
            _kill(self._executor)
        self._executor.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        made = ProcessPoolExecutor(self._processes, multiprocessing.get_context("spawn"), begin_process)
        try:
            made.submit(load, self._uri, self._threads).result()
        except BrokenProcessPool:
            raise SlmflowError(
                f"model_uri={self._uri}: its process died while it was loaded; see the memory of this machine"
            ) from None
        except LoadError as error:
            made.shutdown()
            raise self.unloadable(error) from None
        except BaseException:
            _kill(made)
            made.shutdown(cancel_futures=True)
            raise
        return made

    def unloadable(self, error: LoadError) -> SlmflowError:
        """What users are told of it."""
        return SlmflowError(f"model_uri={self._uri}: cannot be loaded: {error}")

    def submit(self, requests: list[str]) -> Future[list[dict[str, Any]]]:
        """Ask in the next process that is free."""
        words = (self._uri, self._threads, requests)
        try:
            return self._executor.submit(ask_loaded, *words)
        except BrokenProcessPool:
            self.renew()
            return self._executor.submit(ask_loaded, *words)

    def renew(self) -> None:
        """After a death: the others of a broken pool are gone too."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self._start()


def _kill(executor: ProcessPoolExecutor) -> None:
    for process in list((executor._processes or {}).values()):
        process.kill()


def score(work: Work, uri: str, processes: int, parts: list[int] | None = None) -> Iterator[int]:
    """Answer partitions, by default all that are pending; yields the rows of each as it is kept.

    A partition that fails, or whose process dies, is asked again; the second time row by row, and the row
    that fails is an error in its row.
    """
    waiting = work.pending() if parts is None else list(parts)
    failures: dict[int, int] = {}
    running: dict[Future[list[dict[str, Any]]], tuple[int, list[dict[str, Any]], list[int]]] = {}
    with Pool(uri, processes_of(processes)) as pool:
        while waiting or running:
            while waiting and len(running) <= processes_of(processes):
                part = waiting.pop(0)
                asked = work.read_requests(part)
                rows = by_length(asked)
                if not rows:
                    work.keep(part, [])
                    yield len(asked)
                    continue
                if failures.get(part, 0) >= ATTEMPTS:
                    # Nothing else may run meanwhile: its process would go with the other's.
                    if running:
                        waiting.insert(0, part)
                        break
                    work.keep(part, one_by_one(pool, asked, rows))
                    yield len(asked)
                    continue
                running[pool.submit([asked[at]["request"] for at in rows])] = (part, asked, rows)
            if not running:
                continue
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                part, asked, rows = running.pop(future)
                try:
                    reports = future.result()
                except LoadError as error:
                    raise pool.unloadable(error) from None
                except Exception:  # a death, or what the engine raised
                    failures[part] = failures.get(part, 0) + 1
                    waiting.insert(0, part)
                    continue
                work.keep(part, indexed(asked, rows, reports))
                yield len(asked)


def by_length(asked: list[dict[str, Any]]) -> list[int]:
    """Positions of the rows that are asked, longest first: rows decoded together end together."""
    found = [at for at, row in enumerate(asked) if row["request"] is not None]
    return sorted(found, key=lambda at: -len(asked[at]["request"]))


def indexed(
    asked: list[dict[str, Any]], rows: list[int], reports: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Reports with the index of their row."""
    return [{"index": asked[at]["index"], **report} for at, report in zip(rows, reports, strict=True)]


def failed(error: str) -> dict[str, Any]:
    """The report on a row that the model did not survive."""
    return {"text": "", "finish_reason": "", "prompt_tokens": 0, "completion_tokens": 0, "error": error}


def one_by_one(pool: Pool, asked: list[dict[str, Any]], rows: list[int]) -> list[dict[str, Any]]:
    """Each row alone; what happens then is the row's."""
    reports = []
    for at in rows:
        try:
            reports += pool.submit([asked[at]["request"]]).result()
        except BrokenProcessPool:
            reports.append(failed("the model's process died at this row"))
        except LoadError as error:
            raise pool.unloadable(error) from None
        except SlmflowError:
            raise
        except Exception as error:
            reports.append(failed(one_line(error)))
    return indexed(asked, rows, reports)
