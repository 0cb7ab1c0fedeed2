"""Serve a model over HTTP, as OpenAI's API and as MLflow's scoring server.

    python -m slmflow.serving model_uri=models:/smollm2-135m-onnx@champion

`model_uri` may also be models:/<name>/<version>, models:/m-…, runs:/<id>/<path> or a folder of an MLflow
model. An alias is followed: when it is moved, the other version takes over without a lost request. With
SLMFLOW_TOKEN set (or the variable that `token_env` names), clients must send it as a bearer token. Exit
status 0 after SIGTERM or SIGINT, 1 for bad arguments, 2 where the port is taken.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable

from slmflow.errors import exit_status
from slmflow.serving.follow import Target
from slmflow.serving.pool import PoolSettings
from slmflow.serving.server import bind, serve
from slmflow.serving.settings import parse_settings

LOCAL = ("127.0.0.1", "::1", "localhost")


def run(
    argv: list[str],
    pool_settings: PoolSettings | None = None,
    resolve: Callable[[], Target] | None = None,
) -> int:
    """Serve until told to end; returns the exit status. Raises SlmflowError for bad words."""
    settings = parse_settings(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    log = logging.getLogger("slmflow.serving")
    log.setLevel(logging.INFO)
    try:
        bound = bind(settings.host, settings.port)
    except OSError as error:
        where = f"host={settings.host} port={settings.port}"
        print(
            f"slmflow serving: {where}: {error.strerror}; choose another, port=0 takes a free one",
            file=sys.stderr,
        )
        return 2
    if settings.host not in LOCAL and not settings.token:
        log.warning("host=%s without a token: everybody who reaches it may use it", settings.host)
    with bound:
        return asyncio.run(serve(settings, bound, pool_settings or PoolSettings(), resolve))


if __name__ == "__main__":
    sys.exit(exit_status("serving", lambda: run(sys.argv[1:])))
