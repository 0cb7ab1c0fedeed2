"""What the answers of an artifact store mean: damage is said to everybody, a reader's own trouble is not."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from slmflow.errors import DamagedError, SlmflowError, UnavailableError, first_line
from slmflow.tracking import raise_problem, store_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GONE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
CLOUDS = ("azure", "boto3", "botocore", "google")
"""Packages whose exceptions are of no type that is known here."""


def asked(request: Callable[[], Any], what: str) -> Any:
    """The answer of a store.

    Raises DamagedError where it has no such thing, UnavailableError where it cannot be asked or refuses,
    OSError where this machine cannot keep the answer, and what requests raises where the answer breaks off.
    """
    import requests
    from mlflow.exceptions import MlflowException

    try:
        return request()
    except requests.HTTPError as error:
        _refuse(what, error, error.response.status_code if error.response is not None else 503)
    except requests.RequestException:
        raise
    except MlflowException as error:
        gone = error.error_code in GONE or re.search(r"\b404 Client Error", str(error))
        _refuse(what, error, 404 if gone else 503)
    except OSError as error:
        if error.errno is None or isinstance(error, (ConnectionError, TimeoutError)):
            _refuse(what, error, 503)
        raise  # of this machine
    except Exception as error:  # of a cloud's own client
        answer = getattr(error, "response", None)
        if not type(error).__module__.startswith(CLOUDS):
            raise
        code = str(answer.get("Error", {}).get("Code")) if isinstance(answer, dict) else ""
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        _refuse(what, error, 404 if code in ("404", "NoSuchKey") or status == 404 else 503)


def _refuse(what: str, error: BaseException, status: int) -> NoReturn:
    """Raise what an answer other than the artifact means. Its address may be a signed one: it is not told."""
    if status == 404:
        raise DamagedError(f"{what}: not there") from None
    raise_problem(error)
    kind = re.sub(r"(https?://[^\s?]+)\?\S*", r"\1?…", first_line(error))
    raise UnavailableError(
        f"artifact store of {store_name()}: {what} cannot be had ({kind}); "
        "the same command goes on where it stopped"
    ) from None


@contextlib.contextmanager
def kept_here(place: Path) -> Iterator[None]:
    """Tell in one line what this machine cannot keep: a full disk, a folder without permission."""
    import requests

    try:
        yield
    except requests.RequestException:
        raise
    except OSError as error:
        raise SlmflowError(
            f"{error.filename or place}: what is downloaded cannot be kept on this machine: "
            f"{error.strerror or first_line(error)}; make room, or name another place by XDG_CACHE_HOME"
        ) from None
