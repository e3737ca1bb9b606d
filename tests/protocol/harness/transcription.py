"""Speech-to-text from a client's side: audio to send, how to send it, and what comes back."""

import asyncio
import time
from collections.abc import AsyncIterable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from protocol.harness.client import PATIENCE_S, Client, Event, frame

RATE_HZ = 16000
HA_CHUNK_BYTES = 320
"""What Home Assistant sends: 10 ms."""


@dataclass(frozen=True)
class Layout:
    """A PCM format as it stands in events."""

    rate: int = RATE_HZ
    width: int = 2
    channels: int = 1

    @property
    def fields(self) -> dict[str, Any]:
        return {"rate": self.rate, "width": self.width, "channels": self.channels}

    @property
    def second_bytes(self) -> int:
        return self.rate * self.width * self.channels


USUAL = Layout()


def speech(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> bytes:
    """Return loud noise, different for every seed, that a `Loudness` detector takes for speech; 16 bit."""
    count = round(seconds * rate_hz)
    return np.random.default_rng(seed).integers(-20000, 20000, count, dtype="<i2").tobytes()


def quiet(seconds: float, rate_hz: int = RATE_HZ) -> bytes:
    """Return digital silence; 16 bit."""
    return bytes(2 * round(seconds * rate_hz))


def heard(pcm: bytes) -> np.ndarray:
    """Return what an engine is to receive for 16-bit mono at 16 kHz, float32 [n]."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)


def pieces(pcm: bytes, sizes: int | Iterable[int]) -> Iterator[bytes]:
    """Cut bytes up into pieces of one size, or of these."""
    if isinstance(sizes, int):
        yield from (pcm[begin : begin + sizes] for begin in range(0, len(pcm), sizes))
        return
    for size in sizes:
        if not pcm:
            return
        yield pcm[:size]
        pcm = pcm[size:]
    if pcm:
        yield pcm


def chunk(pcm: bytes, layout: Layout = USUAL, timestamp: int | None = None) -> bytes:
    return frame("audio-chunk", {**layout.fields, "timestamp": timestamp}, pcm)


def start(layout: Layout = USUAL) -> bytes:
    return frame("audio-start", {**layout.fields, "timestamp": None})


def stop() -> bytes:
    return frame("audio-stop", {"timestamp": None})


def chunks(pcm: bytes, sizes: int | Iterable[int] = HA_CHUNK_BYTES, layout: Layout = USUAL) -> bytes:
    """Encode audio as many `audio-chunk` events."""
    return b"".join(chunk(piece, layout) for piece in pieces(pcm, sizes))


def utterance(pcm: bytes, sizes: int | Iterable[int] = HA_CHUNK_BYTES, layout: Layout = USUAL, **asked: Any) -> bytes:
    """Encode all that Home Assistant sends for one utterance."""
    return frame("transcribe", asked) + start(layout) + chunks(pcm, sizes, layout) + stop()


@dataclass
class Transcription:
    """The events of one answer."""

    events: list[Event]

    @property
    def transcript(self) -> Event:
        (found,) = (event for event in self.events if event.type == "transcript")
        return found

    @property
    def text(self) -> str:
        return self.transcript.data["text"]

    @property
    def language(self) -> str | None:
        return self.transcript.data.get("language")

    @property
    def told(self) -> list[str]:
        return [event.data["text"] for event in self.events if event.type == "transcript-chunk"]

    @property
    def at(self) -> float:
        return self.transcript.at

    def check(self) -> "Transcription":
        """Assert what holds for every answer: order, and that the pieces add up."""
        types = [event.type for event in self.events]
        expected = ["transcript-start", *["transcript-chunk"] * len(self.told), "transcript", "transcript-stop"]
        assert types == expected, types
        assert isinstance(self.text, str)
        assert "".join(self.told) == self.text
        assert all(self.told)
        assert not any(event.payload for event in self.events)
        return self


async def answer(client: Client, timeout_s: float = PATIENCE_S) -> Transcription:
    """Take in an answer and check it."""
    return Transcription(await client.until("transcript-stop", timeout_s)).check()


async def transcribe(
    client: Client, pcm: bytes, sizes: int | Iterable[int] = HA_CHUNK_BYTES, layout: Layout = USUAL, **asked: Any
) -> Transcription:
    """Send an utterance in one go and return the answer."""
    await client.write(utterance(pcm, sizes, layout, **asked))
    return await answer(client)


async def paced(pcm: bytes, layout: Layout = USUAL, sizes: int | None = None) -> AsyncIterable[bytes]:
    """Yield audio piece by piece as fast as it is spoken, as a microphone does; 20 ms each if no size is given."""
    sizes = sizes or layout.second_bytes // 50
    begin = time.monotonic()
    sent = 0
    for piece in pieces(pcm, sizes):
        # A piece is there once it has been spoken.
        sent += len(piece)
        await asyncio.sleep(begin + sent / layout.second_bytes - time.monotonic())
        yield piece


async def speak(client: Client, pcm: bytes, layout: Layout = USUAL) -> None:
    """Send chunks in real time."""
    async for piece in paced(pcm, layout):
        await client.write(chunk(piece, layout))


def ragged(seed: int, largest: int) -> Iterator[int]:
    """Yield sizes from 1 byte up, without end."""
    random = np.random.default_rng(seed)
    while True:
        yield from map(int, random.integers(1, largest, 64, endpoint=True))
