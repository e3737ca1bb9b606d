"""Conformance items 40 to 43: clients that go away, that stall, that are many; and the seams between windows."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from computing import on_cpu
from protocol.harness.client import Client, Speech, connect, eventually, frame
from protocol.harness.fake_engine import ALTO, BASS, FakeEngine, Script, audio, pause
from protocol.harness.log import Log
from protocol.harness.servers import ServerProcess, serving

from wyoming_rknn.audio import to_int16
from wyoming_rknn.models.formats.piper_config import VoiceConfig
from wyoming_rknn.models.store import Store
from wyoming_rknn.runtime import onnx
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts import espeak
from wyoming_rknn.tts.engine import Voice
from wyoming_rknn.tts.piper.engine import PiperEngine
from wyoming_rknn.tts.piper.phonemes import phonemize, to_ids
from wyoming_rknn.tts.piper.voice import Scales, WholeVoice
from wyoming_rknn.tts.piper.windows import Growth

MEGABYTE = 1 << 20
SLOW = Script(window_s=0.2, window_samples=22050)
ENDLESS = "This goes on and on and on. " * 200
TEN_MINUTES = "x" * 30000
"""At 20 ms a character: 26 MB of audio."""


async def _reset(client: Client) -> None:
    client.reset()


async def _close(client: Client) -> None:
    await client.close()


@pytest.mark.parametrize("leave", [_reset, _close], ids=["reset", "close"])
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
async def test_c40_a_client_that_goes_away_frees_the_device(leave, streaming: bool, log: Log):
    async with serving(script=SLOW) as server:
        async with server.connect() as client:
            if streaming:
                await client.send("synthesize-start")
                await client.send("synthesize-chunk", {"text": ENDLESS})
            else:
                await client.send("synthesize", {"text": ENDLESS})
            await client.expect("audio-start")
            await client.expect("audio-chunk")
            await leave(client)
        done = server.engine.windows
        async with server.connect() as following:
            asked = time.monotonic()
            speech = await following.say("Hello.", BASS.name)
            assert speech.samples.tolist() == audio("Hello.", BASS).tolist()
            # A window of the lost client may be running, and its own takes as long.
            assert speech.first_audio_at - asked < 1.0
        await asyncio.sleep(1.0)
        # TCP tells of a closed peer when something is written to it, and again.
        assert server.engine.windows <= done + 1 + 3
    log.check()


async def test_c40_a_client_that_leaves_before_its_turn_costs_nothing(log: Log):
    async with serving(script=SLOW) as server, server.connect() as first:
        await first.send("synthesize", {"text": ENDLESS})
        await first.expect("audio-start")
        for _ in range(5):
            async with server.connect() as client:
                await client.send("synthesize", {"text": "Never heard."})
                client.reset()
        async with server.connect() as client:
            await client.say("Hello.")
        # The device was busy with the first client meanwhile; one may have slipped in.
        assert server.engine.encoded.count("Never heard.") <= 1
    log.check()


async def test_c40_pipelined_requests_of_a_lost_client_are_dropped():
    async with serving(script=Script(window_s=0.05)) as server:
        async with server.connect() as client:
            await client.write(b"".join(frame("synthesize", {"text": f"Number {n}."}) for n in range(50)))
            await client.expect("audio-start")
            client.reset()
        await asyncio.sleep(0.5)
        assert len(server.engine.texts) < 5


async def _read_slowly(client: Client) -> Speech:
    """Take in an answer with pauses that fill all buffers again and again."""
    events = []
    while not events or events[-1].type != "audio-stop":
        if len(events) in (1, 20, 40):
            await asyncio.sleep(0.3)
        event = await client.receive()
        assert event is not None
        events.append(event)
    return Speech(events).check()


async def test_c41_a_slow_reader_slows_only_itself_and_loses_nothing(log: Log):
    text = "x" * 4000
    async with serving() as server, server.connect(buffer_bytes=4096) as slow:
        await slow.send("synthesize", {"text": text})
        reading = asyncio.create_task(_read_slowly(slow))
        took = []
        for _ in range(20):
            async with server.connect() as quick:
                begin = time.monotonic()
                await quick.say("Hello.")
                await quick.describe()
                took.append(time.monotonic() - begin)
        assert max(took) < 1.0
        speech = await reading
        expected = [audio(sentence, ALTO) for sentence in server.engine.texts if sentence != "Hello."]
        assert speech.samples.tolist() == np.concatenate(expected).tolist()
    log.check()


async def test_c41_what_is_computed_ahead_of_a_stalled_reader_is_bounded(log: Log, tmp_path: Path):
    # A unix socket holds little, so what was computed is what the server holds.
    async with serving(uri=f"unix://{tmp_path}/socket") as server, connect(server.uri) as stalled:
        stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await stalled.send("synthesize", {"text": TEN_MINUTES})
        computed = -1
        while computed != server.engine.windows:
            computed = server.engine.windows
            await asyncio.sleep(0.3)
        window_bytes = 2 * server.engine.script.window_samples
        assert 0 < computed * window_bytes < 2 * MEGABYTE
        async with connect(server.uri) as another:
            await another.say("Hello.")
    log.check()


def test_c41_a_stalled_reader_costs_little_memory(launch: Callable[..., ServerProcess]):
    server = launch(script=Script())

    async def stall() -> None:
        async with connect(server.uri) as client:
            await client.say("x" * 500)
        before = server.resources().rss_bytes
        async with AsyncExitStack() as stack:
            stalled = [await stack.enter_async_context(connect(server.uri, buffer_bytes=4096)) for _ in range(4)]
            for client in stalled:
                await client.send("synthesize", {"text": TEN_MINUTES})
            await asyncio.sleep(1.5)
            assert server.resources().rss_bytes - before < 4 * 2 * MEGABYTE + 4 * MEGABYTE
            async with connect(server.uri) as client:
                await client.say("Hello.")

    asyncio.run(stall())
    server.stop()
    server.check_log()


async def test_c41_a_reader_that_stays_stalled_is_dropped(log: Log):
    async with serving(write_timeout=0.4) as server, server.connect(buffer_bytes=4096) as stalled:
        await stalled.send("synthesize", {"text": TEN_MINUTES})
        await eventually(lambda: log.warnings)
        assert "read nothing" in log.warnings[0]
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            while await stalled.receive() is not None:
                pass
            raise asyncio.IncompleteReadError(b"", None)
        async with server.connect() as client:
            await client.say("Hello.")
    log.check(warnings=1)


async def test_c41_a_stalled_reader_holds_no_device(log: Log):
    async with serving(script=Script(window_s=0.01)) as server, server.connect(buffer_bytes=4096) as stalled:
        await stalled.send("synthesize", {"text": TEN_MINUTES})
        await asyncio.sleep(1.0)
        for _ in range(3):
            async with server.connect() as client:
                begin = time.monotonic()
                await client.say("Hello.")
                assert time.monotonic() - begin < 0.5
    log.check()


SENTENCES = ["The light is on.", "The door is open.", "It is raining.", "Good night!"]


async def _hear_all(uri: str, requests: Sequence[tuple[str, str]]) -> list[Speech]:
    """Stream all texts at once, each with its voice, over a connection of its own."""

    async def hear(text: str, voice: str) -> Speech:
        async with connect(uri) as client:
            return await client.stream([*text], voice)

    return list(await asyncio.gather(*(hear(text, voice) for text, voice in requests)))


async def test_c42_eight_streams_at_once_are_not_mixed(log: Log):
    voices = [Voice(f"en_US-voice{n}-medium", ("en-US",), "", (16000, 22050)[n % 2]) for n in range(8)]
    script = Script(encode_s=0.005, window_s=0.004, window_samples=2048)
    async with serving(FakeEngine(script, voices)) as server:
        names = ["Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo"]
        requests = [
            (" ".join([f"I am {name}.", *SENTENCES]), voice.name) for name, voice in zip(names, voices, strict=True)
        ]
        for speech, voice, name in zip(await _hear_all(server.uri, requests), voices, names, strict=True):
            expected = [audio(sentence, voice) for sentence in [f"I am {name}.", *SENTENCES]]
            assert speech.rate_hz == voice.rate_hz
            assert speech.samples.tolist() == np.concatenate(expected).tolist()
    log.check()


async def test_c42_eight_streams_are_served_fairly():
    voices = [Voice(f"en_US-voice{n}-medium", ("en-US",), "", 22050) for n in range(8)]
    async with serving(FakeEngine(Script(window_s=0.01, window_samples=2205), voices)) as server:
        heard = await _hear_all(server.uri, [(" ".join(SENTENCES), voice.name) for voice in voices])
    first_end = min(speech.events[-1].at for speech in heard)
    assert all(speech.first_audio_at < first_end for speech in heard), "somebody waited for another's whole answer"


@pytest.fixture
def piper(voices: Path, split_cache: Path) -> PiperEngine:
    return PiperEngine(Settings(data_dir=(voices,), cache_dir=split_cache), Store((voices,)), on_cpu(2))


async def test_c42_real_voices_are_not_mixed(piper: PiperEngine, log: Log):
    async with serving(piper, espeak.create(Settings(), on_cpu())) as server:
        texts = ["Hello there, how are you today?", "Good night!"]
        names = ["sano-hfc", "espeak-en-us", "sano-kristin", "espeak-de"]
        requests = [(text, name) for text in texts for name in names]
        alone = [(await _hear_all(server.uri, [request]))[0] for request in requests]
        together = await _hear_all(server.uri, requests)
        for request, one, all_at_once in zip(requests, alone, together, strict=True):
            if request[1].startswith("espeak"):
                # Its vocal tract is never quite the same; a few samples more or less are no other text.
                assert abs(one.seconds - all_at_once.seconds) < 0.01, request
            else:
                assert one.pcm == all_at_once.pcm, request
    log.check()


def one_shot(voices: Path, name: str, text: str) -> np.ndarray:
    """Return the samples that the voice's whole graph gives for a sentence, int16."""
    config = VoiceConfig.read(voices / name / f"{name}.onnx.json")
    ids, _ = to_ids(phonemize(text, config.espeak_voice, config.phoneme_type), config.phoneme_id_map)
    whole = WholeVoice(voices / name / f"{name}.onnx", config.rate_hz, partial(onnx.load, threads=1))
    utterance = whole.encode(ids, Scales(config.noise_scale, config.length_scale, config.noise_w), 0)
    return np.concatenate([to_int16(piece.compute()) for piece in utterance.pieces(Growth(16, 2.0, 128))])


