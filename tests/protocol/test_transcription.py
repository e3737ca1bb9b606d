"""Conformance items 17 to 21, 24 and 30: the events of an utterance, in every order and shape."""

import asyncio
import time

import pytest
from protocol.harness.client import Client, frame
from protocol.harness.detector import Loudness
from protocol.harness.fake_recogniser import text_of
from protocol.harness.log import Log
from protocol.harness.servers import listening
from protocol.harness.transcription import (
    HA_CHUNK_BYTES,
    answer,
    chunk,
    chunks,
    heard,
    pieces,
    quiet,
    ragged,
    speech,
    start,
    stop,
    transcribe,
    utterance,
)

PCM = speech(1.2345)
TEXT = text_of(heard(PCM))
ANOTHER = speech(0.5, seed=1)
ANOTHER_TEXT = text_of(heard(ANOTHER))


async def _nothing_else_comes(client: Client) -> None:
    """Assert that all answers are taken in, and that the connection is alive."""
    await client.describe()


@pytest.mark.parametrize("chunk_bytes", [HA_CHUNK_BYTES, 2048, 4096, 65536, len(PCM)])
async def test_c17_chunks_of_any_size_give_one_transcript(chunk_bytes: int, log: Log):
    pcm = PCM * 2 if chunk_bytes == 65536 else PCM
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, pcm, chunk_bytes, language="en")).text == text_of(heard(pcm))
        await _nothing_else_comes(client)
    assert server.recogniser.finishes == 1
    log.check()


async def test_c17_chunks_of_one_byte(log: Log):
    pcm = PCM[: 2 * 4321]
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, pcm, 1)).text == text_of(heard(pcm))
        await _nothing_else_comes(client)
    log.check()


async def test_c17_one_giant_chunk(log: Log):
    pcm = (PCM * 100)[: 1 << 20]
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, pcm, len(pcm))).text == text_of(heard(pcm))
        await _nothing_else_comes(client)
        # A byte more than --max-payload allows.
        await client.write(frame("transcribe") + start() + chunk(pcm + b"\0"))
        await client.expect_error("protocol-error")
        await client.expect_end()
    log.check(warnings=1)


async def test_c17_utterances_follow_one_another_on_a_connection(log: Log):
    async with listening() as server, server.connect() as client:
        for number in range(20):
            pcm = speech(0.3, seed=number)
            assert (await transcribe(client, pcm)).text == text_of(heard(pcm))
    assert len(server.recogniser.sessions) == 20
    log.check()


async def test_c17_pipelined_utterances_are_answered_in_their_order(log: Log):
    every = [speech(0.3, seed=number) for number in range(8)]
    async with listening() as server, server.connect() as client:
        await client.write(b"".join(utterance(pcm) + frame("describe") for pcm in every))
        for pcm in every:
            assert (await answer(client)).text == text_of(heard(pcm))
            await client.expect("info")
    log.check()


async def test_c17_what_is_asked_for_meanwhile_need_not_wait_for_the_speaker(log: Log):
    async with listening() as server, server.connect() as client:
        await client.write(frame("transcribe") + start() + chunks(PCM))
        await client.describe()
        assert (await client.say("Hello.")).samples.any()
        await client.send("ping", {"text": "x"})
        await client.expect("pong")
        await client.write(chunks(ANOTHER) + stop())
        assert (await answer(client)).text == text_of(heard(PCM + ANOTHER))
    log.check()


async def test_c17_half_closed_connections_are_answered(log: Log):
    async with listening() as server, server.connect() as client:
        await client.write(utterance(PCM))
        client.half_close()
        assert (await answer(client)).text == TEXT
        await client.expect_end()
    log.check()


SIZES = {
    "odd, even sum": [321, 319] * 1000,
    "odd, odd sum": [333] * 1000,
    "3 bytes": [3] * 20000,
    "newlines of a file": ragged(0, 12561),
    "ragged": ragged(1, 700),
    "one byte, then the rest": [1, len(PCM)],
    "all but one byte": [len(PCM) - 1, 1],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
async def test_c18_odd_chunks_give_the_same_text(sizes, log: Log):
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, PCM, sizes)).text == TEXT
    log.check()


async def test_c18_half_a_sample_at_the_end_is_left_out(log: Log):
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, PCM[:-1], 777)).text == text_of(heard(PCM[:-2]))
        # Nor is it put before the next utterance.
        assert (await transcribe(client, PCM, 777)).text == TEXT
    log.check()


async def test_c18_the_header_of_a_wav_file_does_no_harm(log: Log):
    header = b"RIFF\x24\x00\x00\x80WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\0\0\x80"
    assert len(header) == 44
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, header + PCM, 4096)).text == text_of(heard(header + PCM))
    log.check()


ASK = frame("transcribe", {"language": "de"})
ORDERS = {
    "no transcribe": start() + chunks(PCM) + stop(),
    "no audio-start": ASK + chunks(PCM) + stop(),
    "only audio": chunks(PCM) + stop(),
    "transcribe after audio-start": start() + ASK + chunks(PCM) + stop(),
    "transcribe among the chunks": start() + chunks(PCM[:6400]) + ASK + chunks(PCM[6400:]) + stop(),
    "transcribe before audio-stop": start() + chunks(PCM) + ASK + stop(),
    "audio before transcribe": chunks(PCM[:6400]) + ASK + chunks(PCM[6400:]) + stop(),
    "audio-start after the first chunks": ASK + chunks(PCM[:6400]) + start() + chunks(PCM[6400:]) + stop(),
    "without any data": frame("transcribe")
    + frame("audio-start")
    + frame("audio-chunk", {}, PCM)
    + frame("audio-stop"),
    "null data": b'{"type":"transcribe","data":null}\n{"type":"audio-start","data":null}\n'
    + chunks(PCM)
    + b'{"type":"audio-stop","data":null}\n',
    "timestamps": ASK
    + frame("audio-start", {"rate": 16000, "width": 2, "channels": 1, "timestamp": 5})
    + b"".join(chunk(piece, timestamp=number) for number, piece in enumerate(pieces(PCM, 320)))
    + frame("audio-stop", {"timestamp": 1234}),
    "voice events": ASK + start() + frame("voice-started") + chunks(PCM) + frame("voice-stopped") + stop(),
    "zero-length chunks": ASK
    + start()
    + chunk(b"")
    + chunk(b"").join(map(chunk, pieces(PCM, 3201)))
    + chunk(b"")
    + stop(),
}


