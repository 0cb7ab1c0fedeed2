"""What the command line says, checked."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from slmflow.errors import SlmflowError
from slmflow.serving.follow import ModelUri
from slmflow.words import read_words

TOKEN_ENV = "SLMFLOW_TOKEN"  # noqa: S105
DEFAULTS = {
    "model_uri": "",
    "host": "127.0.0.1",
    "port": "8000",
    "engine": "",
    "token_env": "",
    "cors": "",
    "max_body_mb": "8",
    "body_seconds": "30",
    "drain_seconds": "30",
    "follow_seconds": "10",
    "load_seconds": "600",
}


@dataclass(frozen=True)
class Settings:
    """How one front serves."""

    model: ModelUri
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    engine: str = ""
    """Empty leaves the choice to the worker."""
    token_env: str = TOKEN_ENV
    """The variable that the token was read from; workers do not get it."""
    token: str = ""
    """What a client must show; empty lets everybody in."""
    cors: str = ""
    """The one origin whose pages may use the front; empty for none."""
    max_body_bytes: int = 8_000_000
    body_seconds: float = 30.0
    """What the headers of a request, and then its body, may each take to arrive."""
    drain_seconds: float = 30.0
    follow_seconds: float = 10.0
    load_seconds: float = 600.0


def parse_settings(argv: list[str]) -> Settings:
    """Settings of `name=value` words; the token comes from the environment. Raises SlmflowError."""
    words = read_words("serving", argv, tuple(DEFAULTS)).declared
    words = {name: words.get(name) or default for name, default in DEFAULTS.items()}
    if not words["model_uri"]:
        raise SlmflowError("model_uri= is missing: for instance model_uri=models:/<name>@champion")
    port = _number(words, "port", 0, 65535)
    if port != int(port):
        raise SlmflowError(f"port={words['port']}: must be a whole number")
    return Settings(
        model=ModelUri(words["model_uri"]),
        host=words["host"],
        port=int(port),
        engine=words["engine"],
        token_env=words["token_env"] or TOKEN_ENV,
        token=_token(words["token_env"]),
        cors=_origin(words["cors"]),
        max_body_bytes=int(_number(words, "max_body_mb", 0.001, 60) * 1e6),
        body_seconds=_number(words, "body_seconds", 0.1, 3600),
        drain_seconds=_number(words, "drain_seconds", 0, 3600),
        follow_seconds=_number(words, "follow_seconds", 0.1, 86400),
        load_seconds=_number(words, "load_seconds", 1, 86400),
    )


def _number(words: dict[str, str], name: str, least: float, most: float) -> float:
    try:
        value = float(words[name])
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise SlmflowError(f"{name}={words[name]}: must be a number from {least:g} to {most:g}")
    return value


def _token(variable: str) -> str:
    token = os.environ.get(variable or TOKEN_ENV, "")
    if variable and not token:
        raise SlmflowError(f"token_env={variable}: that variable is not set: export {variable}=<token>")
    if not token.isascii() or any(sign.isspace() for sign in token):
        raise SlmflowError(f"the token in {variable or TOKEN_ENV} has spaces or signs outside ASCII")
    return token


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or text != f"{parts.scheme}://{parts.netloc}"):
        raise SlmflowError(f"cors={text}: must be one origin such as https://example.org")
    return text