async def test_c43_what_arrives_in_windows_is_the_one_shot_waveform(piper: PiperEngine, voices: Path):
    sentences = ["The light in the living room is on.", "The door is open, and it is raining outside."]
    expected = [one_shot(voices, "sano-hfc", sentence) for sentence in sentences]
    async with serving(piper, sentence_silence=0.25) as server, server.connect() as client:
        speech = await client.say(" ".join(sentences), "sano-hfc")
    assert speech.rate_hz == 22050
    assert len(speech.chunks) > 6
    gap = round(0.25 * 22050)
    begin = expected[0].size + gap
    assert speech.samples.size == begin + expected[1].size
    assert not speech.samples[expected[0].size : begin].any()
    for heard, whole in ((speech.samples[: expected[0].size], expected[0]), (speech.samples[begin:], expected[1])):
        assert np.abs(heard.astype(int) - whole.astype(int)).max() <= 1


@pytest.mark.parametrize("silence_s", [0.0, 0.2, 1.0])
async def test_c43_the_silence_between_sentences_is_exact(silence_s: float):
    for voice in (ALTO, BASS):
        async with serving(sentence_silence=silence_s) as server, server.connect() as client:
            gap = pause(silence_s, voice)
            parts = [audio(SENTENCES[0], voice)]
            for sentence in SENTENCES[1:]:
                parts += [gap, audio(sentence, voice)]
            text = " ".join(SENTENCES)
            assert (await client.say(text, voice.name)).samples.tolist() == np.concatenate(parts).tolist()
            assert (await client.stream([*text], voice.name)).samples.tolist() == np.concatenate(parts).tolist()


async def test_c43_nothing_reaches_full_scale():
    async with serving(espeak.create(Settings(volume=10.0), on_cpu())) as server, server.connect() as client:
        speech = await client.say("The quick brown fox jumps over the lazy dog.")
        peak = np.abs(speech.samples.astype(int)).max()
        assert 30000 < peak < 32767
        layout = speech.events[0].data
        assert (layout["rate"], layout["width"], layout["channels"]) == (22050, 2, 1)
