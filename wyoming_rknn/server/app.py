"""The server as a whole: listeners, connections, announcement, shutdown."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from wyoming_rknn.asr.programs import AsrPort
from wyoming_rknn.errors import Busy, SpeechServerError, UsageError, did_you_mean
from wyoming_rknn.server.asr import AsrEvents
from wyoming_rknn.server.connection import Connection, ConnectionLimits, Disconnected, EventFamily
from wyoming_rknn.server.describe import DescribeEvents
from wyoming_rknn.server.discovery import Announcement, Announcer
from wyoming_rknn.server.elsewhere import LISTENING, SPEECH, ElsewhereEvents
from wyoming_rknn.server.endpoint import Endpoint, bind
from wyoming_rknn.server.framing import FrameLimits
from wyoming_rknn.server.instance import Kind, default_base, instance_names
from wyoming_rknn.server.notify import Notifier
from wyoming_rknn.server.ports import Port, ports
from wyoming_rknn.server.service import Observer, Service, Unobserved
from wyoming_rknn.server.stdio import open_stdio
from wyoming_rknn.server.tts import TtsEvents
from wyoming_rknn.settings import Settings

if TYPE_CHECKING:
    from wyoming_rknn.server.metrics import Scrapes

_LOGGER = logging.getLogger(__name__)

_SHUTDOWN_S = 2.0
"""How long the end may take, all in all."""
_GRACE_S = 1.0
"""How long clients may take to receive what is under way when the server stops."""


class Server:
    """Serve a service's programs at the settings' addresses."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._limits = connection_limits(service.settings)
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._listeners: list[asyncio.Server] = []
        self._unix: list[Endpoint] = []
        self._announcer: Announcer | None = None
        self._scrapes: Scrapes | None = None
        self._stdio: asyncio.Task[None] | None = None
        self._copier: threading.Thread | None = None
        self._count = 0
        self.addresses: list[str] = []
        """Where the server listens, as URIs with the real port numbers."""

    @property
    def metrics_url(self) -> str | None:
        """Return where Prometheus finds the server's numbers, with the real port number; `None` if nowhere."""
        return None if self._scrapes is None else self._scrapes.url

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT, or, on stdio alone, until the input ends. Raises `UsageError`."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        notifier = Notifier.from_environment()
        alive: asyncio.Task[None] | None = None
        try:
            await self.start()
            if ready is not None:
                ready()
            await notifier.send("READY=1", f"STATUS=listening on {', '.join(self.addresses)}")
            alive = asyncio.create_task(notifier.keep_alive(), name="watchdog")
            stopping = asyncio.create_task(stop.wait(), name="stop signal")
            waiting: list[asyncio.Task[Any]] = [stopping]
            if self._stdio is not None and not self._listeners:
                waiting.append(self._stdio)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
        finally:
            await asyncio.gather(notifier.send("STOPPING=1", "STATUS=stopping"), self.close())
            if alive is not None:
                alive.cancel()

    async def start(self) -> None:
        """Listen, announce. Raises `UsageError` for an address that cannot be served."""
        if self._settings.metrics_uri is not None:
            await self._observe(self._settings.metrics_uri)
        announcements: list[tuple[Kind, str, int]] = []
        programs = self._service.asr.names
        for port in ports(self._settings):
            if port.program is not None and port.program not in programs:
                close = did_you_mean(port.program, programs)
                raise UsageError(f"--asr-uri names program {port.program!r}, which is not installed{close}")
            endpoint = port.endpoint
            if endpoint.scheme == "stdio":
                reader, writer, self._copier = await open_stdio(self._limits.frames.header_bytes)
                self._stdio = asyncio.create_task(self._serve(reader, writer, port), name="stdio")
                self.addresses.append(str(endpoint))
                continue
            sockets = bind(endpoint)
            for listener in sockets:
                await self._listen(listener, port)
            if endpoint.scheme == "unix":
                self._unix.append(endpoint)
                self.addresses.append(str(endpoint))
            else:
                number = sockets[0].getsockname()[1]
                self.addresses.append(str(Endpoint("tcp", endpoint.host, number)))
                announcements.append((port.kind, endpoint.host, number))
        for address in self.addresses:
            _LOGGER.info("listening on %s", address)
        if announcements and not self._settings.no_zeroconf:
            await self._announce(announcements)

    async def close(self) -> None:
        """Refuse new connections, end the open ones with an answer, withdraw the announcement."""
        for listener in self._listeners:
            listener.close()
        endings = [asyncio.create_task(self._end_connections(time.monotonic() + _SHUTDOWN_S))]
        if self._announcer is not None:
            endings.append(asyncio.create_task(self._announcer.close()))
        if self._scrapes is not None:
            endings.append(asyncio.create_task(self._scrapes.close()))
        await asyncio.wait(endings, timeout=_SHUTDOWN_S)
        for endpoint in self._unix:
            endpoint.path.unlink(missing_ok=True)

    async def _end_connections(self, end: float) -> None:
        """End all connections, and write out what is left for stdout, by the time `end`."""
        if self._connections:
            await asyncio.wait([asyncio.create_task(each.shut_down(_GRACE_S)) for each in self._connections])
        for task in self._connections.values():
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=max(0.0, end - time.monotonic()))
        if self._copier is not None:
            await asyncio.to_thread(self._copier.join, max(0.0, end - time.monotonic()))

    async def _listen(self, listener: socket.socket, port: Port) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(reader, writer, port)

        limit = self._limits.frames.header_bytes
        if listener.family == socket.AF_UNIX:
            server = await asyncio.start_unix_server(connected, sock=listener, limit=limit)
        else:
            server = await asyncio.start_server(connected, sock=listener, limit=limit)
        self._listeners.append(server)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: Port) -> None:
        self._count += 1
        families = partial(self._families, port)
        connection = _ObservedConnection(reader, writer, self._limits, f"client {self._count}", families)
        connection.observer = self._service.observer
        try:
            if len(self._connections) >= self._settings.max_connections:
                await self._refuse(connection)
            else:
                await self._run(connection)
        except asyncio.CancelledError:
            # Streams of Python 3.11 and 3.12 log a cancelled task as an error.
            _LOGGER.debug("%s: cut off", connection.name)

    async def _run(self, connection: Connection) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        try:
            await connection.run()
        finally:
            del self._connections[connection]

    async def _refuse(self, connection: Connection) -> None:
        error = Busy(f"{len(self._connections)} clients are connected, as many as --max-connections allows")
        with contextlib.suppress(Disconnected):
            await connection.report(error)
        await connection.close()

    def _families(self, port: Port, connection: Connection) -> Sequence[EventFamily]:
        preferred = AsrPort(port.program, port.place)
        tts = TtsEvents(connection, self._service) if port.kind != "asr" else None
        asr = AsrEvents(connection, self._service, preferred) if port.kind != "tts" else None
        return (
            DescribeEvents(connection, self._service, preferred, tts, asr),
            tts or ElsewhereEvents(connection, SPEECH, "speech-to-text"),
            asr or ElsewhereEvents(connection, LISTENING, "text-to-speech"),
        )

    async def _observe(self, uri: str) -> None:
        # Here and not at the top: its library is for those who want numbers.
        from wyoming_rknn.server.metrics import Metrics, Scrapes

        metrics = Metrics(self._service, lambda: len(self._connections))
        self._scrapes = Scrapes(uri, metrics.render)
        await self._scrapes.start()
        self._service.observer = metrics

    async def _announce(self, announcements: list[tuple[Kind, str, int]]) -> None:
        own_base: str = await asyncio.to_thread(default_base, self._settings.cache)
        names = instance_names(self._settings.zeroconf or own_base, [kind for kind, _, _ in announcements])
        self._announcer = Announcer(
            [Announcement(name, port, host) for name, (_, host, port) in zip(names, announcements, strict=True)]
        )
        await self._announcer.start()


class _ObservedConnection(Connection):
    """A connection whose errors are counted."""

    observer: Observer = Unobserved()

    async def report(self, error: SpeechServerError, *, last: bool = False) -> None:
        self.observer.reported(error)
        await super().report(error, last=last)


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return the limits of one connection."""
    frames = FrameLimits(settings.max_header, settings.max_payload, settings.idle_timeout, settings.frame_timeout)
    return ConnectionLimits(frames, settings.write_timeout)
