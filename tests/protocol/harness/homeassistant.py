"""Home Assistant as a client, one small model per generation; what it reads and what ends its waiting is the point."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from protocol.harness.client import Client, Event
from protocol.harness.transcription import HA_CHUNK_BYTES, USUAL, Layout, chunk, paced, pieces, start, stop


class ServerError(Exception):
    """What Home Assistant raises for an `error` event, from 2026.8 on."""


async def speak_whole(client: Client, text: str, voice: dict[str, Any] | None = None, *, honours_error: bool) -> bytes:
    """`synthesize`, then read up to the first `audio-stop`; b"" if the connection ends before it."""
    await client.send("synthesize", {"text": text, **({"voice": voice} if voice else {})})
    pcm = b""
    while (event := await client.receive()) is not None:
        if event.type == "audio-chunk":
            pcm += event.payload
        elif event.type == "audio-stop":
            return pcm
        elif event.type == "error" and honours_error:
            raise ServerError(event.data["code"])
    return b""


async def speak_streaming(
    client: Client, pieces: AsyncIterable[str], voice: dict[str, Any] | None = None, *, honours_error: bool
) -> list[Event]:
    """The streaming path: write and read in parallel, until `synthesize-stopped` or the end of the connection.

    Returns what was played: the first `audio-start` and all chunks after it.
    """
    asked = {"voice": voice} if voice else {}

    async def write() -> None:
        whole = ""
        await client.send("synthesize-start", asked)
        async for piece in pieces:
            whole += piece
            await client.send("synthesize-chunk", {"text": piece})
        await client.send("synthesize", {"text": whole, **asked})
        await client.send("synthesize-stop")

    writing = asyncio.create_task(write())
    played: list[Event] = []
    try:
        while (event := await client.receive()) is not None:
            if event.type == "synthesize-stopped":
                break
            if (event.type == "audio-start" and not played) or (event.type == "audio-chunk" and played):
                played.append(event)
            elif event.type == "error" and honours_error:
                raise ServerError(event.data["code"])
    finally:
        writing.cancel()
        await asyncio.wait((writing,))
        if not writing.cancelled() and isinstance(failure := writing.exception(), Exception):
            assert isinstance(failure, OSError), failure
    return played


@dataclass(frozen=True)
class Outcome:
    """What Home Assistant makes of a spoken command."""

    text: str | None = None
    """`None` if none came: the connection ended, or an error was told."""
    error: str | None = None
    """The code of an `error` that was understood."""
    sent_bytes: int = 0
    """How much audio was sent."""
    stopped: bool = False
    """Whether `audio-stop` was sent."""


class _Upload:
    """What a satellite says, on its way to the server; in real time if asked for, else in a burst."""

    def __init__(self, client: Client, pcm: bytes, layout: Layout, language: str | None, live: bool) -> None:
        self._client = client
        self._pcm = pcm
        self._layout = layout
        self._language = language
        self._live = live
        self.sent_bytes = 0
        self.stopped = False

    async def run(self) -> None:
        await self._client.send("transcribe", {"language": self._language} if self._language else {})
        await self._client.write(start(self._layout))
        if self._live:
            async for piece in paced(self._pcm, self._layout, HA_CHUNK_BYTES):
                await self._write(piece)
        else:
            for piece in pieces(self._pcm, HA_CHUNK_BYTES):
                await self._write(piece)
        await self._client.write(stop())
        self.stopped = True

    async def _write(self, piece: bytes) -> None:
        await self._client.write(chunk(piece, self._layout))
        self.sent_bytes += len(piece)


async def hear_sequentially(
    client: Client,
    pcm: bytes,
    *,
    honours_error: bool,
    language: str | None = "en",
    layout: Layout = USUAL,
    live: bool = False,
) -> Outcome:
    """Up to 2026.9: read nothing before `audio-stop` is sent, then up to a `transcript` or the end of the connection.

    From 2026.8 on an `error` ends it, too.
    """
    upload = _Upload(client, pcm, layout, language, live)
    try:
        await upload.run()
        return await _read_transcript(client, upload, honours_error)
    except ConnectionError:
        return Outcome(sent_bytes=upload.sent_bytes, stopped=upload.stopped)


async def hear_in_parallel(
    client: Client, pcm: bytes, *, language: str | None = "en", layout: Layout = USUAL, live: bool = False
) -> Outcome:
    """From 2026.10 on: a transcript or an `error` that comes early ends the upload, and the socket is dropped."""
    upload = _Upload(client, pcm, layout, language, live)
    writing = asyncio.create_task(upload.run())
    try:
        return await _read_transcript(client, upload, True)
    except (ConnectionError, asyncio.IncompleteReadError):
        return Outcome(sent_bytes=upload.sent_bytes, stopped=upload.stopped)
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await writing
        client.writer.transport.abort()


async def _read_transcript(client: Client, upload: _Upload, honours_error: bool) -> Outcome:
    while (event := await client.receive()) is not None:
        if event.type == "transcript":
            return Outcome(event.data["text"], None, upload.sent_bytes, upload.stopped)
        if event.type == "error" and honours_error:
            return Outcome(None, event.data["code"], upload.sent_bytes, upload.stopped)
    return Outcome(sent_bytes=upload.sent_bytes, stopped=upload.stopped)


TRANSCRIBERS: dict[str, Callable[..., Awaitable[Outcome]]] = {
    "2026.7": partial(hear_sequentially, honours_error=False),
    "2026.8": partial(hear_sequentially, honours_error=True),
    "2026.10": hear_in_parallel,
}
"""The generations, by the version that began each (the first: ended)."""
