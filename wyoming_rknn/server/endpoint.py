"""Where the server listens: tcp, unix and stdio addresses."""

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from wyoming_rknn.errors import UsageError

BACKLOG = 512
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""A peer that vanished without a word is given up after a minute of silence: 30 s, then three probes 10 s apart."""
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place to listen at, as written in a URI."""

    scheme: Literal["tcp", "unix", "stdio"]
    host: str = ""
    port: int = 0
    path: Path = Path()

    @classmethod
    def parse(cls, uri: str) -> "Endpoint":
        """Read `tcp://HOST:PORT`, `unix:///path` or `stdio://`. Raises `UsageError`."""
        scheme, _, rest = uri.partition("://")
        scheme = scheme.lower()
        if scheme == "stdio":
            return cls("stdio")
        if scheme == "unix":
            # Not split further: a path may hold any character.
            if not rest:
                raise UsageError(f"{uri!r} names no socket; write unix:///path/to/socket")
            return cls("unix", path=Path(rest))
        if scheme == "tcp":
            try:
                parts = urlsplit(uri)
                port = parts.port
            except ValueError:
                port = None
            if port is None:
                raise UsageError(f"{uri!r} has no valid port; write tcp://HOST:PORT, for example tcp://0.0.0.0:10800")
            if parts.path not in ("", "/") or parts.query or parts.fragment:
                raise UsageError(f"{uri!r} says more than an address; write tcp://HOST:PORT")
            return cls("tcp", host=parts.hostname or "", port=port)
        raise UsageError(f"{uri!r} is no address to serve; write tcp://HOST:PORT, unix:///path or stdio://")

    def __str__(self) -> str:
        if self.scheme == "stdio":
            return "stdio://"
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def bind(endpoint: Endpoint) -> list[socket.socket]:
    """Return bound, listening sockets; one per address of a host name, one dual-stack socket for `[::]`.

    Raises `UsageError` that names the address and the reason.
    """
    try:
        if endpoint.scheme == "unix":
            return [_bind_unix(endpoint.path)]
        listeners = _bind_tcp(endpoint.host, endpoint.port)
        for listener in listeners:
            # Connections inherit these. asyncio sets TCP_NODELAY only on sockets that name their protocol, which these
            # do not; without it small events wait 40 ms for the peer's delayed acknowledgement.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                listener.setsockopt(socket.IPPROTO_TCP, option, value)
        return listeners
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot listen on {endpoint}: {reason}; choose another address with --uri") from None


def _bind_tcp(host: str, port: int) -> list[socket.socket]:
    if host in ("", "::", "*"):
        if socket.has_dualstack_ipv6():
            listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
            return [listener]
        host = "0.0.0.0"
    resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    with contextlib.ExitStack() as undo:
        for family, _, _, _, address in dict.fromkeys(resolved):
            # One port for all addresses of a name, also when the system chooses it.
            chosen = listeners[0].getsockname()[1] if listeners else port
            # Link-local addresses need the scope, which comes last.
            where: Any = (address[0], chosen, *address[2:])
            try:
                listeners.append(undo.enter_context(socket.create_server(where, family=family, backlog=BACKLOG)))
            except OSError as error:
                # "localhost" is ::1 too, also where IPv6 is switched off.
                if error.errno not in _NOT_HERE:
                    raise
                missing = missing or error
        if missing is not None and not listeners:
            raise missing
        undo.pop_all()
    return listeners


def _bind_unix(path: Path) -> socket.socket:
    # A socket left behind by a killed server is in the way; a live one answers.
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode) and not _is_alive(path):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.fspath(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True
