"""Every row asked of one model version, in a process of its own, with a journal that outlives a crash."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slmflow
from slmflow.errors import SlmflowError
from slmflow.files import cache_folder, canonical_digest, write_text
from slmflow.monitoring.call import Call, failed, observed
from slmflow.monitoring.redaction import Redactor

if TYPE_CHECKING:
    from slmflow.monitoring.patterns import Finder
    from slmflow.monitoring.traces import Row

REQUEST_SECONDS = 600.0
"""A request without an answer after this time is an error; its process is ended and started anew."""
LOAD_SECONDS = 1800.0
STARTS = 3
"""Processes that may die one after the other without an answer between them."""


class DiedError(Exception):
    """The model's process is gone."""


class Asker:
    """The process of one model version; started when it is first asked."""

    def __init__(self, uri: str, folder: Path, seconds: float = REQUEST_SECONDS) -> None:
        self._uri, self._seconds = uri, seconds
        self._errors = folder / "worker.err"
        self._process: subprocess.Popen[str] | None = None

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """What `worker.outcome` says. Raises DiedError, and SlmflowError when the model does not load."""
        if self._process is None:
            self._start()
        return self._exchange(body, self._seconds)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    def _start(self) -> None:
        import mlflow

        root = str(Path(slmflow.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
            "MLFLOW_REGISTRY_URI": mlflow.get_registry_uri(),
        }
        environment.pop("MLFLOW_RUN_ID", None)  # the run is this process's
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "slmflow.monitoring.worker", f"model_uri={self._uri}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                encoding="utf-8",
            )
        try:
            said = self._exchange(None, LOAD_SECONDS)
        except DiedError as error:
            raise SlmflowError(f"{self._uri}: its process ended while it loaded: {error}") from None
        if "failed" in said:
            self.close()
            raise SlmflowError(f"{self._uri}: cannot be loaded: {said['failed']}")

    def _exchange(self, body: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            if body is not None:
                process.stdin.write(json.dumps(body) + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line.endswith("\n"):
            said: dict[str, Any] = json.loads(line)
            return said
        self.close()
        why = (
            f"no answer after {seconds:g} seconds" if late.is_set() else self._last_words(process.returncode)
        )
        raise DiedError(why)

    def _last_words(self, status: int) -> str:
        lines = self._errors.read_text(errors="replace").splitlines() if self._errors.exists() else []
        said = next((line.strip() for line in reversed(lines) if line.strip()), "without a word")
        return f"the model's process ended with status {status}: {said[:200]}"


def ask_all(
    asker: Asker, rows: list[Row], seed: int, rules: dict[str, Finder], journal: Path, name: str
) -> dict[str, Call]:
    """A call a row, by the row's id; never a lost run for the sake of one row.

    One after the other, each with its own sampling, and `seed` where it has none. Calls are appended to
    `journal` as they come, and those found there are not asked again; what follows a torn line is.
    """
    from tqdm import tqdm

    known = _read(journal)
    keys = {row.id: f"{row.id} {canonical_digest(row.request)}" for row in rows}
    todo = [row for row in rows if keys[row.id] not in known]
    deaths = 0
    write_text(journal, "".join(_line(key, call) for key, call in known.items()))
    with journal.open("a", encoding="utf-8") as file:
        for row in tqdm(todo, desc=f"  {name}", total=len(rows), initial=len(rows) - len(todo)):
            redactor = Redactor(rules)
            body = {"seed": seed, "deterministic": True, **row.request}
            try:
                if row is todo[0]:
                    with contextlib.suppress(DiedError):  # the first call of a process is slower than others
                        asker.ask({**body, "max_tokens": 1, "max_completion_tokens": None})
                said = asker.ask(body)
                deaths = 0
            except DiedError as error:
                deaths += 1
                if deaths >= STARTS:
                    why = redactor.text(str(error))
                    raise SlmflowError(f"{name}: {deaths} requests in a row got no answer: {why}") from None
                said = {"error": str(error), "seconds": None}
            call = (
                failed(said["error"], said["seconds"], redactor)
                if "error" in said
                else observed(row.request, said["output"], said["usage"], [], said["seconds"], redactor)
            )
            known[keys[row.id]] = call
            file.write(_line(keys[row.id], call))
            file.flush()
    return {row.id: known[keys[row.id]] for row in rows}


@contextlib.contextmanager
def journal_of(*parts: Any) -> Iterator[Path]:
    """A folder for the journal of what the parts name; it goes when the block ends well."""
    import shutil

    folder = cache_folder() / "replays" / canonical_digest(parts)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _line(key: str, call: Call) -> str:
    return json.dumps({"id": key, **asdict(call)}) + "\n"


def _read(journal: Path) -> dict[str, Call]:
    calls = {}
    for line in journal.read_bytes().splitlines(keepends=True) if journal.exists() else []:
        try:
            found = json.loads(line)
            name = str(found.pop("id"))
            calls[name] = Call(**found)
        except (ValueError, TypeError, KeyError, AttributeError):
            break
    return calls
