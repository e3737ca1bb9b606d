"""Conformance items 20 and 24: what is no speech, for the real detector."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from protocol.harness.client import connect, frame
from protocol.harness.fake_engine import Script
from protocol.harness.fake_recogniser import RecogniserScript, text_of
from protocol.harness.leaks import nothing_leaks, warm_up
from protocol.harness.log import Log
from protocol.harness.servers import ServerProcess, listening
from protocol.harness.spoken import spoken
from protocol.harness.transcription import USUAL, Layout, answer, chunks, heard, quiet, start, stop, transcribe

SECONDS = 3


def _tones(*hz: float, beat_hz: float = 0.0) -> np.ndarray:
    times = np.arange(SECONDS * 16000) / 16000
    beat = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * beat_hz * times))
    return 4000 * beat * sum(np.sin(2 * np.pi * each * times) for each in hz)


def _noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, SECONDS * 16000)


NOISES = {
    "digital silence": np.zeros(SECONDS * 16000),
    "an offset": np.full(SECONDS * 16000, 500),
    "the last bit": np.sign(_noise(0)),
    "quiet noise": 100 * _noise(1),
    "white noise": 3000 * _noise(2),
    "loud white noise": np.clip(12000 * _noise(3), -32768, 32767),
    "brown noise": np.clip(np.cumsum(_noise(4)) * 50, -32768, 32767),
    "a tone": _tones(440),
    "a beeping tone": _tones(1000, beat_hz=2),
    "a chord": _tones(262, 330, 392, beat_hz=1),
    "a hum": _tones(50, 100, 150),
    "a click": np.eye(1, SECONDS * 16000, 24000)[0] * 32767,
    "a buzz": 8000 * np.sign(_tones(120)),
}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
async def test_c20_what_is_no_speech_gives_an_empty_text(noise: np.ndarray, log: Log):
    pcm = noise.astype("<i2").tobytes()
    async with listening(detector=None) as server, server.connect() as client:
        for sizes in (320, len(pcm)):
            assert (await transcribe(client, pcm, sizes)).text == ""
        # Whatever it is, the engine is not asked.
        assert server.recogniser.finishes == 0
    log.check()


async def test_c20_speech_is_heard_in_noise_and_after_silence(log: Log):
    pcm = spoken("Turn on the living room light.")
    noise = np.clip(100 * np.random.default_rng(5).normal(0, 1, len(pcm) // 2), -32768, 32767)
    noisy = (np.frombuffer(pcm, "<i2") + noise).astype("<i2").tobytes()
    async with listening(detector=None) as server, server.connect() as client:
        for audio in (pcm, noisy, quiet(2) + pcm + quiet(1), pcm[: len(pcm) // 4 * 2]):
            assert (await transcribe(client, audio)).text == text_of(heard(audio))
    log.check()


@pytest.mark.parametrize("milliseconds", [1, 10, 25, 50, 99])
async def test_c20_very_short_audio_is_no_error(milliseconds: int, log: Log):
    pcm = spoken("Turn on the living room light.")[: 32 * milliseconds]
    async with listening(detector=None) as server, server.connect() as client:
        assert (await transcribe(client, pcm)).text in ("", text_of(heard(pcm)))
        assert (await transcribe(client, pcm * 2, len(pcm) // 3 + 1)).text in ("", text_of(heard(pcm * 2)))
    log.check()


def test_c24_ten_minutes_of_silence_hold_nothing(launch: Callable[..., ServerProcess]):
    server = launch(script=Script(), recogniser=RecogniserScript())
    warm_up(server)
    pcm = spoken("Turn on the living room light.")

    async def be_silent(seconds: int, sizes: int, layout: Layout = USUAL) -> None:
        async with connect(server.uri) as client:
            await client.write(frame("transcribe") + start(layout))
            second = chunks(bytes(layout.second_bytes), sizes, layout)
            for _ in range(seconds):
                await client.write(second)
            await client.write(stop())
            assert (await answer(client)).text == ""

    async def listen() -> None:
        async with connect(server.uri) as client:
            assert (await transcribe(client, pcm)).text == text_of(heard(pcm))
        await be_silent(60, 320)
        await be_silent(60, 4096, Layout(48000, 2, 2))

    async def hear_nothing() -> None:
        await be_silent(600, 4096)
        await be_silent(60, 320)
        await be_silent(120, 4096, Layout(48000, 2, 2))

    asyncio.run(listen())
    # All of it would be 50 MB as samples.
    with nothing_leaks(server, megabytes=16):
        asyncio.run(hear_nothing())
    server.stop()
    server.check_log()
