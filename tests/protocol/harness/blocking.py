"""Clients without an event loop, for what must happen while nothing else does."""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import IO

from protocol.harness.client import PATIENCE_S


def dial(uri: str, receive_bytes: int | None = None) -> socket.socket:
    """Connect to a server; a small receive buffer makes a slow reader felt soon."""
    scheme, _, address = uri.partition("://")
    connection = socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET)
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(PATIENCE_S)
    host, _, port = address.rpartition(":")
    connection.connect(address if scheme == "unix" else (host, int(port)))
    return connection


def types_and_codes(answer: IO[bytes]) -> Iterator[tuple[str, str | None]]:
    """Yield the type of every event, and the code of those that are errors, until the connection ends.

    One that ends while the client still sends is reset, once all is read.
    """
    with contextlib.suppress(ConnectionResetError):
        while line := answer.readline():
            header = json.loads(line)
            data = json.loads(answer.read(header.get("data_length", 0)) or b"{}")
            answer.read(header.get("payload_length", 0))
            yield header["type"], data.get("code")
