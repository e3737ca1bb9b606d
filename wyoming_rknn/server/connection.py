"""One client's connection: a reader that always reads, answers in order, writes that cannot pile up.

Requests of a connection are answered one after the other, in the order in which they were made, while the reader goes
on: `ping` is answered at once, text and audio of the next request are taken in, a lost peer is noticed.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from wyoming.error import Error
from wyoming.event import Event
from wyoming.ping import Ping, Pong

from wyoming_rknn.errors import (
    Busy,
    Cancelled,
    ProtocolError,
    RequestError,
    RequestTimeout,
    ShuttingDown,
    SpeechServerError,
)
from wyoming_rknn.server.framing import FrameLimits, FrameReader, Idle, encode

_LOGGER = logging.getLogger(__name__)

_LINGER_S = 1.0
"""How long input is thrown away after the last answer, lest unread bytes reset the connection and lose it."""
_EVENTS_IN_A_ROW = 16
"""Events of one client that are taken in before it is others' turn: a burst of audio must hold nobody up."""
_PONG_BYTES = 65536
"""How much more than other answers may be unsent before a `ping` goes unanswered."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How much a connection may ask for and hold."""

    frames: FrameLimits = field(default_factory=FrameLimits)
    write_s: float = 30.0
    """How long a client may refuse to read."""
    buffered_bytes: int = 1 << 20
    """Unsent answers; what makes more waits."""
    pipelined: int = 64
    """Requests that may wait for their turn."""


class Disconnected(Exception):
    """The peer is gone, so nobody waits for an answer."""


class Request(Protocol):
    """Something a client waits for."""

    async def run(self) -> None:
        """Answer; raises `SpeechServerError` if that cannot be done."""

    def cancel(self) -> None:
        """Give up: nobody waits any more. May come before, during and after `run`."""


class EventFamily(Protocol):
    """What one module of the server knows about a connection's events."""

    async def handle(self, event: Event) -> bool:
        """Take an event and return whether it is one of this family. Must not wait for an answer.

        Raises `RequestError` for bad fields, which ends no request.
        """

    def starved(self) -> bool:
        """Tell whether a request can go on only once the client sends more of it."""

    def cancel(self, reason: RequestError | None = None) -> None:
        """Give up what is still being taken in; a reason ends it, and with it the connection, with an error."""


