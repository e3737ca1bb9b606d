"""Conformance items 22 to 24: any PCM format is heard as soxr resamples it, and long audio does not pile up."""

import asyncio
import itertools

import numpy as np
import pytest
import soxr
from protocol.harness import homeassistant
from protocol.harness.client import Client, frame
from protocol.harness.fake_recogniser import text_of
from protocol.harness.log import Log
from protocol.harness.servers import Running, listening
from protocol.harness.transcription import (
    RATE_HZ,
    USUAL,
    Layout,
    answer,
    chunk,
    chunks,
    heard,
    quiet,
    ragged,
    speech,
    start,
    stop,
    transcribe,
)


def signal(seconds: float, layout: Layout, seed: int = 0) -> np.ndarray:
    """Return two tones and some noise, another mixture in every channel: integers [frames, channels]."""
    times = np.arange(round(seconds * layout.rate)) / layout.rate
    tones = 0.3 * np.sin(2 * np.pi * 440 * times) + 0.2 * np.sin(2 * np.pi * 1234 * times)
    noise = np.random.default_rng(seed).uniform(-0.2, 0.2, (times.size, layout.channels))
    mixture = tones[:, None] * np.linspace(1.0, 0.6, layout.channels) + noise
    return np.round(mixture * 2.0 ** (8 * layout.width - 1)).astype(np.int64)


def pcm_of(samples: np.ndarray, width: int) -> bytes:
    """Encode integers as little-endian PCM, 8 bit unsigned."""
    if width == 1:
        return (samples + 128).astype(np.uint8).tobytes()
    return samples.astype("<i8").view(np.uint8).reshape(*samples.shape, 8)[..., :width].tobytes()


