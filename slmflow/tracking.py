"""The tracking server as it fails its callers: away, or refusing; told in one line without a password.

MLflow repeats a request that breaks or is answered by 429 or 5xx for some four minutes
(MLFLOW_HTTP_REQUEST_MAX_RETRIES=7, MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR=2: waits of 0, 4, 8 … 120 s), so a
server that restarts costs a retry. What comes here is a server that stayed away longer.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from slmflow.errors import UnavailableError

PATIENCE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
ANSWER_SECONDS = "MLFLOW_HTTP_REQUEST_TIMEOUT"
UPLOAD_SECONDS = 3600
"""How long an uploaded file may take to be answered: a proxy stores it elsewhere first, and a client that
gave up after MLflow's 120 s would send gigabytes again."""
REFUSED = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "CUSTOMER_UNAUTHORIZED": 403}
BAD_HOST = 421
"""What MLflow's 403 for a host name that it was not told of means: Misdirected Request."""
AWAY = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")
"""MLflow's basic auth answers 403 to who asks for what does not exist, unless it is an administrator."""


def uncover(environment: MutableMapping[str, str]) -> None:
    """Move user name and password out of the URIs of a server, into the variables that MLflow has for them.

    In the URI they would come into every message and record that names the server.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        uri = environment.get(name, "")
        if not uri.startswith(("http://", "https://")) or "@" not in urlsplit(uri).netloc:
            continue
        parts = urlsplit(uri)
        userinfo, _, place = parts.netloc.rpartition("@")
        user, colon, password = userinfo.partition(":")
        environment[name] = urlunsplit((parts.scheme, place, parts.path, parts.query, parts.fragment))
        if not colon or not user:  # one word is a token, which is no name to be told in a message
            environment.setdefault("MLFLOW_TRACKING_TOKEN", unquote(user or password))
            continue
        environment.setdefault("MLFLOW_TRACKING_USERNAME", unquote(user))
        environment.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(password))


def without_userinfo(uri: str) -> str:
    """An http(s) address without user name and password; everything else as it is (`git@host:…` needs it)."""
    return re.sub(r"^(https?://)[^/?#]*@", r"\1", uri)


def store_name() -> str:
    """The tracking URI without user name, password or query."""
    import mlflow
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        parts = urlsplit(uri)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    try:
        url = make_url(uri)
        return URL.create(
            url.drivername, host=url.host, port=url.port, database=url.database
        ).render_as_string()
    except ArgumentError:  # a folder, or a name such as databricks
        return uri


def problem_of(error: BaseException) -> str | None:
    """One line for a failure of the tracking server or of the way to it; None where it is something else."""
    if isinstance(error, UnavailableError):
        return str(error)
    status, cause = _answer(error)
    if status is None:
        return None
    server = f"tracking server {store_name()}"
    if status == BAD_HOST:
        return (
            f"{server}: does not answer to this name ({cause}); start it with "
            f"--allowed-hosts {urlsplit(store_name()).netloc}"
        )
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    who = f"user {user}" if user else "a caller without MLFLOW_TRACKING_USERNAME"
    if not user and os.environ.get("MLFLOW_TRACKING_TOKEN"):
        who = "the holder of MLFLOW_TRACKING_TOKEN"
    if status == 401:
        return (
            f"{server}: does not know {who} by this password; "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if status == 403:
        return (
            f"{server}: refuses {who} {cause}: not there, or no permission; "
            "its administrator can grant EDIT on the experiment or the registered model"
        )
    return (
        f"{server}: no answer ({cause}); when it is back, or MLFLOW_TRACKING_URI names it, "
        "the same command goes on where it stopped"
    )


def is_outage(line: str) -> bool:
    """Whether a line, as `problem_of` or a download gives it, says that the server was away for a while."""
    away = (
        r"\btracking server \S+: (no answer|.* broke off \d+ times)|\bartifact store of \S+: .* cannot be had"
    )
    return re.search(away, line) is not None


def is_absent(error: BaseException) -> bool:
    """Whether the answer was that the thing is not there, or not for this user to see."""
    return getattr(error, "error_code", None) in ABSENT


def raise_problem(error: BaseException) -> None:
    """Raise UnavailableError where the server is at fault: what cannot be asked for is not missing."""
    if line := problem_of(error):
        raise UnavailableError(line) from None


@contextlib.contextmanager
def last_words(error: BaseException) -> Iterator[None]:
    """Say on a run why it ended, as far as the server will hear: never in place of the reason itself.

    Of a server that stayed away everything else is asked once, or each of the last requests would wait
    for it as long.
    """
    away = problem_of(error) is not None
    if away:
        os.environ[PATIENCE] = "0"
    try:
        yield
    except Exception as other:
        if problem_of(other) is None:
            raise


@contextlib.contextmanager
def uploading() -> Iterator[None]:
    """Wait for the answer to an upload as long as it may take, unless the user has said how long."""
    if ANSWER_SECONDS in os.environ:
        yield
        return
    os.environ[ANSWER_SECONDS] = str(UPLOAD_SECONDS)
    try:
        yield
    finally:
        os.environ.pop(ANSWER_SECONDS, None)


def _answer(error: BaseException) -> tuple[int | None, str]:
    """The HTTP status behind an exception with its cause in some words; 503 where there was no answer."""
    exceptions, requests = sys.modules.get("mlflow.exceptions"), sys.modules.get("requests")
    if exceptions is not None and isinstance(error, exceptions.MlflowException):
        return _answer_of_mlflow(error)
    if requests is not None and isinstance(error, requests.RequestException):
        return _answer_of_requests(error)
    return None, ""


def _answer_of_mlflow(error: Any) -> tuple[int | None, str]:
    text = str(error)
    if "Invalid Host header" in text:
        return BAD_HOST, "Invalid Host header"
    if (status := REFUSED.get(error.error_code)) is not None:
        found = re.search(r"endpoint /api/[\d.]+/(\S+)", text)
        return status, found[1] if found else "this request"
    if error.error_code in AWAY:
        return 503, str(error.error_code)
    # Errors of several files come as one text.
    if found := re.search(r"\b(401|403) Client Error", text):
        return int(found[1]), "its artifacts"
    if found := re.search(r"\b5\d\d (?:Server Error|!=)|API request to \S+ failed with .*exception", text):
        return 503, _cause(text)
    return None, ""


def _answer_of_requests(error: Any) -> tuple[int | None, str]:
    import mlflow

    url = str(getattr(error.request, "url", "") or "")
    place = urlsplit(mlflow.get_tracking_uri()).netloc.rpartition("@")[2]
    if not place or urlsplit(url).netloc.rpartition("@")[2] != place:
        return None, ""  # a hub's, say
    status = error.response.status_code if error.response is not None else 503
    if status == 403 and "Invalid Host header" in error.response.text:
        return BAD_HOST, "Invalid Host header"
    if status in (401, 403):
        return status, "its artifacts"
    return (503, _cause(str(error))) if status >= 500 or error.response is None else (None, "")


def _cause(text: str) -> str:
    """What happened, out of the exceptions of urllib3 that are wrapped into each other's messages."""
    for pattern in (r"\[Errno -?\d+\] ([^\"'()]+)", r"too many \d+ error responses", r"Read timed out"):
        if found := re.search(pattern, text):
            return found[found.lastindex or 0].strip()
    if found := re.search(r"\b5\d\d (?:Server Error: [\w ]+?)(?= for url)", text):
        return found[0]
    found = re.search(r"Caused by (\w+)|\('(Connection[^']+)'", text)
    return (found[1] or found[2]) if found else "the connection broke"