class Connection:
    """Serve one client until either side has had enough."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: ConnectionLimits,
        name: str,
        families: Callable[["Connection"], Sequence[EventFamily]],
    ) -> None:
        self.name = name
        self._frames = FrameReader(reader, limits.frames)
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._queue: asyncio.Queue[Request | None] = asyncio.Queue()
        self._current: Request | None = None
        self._closing = False
        self._ended = False
        self._families = families(self)
        # A low mark close to the high one: a slow reader that does read is seen to do so.
        high = limits.buffered_bytes
        writer.transport.set_write_buffer_limits(high=high, low=max(0, high - 65536))

    @property
    def busy(self) -> bool:
        """Tell whether the client waits for an answer, or will once it has sent all of its request."""
        return self._current is not None or not self._queue.empty() or self._starved

    @property
    def has_room(self) -> bool:
        """Tell whether another request may wait."""
        return self._queue.qsize() < self._limits.pipelined

    async def run(self) -> None:
        """Serve until the connection ends; never raises but for cancellation."""
        reading = asyncio.create_task(self._read_events(), name=f"{self.name} reader")
        answering = asyncio.create_task(self._answer_requests(), name=f"{self.name} answers")
        try:
            await asyncio.wait((reading, answering), return_when=asyncio.FIRST_COMPLETED)
            if not self._closing:
                # The peer has said all it wants to say; what it asked for in full is still answered.
                self._abandon_intake()
                self._queue.put_nowait(None)
                await asyncio.wait((answering,))
            reading.cancel()
            self._give_up()
            await asyncio.wait((reading,))
            await self._flush_and_linger()
        finally:
            self._closing = True
            reading.cancel()
            answering.cancel()
            self._give_up()
            _abort(self._writer.transport)

    async def send(self, event: Event, *, last: bool = False) -> None:
        """Queue an event; waits while too much is unsent. Raises `Disconnected`, also for all that follows the last."""
        self._write(event)
        self._ended = last
        try:
            async with asyncio.timeout(self._limits.write_s) as patience:
                await self._writer.drain()
        except OSError:
            # A `TimeoutError` may also be the kernel's word for a lost peer.
            if patience.expired():
                _LOGGER.warning(
                    "%s: dropped, it read nothing for %g s with %d bytes waiting",
                    self.name,
                    self._limits.write_s,
                    self._writer.transport.get_write_buffer_size(),
                )
                _abort(self._writer.transport)
            raise Disconnected from None

    def request(self, request: Request) -> None:
        """Take a request in; it is answered when its turn comes. Raises `Busy` if too many wait."""
        if not self.has_room:
            request.cancel()
            raise Busy(f"more than {self._limits.pipelined} requests wait on this connection")
        self._queue.put_nowait(request)

    async def report(self, error: SpeechServerError, *, last: bool = False) -> None:
        """Send an `error` event and log one line."""
        level = logging.INFO if isinstance(error, ShuttingDown) else logging.WARNING
        _LOGGER.log(level, "%s: %s: %s", self.name, error.code, error)
        await self.send(Error(text=str(error), code=error.code).event(), last=last)

    async def shut_down(self, grace_s: float) -> None:
        """Tell a waiting client that the server stops, then close; takes `grace_s` at most."""
        waiting, self._closing = self.busy, True
        self._give_up()
        with contextlib.suppress(Disconnected, TimeoutError):
            async with asyncio.timeout(grace_s):
                if waiting:
                    await self._end_with(ShuttingDown())
                await self._flush()
        _abort(self._writer.transport)

    async def close(self) -> None:
        """Close once everything is sent; for a connection that is not `run`."""
        await self._flush_and_linger()
        _abort(self._writer.transport)

    async def _read_events(self) -> None:
        try:
            for number in itertools.count(1):
                if not number % _EVENTS_IN_A_ROW:
                    # Reading what has arrived already waits for nothing, and would let nobody else in.
                    await asyncio.sleep(0)
                try:
                    event = await self._frames.read()
                except Idle:
                    if self.busy:
                        self._check_progress()
                        continue
                    _LOGGER.debug("%s: closed, idle", self.name)
                    self._closing = True
                    return
                if event is None:
                    return
                await self._dispatch(event)
        except (ProtocolError, Busy, RequestTimeout) as error:
            # What was taken in before is answered first; what is not complete never will be.
            self._abandon_intake(error)
            self._queue.put_nowait(Refusal(self, error, closes=True))
        except (OSError, Disconnected) as error:
            _LOGGER.debug("%s: disconnected: %s", self.name, error)
            self._closing = True

    @property
    def _starved(self) -> bool:
        return any(family.starved() for family in self._families)

    def _check_progress(self) -> None:
        if self._starved:
            raise RequestTimeout(
                f"nothing was sent for {self._limits.frames.idle_s:g} s though the request is not complete; "
                "send all of it, or set a longer --idle-timeout"
            )

    async def _dispatch(self, event: Event) -> None:
        if Ping.is_type(event.type):
            self._pong(event)
            return
        try:
            for family in self._families:
                if await family.handle(event):
                    return
        except RequestError as error:
            self.request(Refusal(self, error))
            return
        _LOGGER.debug("%s: ignored unknown event %r", self.name, event.type)

    def _pong(self, ping: Event) -> None:
        # Does not wait for a slow reader: text, audio and the end of the connection must not go unseen meanwhile.
        if self._writer.transport.get_write_buffer_size() > self._limits.buffered_bytes + _PONG_BYTES:
            _LOGGER.debug("%s: ping left unanswered, too much is unsent", self.name)
            return
        text = ping.data.get("text")
        self._write(Pong(text=text if isinstance(text, str) else None).event())

    def _write(self, event: Event) -> None:
        if self._ended or self._writer.is_closing():
            raise Disconnected
        self._writer.write(encode(event))

    async def _answer_requests(self) -> None:
        while (request := await self._queue.get()) is not None:
            self._current = request
            try:
                await request.run()
            except SpeechServerError as error:
                # Home Assistant up to 2026.7 ignores `error` and would wait for ever: the connection ends too.
                await self._end_with(error)
                return
            except (Disconnected, Cancelled) as error:
                _LOGGER.debug("%s: request given up: %s", self.name, type(error).__name__)
                self._closing = True
                return
            except Exception as error:
                _LOGGER.debug("%s: request failed", self.name, exc_info=error)
                await self._end_with(SpeechServerError(f"the request failed: {type(error).__name__}: {error}"))
                return
            finally:
                self._current = None
                # What it holds, such as its voice, must not live on until the next one comes.
                del request

    async def _end_with(self, error: SpeechServerError) -> None:
        """Report the error that ends the connection, unless another has."""
        self._closing = True
        if not self._ended:
            with contextlib.suppress(Disconnected):
                await self.report(error, last=True)

    def _give_up(self) -> None:
        """Cancel everything the client has asked for."""
        if self._current is not None:
            self._current.cancel()
        while not self._queue.empty():
            request = self._queue.get_nowait()
            if request is not None:
                request.cancel()
        self._abandon_intake()

    def _abandon_intake(self, reason: RequestError | None = None) -> None:
        for family in self._families:
            family.cancel(reason)

    async def _flush(self) -> None:
        if self._writer.is_closing():
            return
        self._writer.transport.set_write_buffer_limits(high=0)
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def _flush_and_linger(self) -> None:
        with contextlib.suppress(TimeoutError, OSError, RuntimeError):
            async with asyncio.timeout(self._limits.write_s):
                await self._flush()
            if self._writer.is_closing() or not self._writer.can_write_eof():
                return
            self._ended = True
            self._writer.write_eof()
            async with asyncio.timeout(_LINGER_S):
                while await self._reader.read(65536):
                    pass


def _abort(transport: asyncio.WriteTransport) -> None:
    """Close a transport and forget what it has not sent."""
    # A pipe's transport fails when it is aborted after its last byte has left (CPython 3.11 to 3.13).
    if not transport.is_closing() or transport.get_write_buffer_size():
        transport.abort()


class Refusal:
    """Answer an event with unusable fields: an `error` in its turn.

    `closes` is for events that were requests: whoever waits for their answer may not understand `error`.
    """

    def __init__(self, connection: Connection, error: RequestError, *, closes: bool = False) -> None:
        self._connection = connection
        self._error = error
        self._closes = closes

    async def run(self) -> None:
        """Send the error, or raise it for the connection to send it and close."""
        if self._closes:
            raise self._error
        await self._connection.report(self._error)

    def cancel(self) -> None:
        """Do nothing: there is nothing to give up."""
