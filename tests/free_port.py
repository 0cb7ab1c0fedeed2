"""A port of loopback that nobody listens on."""

import socket

POLL_SECONDS = 0.02
"""For `serve_forever` of a stand-in: its end waits for the next look, which is half a second by default."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
