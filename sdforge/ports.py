"""Binds the port to listen on, or says in a sentence why it cannot be had; and its address."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Mapping
from typing import Any

_TRIES = 100


class PortError(Exception):
    """No socket could be bound; the message says what to do."""


def bind(host: str, port: int | None, default: int) -> socket.socket:
    """Return a socket that listens on `port`; None is the first free one from `default` on.

    Raises:
        PortError: the port, or the address, is not to be had.
    """
    if port is not None:
        try:
            return _listen(host, port)
        except OSError as error:
            raise PortError(_explain(host, port, error)) from error
    last = min(default + _TRIES, 65536) - 1
    for candidate in range(default, last + 1):
        try:
            return _listen(host, candidate)
        except OSError as error:
            if not _is_taken(error):
                raise PortError(_explain(host, candidate, error)) from error
    raise PortError(f"the ports {default} to {last} are all taken; choose another by --port")


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":
            # There SO_REUSEADDR would let two servers share the port.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Connections that come before the server is up wait instead of failing.
        bound.listen(128)
    except OSError:
        bound.close()
        raise
    return bound


def _is_taken(error: OSError) -> bool:
    # Windows answers an exclusive bind with "access denied".
    return error.errno == errno.EADDRINUSE or (
        sys.platform == "win32" and isinstance(error, PermissionError)
    )


def _explain(host: str, port: int, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"--server-name {host} is no address of this machine ({error.strerror})"
    if _is_taken(error):
        with bind(host, None, port + 1) as free:
            found = free.getsockname()[1]
        return f"port {port} is taken, perhaps by another sdforge; --port {found} is free"
    if isinstance(error, PermissionError):
        return f"port {port} needs administrator rights; choose one above 1023 by --port"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"


def url_of(bound: socket.socket, flags: Mapping[str, Any]) -> str:
    """Return the address to open in a browser on this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    scheme = "https" if flags["tls_certfile"] else "http"
    subpath = (flags["subpath"] or "").strip("/")
    return f"{scheme}://{host}:{port}/{subpath}"
