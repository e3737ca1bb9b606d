"""Wyoming events as bytes: a JSON header line, an optional JSON data block, an optional binary payload."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Never

from wyoming import __version__ as wyoming_version
from wyoming.event import Event

from wyoming_rknn.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What a peer may send, and how slowly."""

    header_bytes: int = 65536
    payload_bytes: int = 1 << 20
    """Holds for the data block and for the payload, each."""
    idle_s: float = 600.0
    """Between two events."""
    frame_s: float = 60.0
    """From an event's first byte to its last."""


class Idle(Exception):
    """No event began within the idle time. Not a `TimeoutError`: that is also how the kernel reports a lost peer."""


class FrameReader:
    """Read events from a stream; nothing larger than the limits is ever buffered."""

    def __init__(self, reader: asyncio.StreamReader, limits: FrameLimits) -> None:
        self._reader = reader
        self._limits = limits

    async def read(self) -> Event | None:
        """Return the next event, or `None` at the end of the stream, in the middle of an event too.

        Raises `ProtocolError` for what is not Wyoming, `Idle` if no event begins within the idle time, and `OSError`,
        `TimeoutError` included, for a connection that is lost.
        """
        try:
            async with asyncio.timeout(self._limits.idle_s) as patience:
                first = await self._reader.read(1)
        except TimeoutError:
            if patience.expired():
                raise Idle from None
            raise
        if not first:
            return None
        try:
            async with asyncio.timeout(self._limits.frame_s) as patience:
                return await self._read_frame(first)
        except asyncio.IncompleteReadError:
            return None
        except TimeoutError:
            if patience.expired():
                raise ProtocolError(f"an event did not arrive in full within {self._limits.frame_s:g} s") from None
            raise

    async def _read_frame(self, first: bytes) -> Event:
        line = first
        if first != b"\n":
            try:
                line += await self._reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                raise self._too_long() from None
        if len(line) > self._limits.header_bytes:
            raise self._too_long()
        header = _json_object(line, "header")
        event_type = header.get("type")
        if not isinstance(event_type, str):
            raise ProtocolError("the header has no 'type' that is a string")
        data = header.get("data")
        if data is None:
            data = {}
        elif not isinstance(data, dict):
            raise ProtocolError("'data' in the header is not an object")
        data_length = self._length(header, "data_length")
        payload_length = self._length(header, "payload_length")
        if data_length:
            data = data | _json_object(await self._reader.readexactly(data_length), "data block")
        payload = await self._reader.readexactly(payload_length) if payload_length else None
        return Event(type=event_type, data=data, payload=payload)

    def _length(self, header: dict[str, Any], key: str) -> int:
        length = header.get(key)
        if length is None:
            return 0
        if isinstance(length, bool) or not isinstance(length, int) or length < 0:
            raise ProtocolError(f"'{key}' is not a whole number of bytes")
        if length > self._limits.payload_bytes:
            raise ProtocolError(f"'{key}' is {length}, more than the {self._limits.payload_bytes} bytes taken here")
        return length

    def _too_long(self) -> ProtocolError:
        return ProtocolError(f"the header line is longer than {self._limits.header_bytes} bytes")


def encode(event: Event) -> bytes:
    """Return an event as one piece, so that it leaves in one write."""
    data = json.dumps(event.data, ensure_ascii=False).encode("utf-8", "replace") if event.data else b""
    payload = event.payload or b""
    header: dict[str, Any] = {"type": event.type, "version": wyoming_version}
    if data:
        header["data_length"] = len(data)
    if payload:
        header["payload_length"] = len(payload)
    return b"".join((json.dumps(header).encode(), b"\n", data, payload))


def _json_object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ProtocolError(f"the {what} is not valid JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"the {what} is not a JSON object")
    return value


def _refuse_constant(name: str) -> Never:
    raise ValueError(name)
