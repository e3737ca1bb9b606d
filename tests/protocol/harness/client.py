"""A Wyoming client of our own: bytes on a stream, so that the server's framing is really tested."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PATIENCE_S = 20.0
"""How long an answer may take before a test gives up: far beyond what is expected, for slow machines."""


@dataclass(frozen=True)
class Event:
    """One event as it was on the wire."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    raw: bytes = b""
    at: float = 0.0
    """When its last byte was read, in seconds of `time.monotonic`."""


def frame(event_type: str, data: dict[str, Any] | None = None, payload: bytes = b"") -> bytes:
    """Encode an event as Python's writer does: header line, data block, payload."""
    block = json.dumps(data).encode() if data else b""
    header: dict[str, Any] = {"type": event_type, "version": "1.10.2"}
    if block:
        header["data_length"] = len(block)
    if payload:
        header["payload_length"] = len(payload)
    return json.dumps(header).encode() + b"\n" + block + payload


def inline(event_type: str, data: dict[str, Any] | None = None) -> bytes:
    """Encode an event as hand-written clients do: one line."""
    return json.dumps({"type": event_type, **({"data": data} if data is not None else {})}).encode() + b"\n"


@dataclass
class Speech:
    """The events of one spoken answer."""

    events: list[Event]

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def chunks(self) -> list[Event]:
        return [event for event in self.events if event.type == "audio-chunk"]

    @property
    def pcm(self) -> bytes:
        return b"".join(chunk.payload for chunk in self.chunks)

    @property
    def samples(self) -> np.ndarray:
        return np.frombuffer(self.pcm, "<i2")

    @property
    def rate_hz(self) -> int:
        return self.events[0].data["rate"]

    @property
    def seconds(self) -> float:
        return self.samples.size / self.rate_hz

    @property
    def first_audio_at(self) -> float:
        return self.chunks[0].at

    def check(self, *, streaming: bool = False) -> "Speech":
        """Assert what holds for every answer: order, one format, timestamps in milliseconds."""
        ending = ["audio-stop", "synthesize-stopped"] if streaming else ["audio-stop"]
        assert self.types == ["audio-start", *["audio-chunk"] * len(self.chunks), *ending], self.types
        assert self.chunks
        layout = {"rate": self.rate_hz, "width": 2, "channels": 1}
        position = 0
        for chunk in self.chunks:
            assert {key: chunk.data[key] for key in layout} == layout
            assert chunk.payload
            assert len(chunk.payload) % 2 == 0
            assert chunk.data["timestamp"] == position * 1000 // self.rate_hz
            position += len(chunk.payload) // 2
        start, stop = self.events[0], self.events[len(self.chunks) + 1]
        assert {key: start.data[key] for key in layout} == layout
        assert start.data.get("timestamp") in (None, 0)
        assert stop.data["timestamp"] == position * 1000 // self.rate_hz
        return self


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send(self, event_type: str, data: dict[str, Any] | None = None, payload: bytes = b"") -> None:
        await self.write(frame(event_type, data, payload))

    async def receive(self, timeout_s: float = PATIENCE_S) -> Event | None:
        """Return the next event, `None` at the end of the stream."""
        async with asyncio.timeout(timeout_s):
            return await self._receive()

    async def _receive(self) -> Event | None:
        line = await self.reader.readline()
        if not line:
            return None
        assert line.endswith(b"\n"), line[:200]
        header = json.loads(line)
        assert isinstance(header["type"], str)
        block = await self.reader.readexactly(header.get("data_length") or 0)
        payload = await self.reader.readexactly(header.get("payload_length") or 0)
        data = (header.get("data") or {}) | (json.loads(block) if block else {})
        return Event(header["type"], data, payload, line + block + payload, time.monotonic())

    async def expect(self, event_type: str, timeout_s: float = PATIENCE_S) -> Event:
        event = await self.receive(timeout_s)
        assert event is not None, f"the connection ended instead of {event_type!r}"
        assert event.type == event_type, (event.type, event.data)
        return event

    async def expect_error(self, code: str) -> Event:
        error = await self.expect("error")
        assert error.data["code"] == code, error.data
        assert isinstance(error.data["text"], str)
        assert error.data["text"]
        return error

    async def expect_end(self, timeout_s: float = PATIENCE_S) -> None:
        event = await self.receive(timeout_s)
        assert event is None, event

    async def until(self, last: str, timeout_s: float = PATIENCE_S) -> list[Event]:
        """Return the events up to and with the first of type `last`."""
        events: list[Event] = []
        while not events or events[-1].type != last:
            event = await self.receive(timeout_s)
            assert event is not None, f"the connection ended after {[event.type for event in events]}"
            assert event.type != "error" or last == "error", event.data
            events.append(event)
        return events

    async def rest(self, timeout_s: float = PATIENCE_S) -> list[Event]:
        """Return all events until the connection ends."""
        events: list[Event] = []
        while (event := await self.receive(timeout_s)) is not None:
            events.append(event)
        return events

    async def describe(self) -> Event:
        await self.write(b'{"type":"describe"}\n')
        return await self.expect("info")

    async def hear(self, *, streaming: bool = False) -> Speech:
        """Take in a spoken answer and check it."""
        events = await self.until("synthesize-stopped" if streaming else "audio-stop")
        return Speech(events).check(streaming=streaming)

    async def say(self, text: str, voice: dict[str, Any] | str | None = None, **data: Any) -> Speech:
        """Ask for a text in one go."""
        await self.send("synthesize", {"text": text, **_voice(voice), **data})
        return await self.hear()

    async def stream(
        self,
        pieces: list[str],
        voice: dict[str, Any] | str | None = None,
        *,
        compatible: bool = True,
        **data: Any,
    ) -> Speech:
        """Ask for a text piece by piece, as Home Assistant does; `compatible` repeats the whole text."""
        await self.send("synthesize-start", {**_voice(voice), **data})
        for piece in pieces:
            await self.send("synthesize-chunk", {"text": piece})
        if compatible:
            await self.send("synthesize", {"text": "".join(pieces), **_voice(voice), **data})
        await self.send("synthesize-stop")
        return await self.hear(streaming=True)

    def half_close(self) -> None:
        self.writer.write_eof()

    def reset(self) -> None:
        """Close at once with RST instead of FIN."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        # The server may have closed first, or reset what was not read.
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def _voice(voice: dict[str, Any] | str | None) -> dict[str, Any]:
    if voice is None:
        return {}
    return {"voice": {"name": voice} if isinstance(voice, str) else voice}


@asynccontextmanager
async def connect(uri: str, *, buffer_bytes: int | None = None) -> AsyncIterator[Client]:
    """Connect to `tcp://HOST:PORT` or `unix:///PATH`; a small receive buffer makes a slow reader felt soon."""
    scheme, _, address = uri.partition("://")
    limit = 1 << 20
    if scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(address, limit=limit)
    else:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        if buffer_bytes is None:
            reader, writer = await asyncio.open_connection(host, int(port), limit=limit)
        else:
            connection = socket.socket(socket.AF_INET)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
            reader, writer = await asyncio.open_connection(sock=connection, limit=2048)
    client = Client(reader, writer)
    try:
        yield client
    finally:
        await client.close()


async def eventually(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"did not come true within {timeout_s} s"
        await asyncio.sleep(0.01)
