"""Where a model URI leads now, and the watch over an alias that may be moved."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from slmflow.artifacts import folder_of
from slmflow.errors import SlmflowError, first_line

T = TypeVar("T")
_ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
_VERSION = re.compile(r"models:/(?P<name>[^/@]+)/(?P<version>[0-9]+)")
_LOGGED = re.compile(r"models:/(?P<id>m-[0-9a-f]+)")
_RUN = re.compile(r"runs:/[0-9a-f]{32}/.+")


@dataclass(frozen=True)
class Target:
    """One version of a model, to be served."""

    uri: str
    """What the worker loads: a URI that always leads to the same model, or a path."""
    name: str = ""
    """The registered model's name; empty when the model is not registered."""
    version: str = ""
    """The registered version, or the LoggedModel's id; empty for a run's artifact or a folder."""

    @property
    def label(self) -> str:
        """Name and version for people."""
        return f"{self.name} version {self.version}" if self.name else self.uri


class ModelUri:
    """A model URI as the user gave it. Raises SlmflowError for one that cannot be served."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._alias = _ALIAS.fullmatch(uri)
        self._fixed = None if self._alias else _fixed(uri)

    @property
    def moves(self) -> bool:
        """Whether the URI may lead to another version later."""
        return self._alias is not None

    def resolve(self) -> Target:
        """Where the URI leads now; asks the registry for an alias. Raises SlmflowError when that fails."""
        if self._fixed is not None:
            return self._fixed
        assert self._alias is not None
        name, alias = self._alias["name"], self._alias["alias"]
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            version = str(MlflowClient().get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            raise SlmflowError(f"model_uri={self.uri}: the registry says: {first_line(error)}") from None
        return Target(f"models:/{name}/{version}", name, version)


def _fixed(uri: str) -> Target:
    if found := _VERSION.fullmatch(uri):
        return Target(uri, found["name"], found["version"])
    if found := _LOGGED.fullmatch(uri):
        return Target(uri, version=found["id"])
    if _RUN.fullmatch(uri):
        return Target(uri)
    folder = None if uri.startswith(("models:", "runs:")) else folder_of(uri)
    if not uri or folder is None:
        raise SlmflowError(
            f"model_uri={uri}: cannot be served; give models:/<name>@<alias>, models:/<name>/<version>, "
            "models:/m-…, runs:/<id>/<path> or a folder"
        )
    if not (folder / "MLmodel").is_file():
        raise SlmflowError(f"model_uri={uri}: no MLflow model: {folder / 'MLmodel'} is not there")
    return Target(str(Path(folder).resolve()))


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, from a thread that the end of the process does not wait for.

    Unlike asyncio's own: a registry that does not answer must not hold up a front that ends.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, failure = None, None
        try:
            value = work()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=run, name="registry", daemon=True).start()
    return await result


async def follow(
    resolve: Callable[[], Target],
    seconds: float,
    moved: Callable[[Target], None],
    failed: Callable[[Exception], None],
) -> None:
    """Ask every `seconds` where the model is, for ever; `moved` hears each answer, `failed` each failure."""
    while True:
        await asyncio.sleep(seconds)
        try:
            target = await in_thread(resolve)
        except Exception as error:
            failed(error)
        else:
            moved(target)
