"""Home Assistant as a client, one small model per generation; what it reads and what ends its waiting is the point."""

import asyncio
from collections.abc import AsyncIterable
from typing import Any

from protocol.harness.client import Client, Event


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