@pytest.mark.parametrize("events", ORDERS.values(), ids=ORDERS)
async def test_c19_any_order_of_events_gives_one_transcript(events: bytes, log: Log):
    async with listening() as server, server.connect() as client:
        for _ in range(2):
            await client.write(events)
            assert (await answer(client)).text == TEXT
            await _nothing_else_comes(client)
        # Nothing is left of it that would change what follows.
        assert (await transcribe(client, ANOTHER)).text == ANOTHER_TEXT
    log.check()


@pytest.mark.parametrize("events", [ASK + start() + chunks(PCM) + stop(), ORDERS["transcribe after audio-start"]])
async def test_c19_the_language_holds_in_either_order(events: bytes):
    async with listening() as server, server.connect() as client:
        await client.write(events)
        assert (await answer(client)).language == "de"
    assert [session.language for session in server.recogniser.sessions] == ["de"]


NOTHING = {
    "audio-stop": stop(),
    "chunk and stop": chunk(b"") + stop(),
    "transcribe and stop": frame("transcribe") + stop(),
    "start and stop": start() + stop(),
    "transcribe, start, stop": frame("transcribe") + start() + stop(),
    "zero-length chunks": frame("transcribe") + start() + 5 * chunk(b"") + stop(),
    "one byte": utterance(b"\1"),
    "one sample": utterance(b"\0\1"),
    "30 chunks": utterance(quiet(0.3)),
    "10 ms of noise": utterance(speech(0.01)),
    "silence": utterance(quiet(1.0)),
    "a hum": utterance(bytes([10, 0]) * 16000),
}


@pytest.mark.parametrize("detector", [Loudness, None], ids=["scripted", "real"])
@pytest.mark.parametrize("events", NOTHING.values(), ids=NOTHING)
async def test_c20_no_speech_gives_an_empty_text(events: bytes, detector, log: Log):
    async with listening(detector=detector) as server, server.connect() as client:
        for _ in range(2):
            await client.write(events)
            empty = await answer(client)
            assert empty.text == ""
            assert empty.told == []
            await _nothing_else_comes(client)
    # Nobody asked the engine.
    assert server.recogniser.finishes == 0
    log.check()


async def test_c21_transcribe_and_then_nothing_idles_out(log: Log):
    async with listening(idle_timeout=0.3) as server:
        for events in (b"", frame("transcribe"), frame("transcribe") + start(), start()):
            async with server.connect() as client:
                await client.write(events)
                begin = time.monotonic()
                await client.expect_end()
                assert time.monotonic() - begin > 0.2
    log.check()


async def test_c21_a_speaker_who_falls_silent_without_an_end_is_told(log: Log):
    async with listening(idle_timeout=0.3) as server, server.connect() as client:
        await client.write(frame("transcribe") + start() + chunks(PCM))
        await client.expect_error("timeout")
        await client.expect_end()
    log.check(warnings=1)


async def test_c21_a_slow_speaker_is_waited_for(log: Log):
    async with listening(idle_timeout=0.5) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        for piece in pieces(PCM, len(PCM) // 4 + 1):
            await client.write(chunk(piece))
            await asyncio.sleep(0.25)
        await client.write(stop())
        assert (await answer(client)).text == TEXT
    log.check()


BEGINNINGS = {
    "transcribe": frame("transcribe"),
    "transcribe, start": frame("transcribe") + start(),
    "transcribe, start, audio": frame("transcribe") + start() + chunks(ANOTHER),
    "transcribe, audio": frame("transcribe") + chunks(ANOTHER),
    "start, audio": start() + chunks(ANOTHER),
    "start, half a sample": start() + chunk(ANOTHER[:333]),
}


@pytest.mark.parametrize("events", BEGINNINGS.values(), ids=BEGINNINGS)
async def test_c30_a_second_beginning_starts_anew(events: bytes, log: Log):
    async with listening() as server, server.connect() as client:
        await client.write(events * 3 + utterance(PCM))
        assert (await answer(client)).text == TEXT
        await _nothing_else_comes(client)
    log.check()


async def test_c30_a_second_audio_start_starts_anew_and_keeps_what_was_asked(log: Log):
    async with listening() as server, server.connect() as client:
        await client.write(ASK + (start() + chunks(ANOTHER)) * 3 + start() + chunks(PCM) + stop())
        found = await answer(client)
        assert (found.text, found.language) == (TEXT, "de")
        await _nothing_else_comes(client)
    log.check()


async def test_c30_many_beginnings_hold_nothing(log: Log):
    async with listening(max_requests=8) as server, server.connect() as client:
        for _ in range(40):
            await client.write(frame("transcribe") + start() + chunks(ANOTHER))
            await _nothing_else_comes(client)
            await asyncio.sleep(0.005)
        await client.write(utterance(PCM))
        assert (await answer(client)).text == TEXT
    log.check()
