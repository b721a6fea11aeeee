"""A wall around Python's sockets: everything but Unix-domain sockets raises."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any


class NetworkUsed(AssertionError):
    """Something tried to reach a network."""


def refuse_network(set_attribute: Callable[[Any, str, Any], object] = setattr) -> None:
    """Replace the ways out of `socket`; pass pytest's `monkeypatch.setattr` to have them back afterwards."""

    def guarded(method: Callable) -> Callable:
        def call(self: socket.socket, *args: Any) -> Any:
            if getattr(socket, "AF_UNIX", None) != self.family:
                raise NetworkUsed(f"{method.__name__}{args!r} in code that must work offline")
            return method(self, *args)

        return call

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise NetworkUsed(f"looked up {args!r} in code that must work offline")

    for name in ("connect", "connect_ex", "sendto"):
        set_attribute(socket.socket, name, guarded(getattr(socket.socket, name)))
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        set_attribute(socket, name, refused)
