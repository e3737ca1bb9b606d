"""Tell the service manager how the server is, as sd_notify(3) describes it."""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

_LOGGER = logging.getLogger(__name__)

_PATIENCE_S = 1.0
"""How long a service manager may take to make room for a message."""


@dataclass(frozen=True, slots=True)
class Notifier:
    """Speak to the service manager that started this process; silent where none did."""

    address: str | None = None
    """Of the manager's datagram socket; one that begins with NUL is abstract."""
    watchdog_s: float | None = None
    """How long the manager waits for a sign of life."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. What cannot be understood counts as not set."""
        named = environment.get("NOTIFY_SOCKET", "")
        if not named:
            return cls()
        if named[0] not in "/@":
            _LOGGER.warning("NOTIFY_SOCKET=%s is no Unix socket, so the service manager is told nothing", named)
            return cls()
        microseconds = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID") in (None, "", str(os.getpid()))
        watched = meant and microseconds.isdecimal() and int(microseconds) > 0
        return cls("\0" + named[1:] if named[0] == "@" else named, int(microseconds) / 1_000_000 if watched else None)

    async def send(self, *assignments: str) -> None:
        """Send assignments such as "READY=1" in one message. Never raises: who cannot be told is not told."""
        if self.address is None:
            return
        message = "\n".join(assignment.replace("\n", " ") for assignment in assignments).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.setblocking(False)
                connection.connect(self.address)
                async with asyncio.timeout(_PATIENCE_S):
                    await asyncio.get_running_loop().sock_sendall(connection, message)
        except OSError as error:  # TimeoutError is one
            reason = error.strerror or str(error) or "it takes no messages"
            _LOGGER.warning("cannot tell the service manager %s: %s", assignments[0], reason)

    async def keep_alive(self) -> None:
        """Show, twice in the time that the manager waits, that the event loop runs. Ends when cancelled."""
        if self.address is None or self.watchdog_s is None:
            return
        while True:
            await self.send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)
