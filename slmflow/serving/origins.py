"""Who may use a server that asks for no token: not the web pages that its user happens to have open.

A page of any site may send a plain POST to a port of the visitor's machine without asking first, and one
whose name is pointed at 127.0.0.1 may read the answer too (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from slmflow.serving.errors import ApiError


def refuse_other_sites(headers: Headers, host: str, cors: str) -> None:
    """Raise ApiError 403 for a request that a page of another site sent.

    `host` is the address that the server listens on: only on loopback is a name in the header Host
    suspicious. `cors` is the one origin that may.
    """
    origin, named = headers.get("origin", ""), headers.get("host", "")
    if origin and origin != cors and origin.partition("://")[2] != named:
        raise ApiError(
            403,
            f"pages of {origin[:100]} may not use this server: start it with cors={origin[:100]}, or a token",
        )
    if is_loopback(host) and not is_address(name := hostname(named)) and name not in ("localhost", host):
        raise ApiError(
            403, f"the header Host names {name[:100]!r}: use localhost, or start the server with a token"
        )


def hostname(netloc: str) -> str:
    """The host of `host:port`, in lower case; what is neither comes back as it is."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return netloc


def is_address(name: str) -> bool:
    """Whether it is an IP address, which no DNS server can point elsewhere; an absent Host counts as one."""
    try:
        ipaddress.ip_address(name or "127.0.0.1")
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    return host == "localhost" or (is_address(host) and bool(host) and ipaddress.ip_address(host).is_loopback)
