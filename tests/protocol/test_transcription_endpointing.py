"""Conformance items 16 and 28: the server itself finds out when the speaker has stopped."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from protocol.harness.client import Client, frame
from protocol.harness.fake_recogniser import RecogniserScript, digest
from protocol.harness.homeassistant import TRANSCRIBERS, Outcome
from protocol.harness.log import Log
from protocol.harness.servers import listening
from protocol.harness.transcription import (
    Transcription,
    answer,
    chunk,
    chunks,
    heard,
    quiet,
    speech,
    start,
    stop,
    utterance,
)

HELLO, AGAIN = speech(0.4), speech(0.4, seed=1)
BEGIN = frame("transcribe", {"language": "en"}) + start()


def _is(found: Transcription, pcm: bytes) -> bool:
    """Tell whether a text is that of an utterance, with more or less of the silence after it."""
    wanted = digest(heard(pcm))
    return found.text.split()[: len(wanted)] == wanted


async def _early(client: Client, pcm: bytes = HELLO) -> Transcription:
    """Speak, then be silent, and return the transcript that comes though the audio has not ended."""
    await client.write(BEGIN + chunks(pcm + quiet(1)))
    return await answer(client)


async def _nothing_comes(client: Client) -> None:
    """Assert that no answer is under way."""
    await asyncio.sleep(0.1)
    await client.describe()


@pytest.mark.parametrize("seconds", [0.0, 0.5])
async def test_c16_who_has_to_detect_the_end_is_told_truthfully(seconds: float):
    async with listening(vad_endpointing=seconds) as server, server.connect() as client:
        (program,) = (await client.describe()).data["asr"]
        assert program["requires_external_vad"] is (seconds == 0.0)
        if seconds:
            assert _is(await _early(client), HELLO)
        else:
            await client.write(BEGIN + chunks(HELLO + quiet(1)))
            await _nothing_comes(client)
            await client.write(stop())
            assert _is(await answer(client), HELLO)


async def test_c28_the_transcript_comes_before_the_audio_ends_and_the_rest_is_not_heard(log: Log):
    async with listening(vad_endpointing=0.3) as server, server.connect() as client:
        assert _is(await _early(client), HELLO)
        # Whatever follows belongs to the utterance that is over, until it ends.
        await client.write(chunks(AGAIN) + chunks(quiet(1)) + chunk(b"") + chunk(AGAIN))
        await _nothing_comes(client)
        await client.write(stop())
        await _nothing_comes(client)
        # The next one is heard.
        assert _is(await _early(client, AGAIN), AGAIN)
        await client.write(stop())
        await _nothing_comes(client)
    assert server.recogniser.finishes == 2
    log.check()


async def test_c28_a_connection_serves_anything_after_an_early_transcript(log: Log):
    async with listening(vad_endpointing=0.3, idle_timeout=0.5) as server, server.connect() as client:
        assert _is(await _early(client), HELLO)
        await client.write(chunks(HELLO))
        await client.say("Hello.")
        await client.send("ping")
        await client.expect("pong")
        await client.write(stop() + utterance(AGAIN))
        assert _is(await answer(client), AGAIN)
        assert _is(await _early(client), HELLO)
        # Nobody is listened to any more, so nobody is told that the end is missing.
        await client.expect_end()
    log.check()


@pytest.mark.parametrize(
    "begin", [BEGIN, start(), frame("transcribe")], ids=["transcribe, audio-start", "audio-start", "transcribe"]
)
async def test_c28_the_next_utterance_may_begin_without_the_end_of_the_last(begin: bytes, log: Log):
    async with listening(vad_endpointing=0.3) as server, server.connect() as client:
        assert _is(await _early(client), HELLO)
        await client.write(chunks(HELLO) + begin + chunks(AGAIN) + stop())
        assert _is(await answer(client), AGAIN)
        await _nothing_comes(client)
    log.check()


async def test_c28_the_end_of_the_audio_may_come_first(log: Log):
    async with listening(vad_endpointing=2.0) as server, server.connect() as client:
        for _ in range(3):
            await client.write(BEGIN + chunks(HELLO) + chunks(quiet(0.2)) + stop())
            assert _is(await answer(client), HELLO)
            await client.describe()
    log.check()


async def test_c28_both_ends_at_once_give_one_transcript(log: Log):
    async with listening(vad_endpointing=0.3) as server, server.connect() as client:
        for number in range(30):
            pcm = speech(0.2, seed=number)
            await client.write(utterance(pcm + quiet(0.32)))
            assert _is(await answer(client), pcm)
            await client.describe()
    assert server.recogniser.finishes == 30
    log.check()


async def test_c28_a_pause_that_is_short_enough_ends_nothing(log: Log):
    pcm = HELLO + quiet(0.3) + AGAIN
    async with listening(vad_endpointing=0.5) as server, server.connect() as client:
        assert _is(await _early(client, pcm), pcm)
    log.check()


@pytest.mark.parametrize(
    ("sensitivity", "waits_s"), [("aggressive", 0.25), ("default", 0.7), ("", 0.7), ("relaxed", 1.25)]
)
async def test_c28_the_sensitivity_decides_how_long_is_waited(sensitivity: str, waits_s: float):
    async with listening(vad_endpointing=0.7) as server, server.connect() as client:
        await client.write(frame("transcribe", {"vad_sensitivity": sensitivity}) + start())
        await client.write(chunks(HELLO + quiet(waits_s - 0.1)))
        await _nothing_comes(client)
        await client.write(chunks(quiet(0.2)))
        assert _is(await answer(client), HELLO)


async def test_c28_nobody_is_waited_for_without_end(log: Log):
    async with listening(vad_endpointing=0.5) as server, server.connect() as client:
        await client.write(BEGIN + chunks(quiet(14)))
        await _nothing_comes(client)
        await client.write(chunks(quiet(1.5)))
        assert (await answer(client)).text == ""
        await client.write(chunks(HELLO) + stop())
        assert _is(await _early(client, AGAIN), AGAIN)
    log.check()


async def test_c28_too_long_an_utterance_is_over(log: Log):
    async with listening(vad_endpointing=0.5, max_utterance=2.0) as server, server.connect() as client:
        await client.write(BEGIN + chunks(speech(3.0)))
        assert (await answer(client)).text.split() == digest(heard(speech(3.0))[:32000])
        await client.write(stop())
        await client.describe()
    log.check(warnings=1)


async def test_c28_an_engine_that_fails_ends_the_connection_before_the_audio_ends(log: Log):
    script = RecogniserScript(fail="finish")
    async with listening(script=script, vad_endpointing=0.3) as server, server.connect() as client:
        await client.write(BEGIN + chunks(HELLO + quiet(1)))
        await client.expect_error("engine-error")
        await client.expect_end()
    log.check(warnings=1)


async def test_c28_every_generation_of_home_assistant_gets_the_early_transcript(log: Log):
    pcm = HELLO + quiet(0.9)
    async with listening(vad_endpointing=0.3) as server:

        async def hear(transcriber: Callable[..., Awaitable[Outcome]]) -> Outcome:
            async with server.connect() as client:
                return await transcriber(client, pcm, live=True)

        for version, outcome in zip(TRANSCRIBERS, await asyncio.gather(*map(hear, TRANSCRIBERS.values())), strict=True):
            assert outcome.text is not None
            assert outcome.text.split()[:4] == digest(heard(HELLO))
            # The last generation stops sending then, and drops the socket; the others read it once they are done.
            assert outcome.stopped is (version != "2026.10")
    assert server.recogniser.finishes == 3
    log.check()