def expected(samples: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the mean of all channels, resampled as a whole."""
    mono = (samples / 2.0 ** (8 * layout.width - 1)).astype(np.float32).mean(axis=1, dtype=np.float32)
    return mono if layout.rate == RATE_HZ else soxr.resample(mono, layout.rate, RATE_HZ, "HQ")


def received(server: Running) -> np.ndarray:
    """Return what the engine was given for the last utterance."""
    return server.recogniser.sessions[-1].samples


LAYOUTS = [
    *(Layout(rate) for rate in (8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000)),
    *(Layout(width=width) for width in (1, 3, 4)),
    *(Layout(channels=channels) for channels in (2, 4, 6, 8)),
    *(Layout(*mixed) for mixed in itertools.product((8000, 44100, 48000), (1, 3, 4), (2, 6))),
    Layout(22050, 2, 2),
    Layout(1000, 4, 1),
    Layout(384000, 1, 1),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.rate}-{8 * layout.width}-{layout.channels}")
async def test_c22_every_format_is_heard_as_a_whole_resampled_signal(layout: Layout, log: Log):
    samples = signal(0.6, layout)
    pcm = pcm_of(samples, layout.width)
    assert len(pcm) == samples.size * layout.width
    async with listening() as server, server.connect() as client:
        for sizes in (max(1, layout.second_bytes // 100), ragged(2, layout.second_bytes // 7)):
            found = await transcribe(client, pcm, sizes, layout)
            # To the bit, but for the order in which numpy adds channels up.
            np.testing.assert_allclose(received(server), expected(samples, layout), rtol=0, atol=1e-7)
            assert found.text == text_of(received(server))
        first, second = (session.samples for session in server.recogniser.sessions)
        assert first.tobytes() == second.tobytes()
    log.check()


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
async def test_c22_sixteen_bit_mono_is_what_soxr_gives_to_the_bit(rate: int):
    layout = Layout(rate)
    samples = signal(1.0, layout)
    async with listening() as server, server.connect() as client:
        await transcribe(client, pcm_of(samples, 2), 1000, layout)
        assert received(server).tolist() == expected(samples, layout).tolist()


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 0.11), (11025, 0.08), (4000, 0.2)])
async def test_c22_what_fits_into_the_resampler_is_heard(rate: int, seconds: float):
    layout = Layout(rate)
    samples = signal(seconds, layout)
    async with listening() as server, server.connect() as client:
        await transcribe(client, pcm_of(samples, 2), 320, layout)
        assert received(server).tolist() == expected(samples, layout).tolist()


async def test_c22_what_would_alias_is_gone():
    layout = Layout(48000)
    times = np.arange(48000) / 48000
    tones = 0.4 * np.sin(2 * np.pi * 1000 * times) + 0.4 * np.sin(2 * np.pi * 10000 * times)
    async with listening() as server, server.connect() as client:
        await transcribe(client, pcm_of(np.round(tones * 32768).astype(np.int64)[:, None], 2), 960, layout)
        # Far from both ends, where the tones begin and end suddenly.
        middle = received(server)[2000:14000]
    spectrum = 20 * np.log10(np.abs(np.fft.rfft(middle * np.hanning(middle.size))) + 1e-12)
    hz = np.fft.rfftfreq(middle.size, 1 / RATE_HZ)
    tone, alias = spectrum[np.abs(hz - 1000).argmin()], spectrum[np.abs(hz - 6000).argmin()]
    assert tone - alias > 60
    assert tone - spectrum[hz > 1200].max() > 60


BAD = {
    "rate": [0, -16000, 999, 384001, 10_000_000, 10**400, "16000", 16000.5, True, [16000], {}],
    "width": [0, 5, -2, "2", 2.5, True, []],
    "channels": [0, 9, -1, "1", 1.5, False, {}],
}
BAD_FIELDS = [(key, value) for key, values in BAD.items() for value in values]


@pytest.mark.parametrize(("key", "value"), BAD_FIELDS, ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("event", ["audio-start", "audio-chunk"])
async def test_c22_a_format_that_is_none_ends_in_an_error_and_the_connection_too(event: str, key: str, value, log: Log):
    fields = {**USUAL.fields, key: value}
    payload = speech(0.1) if event == "audio-chunk" else b""
    async with listening() as server, server.connect() as client:
        await client.write(frame("transcribe") + frame(event, fields, payload) + stop() + frame("describe"))
        error = await client.expect_error("invalid-request")
        assert key in error.data["text"]
        await client.expect_end()
        async with server.connect() as another:
            await transcribe(another, speech(0.1))
    assert server.recogniser.finishes == 1
    log.check(warnings=1)


async def test_c22_a_format_that_is_none_in_the_middle_frees_the_utterance(log: Log):
    async with listening(max_requests=1) as server:
        for _ in range(3):
            async with server.connect() as client:
                await client.write(frame("transcribe") + start() + chunks(speech(0.5)))
                await client.write(chunk(speech(0.1), Layout(rate=0)) + 5 * chunk(speech(0.1)) + stop())
                await client.expect_error("invalid-request")
                await client.expect_end()
            await asyncio.sleep(0.05)
    assert server.recogniser.finishes == 0
    log.check(warnings=3)


async def test_c22_no_generation_of_home_assistant_waits_for_ever():
    for transcriber in homeassistant.TRANSCRIBERS.values():
        async with listening() as server, server.connect() as client:
            assert (await transcriber(client, speech(0.1), layout=Layout(width=5))).text is None


CHANGES = {
    "rate": (USUAL, Layout(48000)),
    "width": (USUAL, Layout(width=4), Layout(width=1)),
    "channels": (USUAL, Layout(channels=2), USUAL),
    "all, to and fro": (Layout(44100, 3, 2), USUAL, Layout(8000, 1, 1), Layout(44100, 3, 2)),
}


@pytest.mark.parametrize("layouts", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
async def test_c23_the_format_may_change_between_chunks(layouts, torn: bool, log: Log):
    parts = [signal(0.3, layout, seed) for seed, layout in enumerate(layouts)]
    events = frame("transcribe") + start(Layout(22050))
    for part, layout in zip(parts, layouts, strict=True):
        events += chunks(pcm_of(part, layout.width), 777, layout)
        if torn and layout.width * layout.channels > 1:
            # Of a frame that is not whole nothing is heard.
            events += chunk(b"\x55", layout)
    async with listening() as server, server.connect() as client:
        await client.write(events + stop())
        await answer(client)
        wanted = np.concatenate([expected(*each) for each in zip(parts, layouts, strict=True)])
        np.testing.assert_allclose(received(server), wanted, rtol=0, atol=1e-7)
    log.check()


async def _hear(client: Client, begin: bytes, pcm: bytes, fields: dict | None) -> None:
    await client.write(frame("transcribe") + begin + frame("audio-chunk", fields, pcm) + stop())
    await answer(client)


@pytest.mark.parametrize(
    ("begin", "fields", "meant"),
    [
        (start(Layout(48000, 2, 2)), None, Layout(48000, 2, 2)),
        (start(Layout(48000, 2, 2)), {"rate": None, "width": None, "channels": None}, Layout(48000, 2, 2)),
        (start(Layout(48000, 2, 2)), {"channels": 1}, Layout(48000, 2, 1)),
        (start(Layout(48000, 2, 2)), USUAL.fields, USUAL),
        (frame("audio-start", {"rate": 8000}), {}, Layout(8000)),
        (b"", None, USUAL),
        (b"", {"rate": 8000}, Layout(8000)),
        (b"", Layout(44100, 3, 2).fields, Layout(44100, 3, 2)),
    ],
)
async def test_c23_the_format_of_a_chunk_wins_and_what_it_leaves_out_is_as_announced(begin, fields, meant, log: Log):
    samples = signal(0.3, meant)
    async with listening() as server, server.connect() as client:
        await _hear(client, begin, pcm_of(samples, meant.width), fields)
        np.testing.assert_allclose(received(server), expected(samples, meant), rtol=0, atol=1e-7)
    log.check()


async def test_c23_the_next_utterance_knows_nothing_of_the_format_of_the_last():
    samples = signal(0.3, USUAL)
    async with listening() as server, server.connect() as client:
        await _hear(client, start(Layout(48000, 2, 2)), speech(0.1), None)
        await _hear(client, b"", pcm_of(samples, 2), None)
        assert received(server).tolist() == expected(samples, USUAL).tolist()


@pytest.mark.parametrize("seconds", [15, 60])
async def test_c24_long_audio_is_heard_in_full(seconds: int, log: Log):
    pcm = speech(seconds)
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, pcm, 4096)).text == text_of(heard(pcm))
    log.check()


async def test_c24_beyond_the_longest_utterance_the_text_of_what_fits(log: Log):
    minute = speech(60)
    async with listening() as server, server.connect() as client:
        found = await transcribe(client, minute * 10, 65536)
        assert found.text == text_of(heard(minute * 5))
        assert received(server).size == 300 * RATE_HZ
        pcm = speech(1.0)
        assert (await transcribe(client, pcm)).text == text_of(heard(pcm))
    assert "--max-utterance" in log.warnings[0]
    log.check(warnings=1)


async def test_c24_the_longest_utterance_can_be_set(log: Log):
    pcm = speech(3.0)
    async with listening(max_utterance=2.0) as server, server.connect() as client:
        assert (await transcribe(client, pcm)).text == text_of(heard(pcm)[: 2 * RATE_HZ])
        # What exactly fits is not too long.
        assert (await transcribe(client, pcm[: 2 * 2 * RATE_HZ])).text == text_of(heard(pcm)[: 2 * RATE_HZ])
    log.check(warnings=1)


async def test_c24_silence_before_the_first_word_does_not_count(log: Log):
    pcm = speech(1.0)
    async with listening(max_utterance=12.0) as server, server.connect() as client:
        await transcribe(client, quiet(200) + pcm, 4096)
        # The last 10 s of the silence before it are heard, give or take a few frames.
        audio = received(server)
        assert 10.5 * RATE_HZ < audio.size < 11.5 * RATE_HZ
        assert audio[-RATE_HZ:].tolist() == heard(pcm).tolist()
        assert not audio[:-RATE_HZ].any()
    log.check()
