"""Conformance item 30: more to do than can be done."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from protocol.harness.client import eventually, frame
from protocol.harness.fake_engine import Script
from protocol.harness.fake_recogniser import RecogniserScript, text_of
from protocol.harness.homeassistant import TRANSCRIBERS
from protocol.harness.log import Log
from protocol.harness.servers import Running, listening
from protocol.harness.transcription import answer, chunk, chunks, heard, speech, start, stop, transcribe, utterance

PCM = speech(0.5)
TEXT = text_of(heard(PCM))
HALF = frame("transcribe", {"language": "en"}) + start() + chunks(PCM)


async def _is_free(server: Running) -> None:
    """Assert that an utterance is answered as if nothing had been before."""
    async with server.connect() as client:
        assert (await transcribe(client, PCM)).text == TEXT


async def test_c30_more_than_may_be_worked_on_is_refused_once(log: Log):
    script = RecogniserScript(decode_s=0.5)
    async with listening(script=script, max_requests=2) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.connect()) for _ in range(3)]
        for client in clients[:2]:
            await client.write(HALF)
        await eventually(lambda: len(server.recogniser.sessions) == 2)
        # All of it arrives after the limit is reached; there is one answer to it, and an end.
        await clients[2].write(HALF + stop() + frame("describe"))
        error = await clients[2].expect_error("busy")
        assert "--max-requests" in error.data["text"]
        await clients[2].expect_end()
        for client in clients[:2]:
            await client.write(stop())
        for client in clients[:2]:
            assert (await answer(client)).text == TEXT
        await _is_free(server)
    log.check(warnings=1)


@pytest.mark.parametrize("version", TRANSCRIBERS)
async def test_c30_no_generation_of_home_assistant_waits_for_a_busy_server(version: str, log: Log):
    async with listening(max_requests=1) as server, server.connect() as first, server.connect() as second:
        await first.write(HALF)
        await eventually(lambda: server.recogniser.sessions)
        outcome = await TRANSCRIBERS[version](second, PCM)
        assert (outcome.text, outcome.error) == (None, None if version == "2026.7" else "busy")
        await first.write(stop())
        assert (await answer(first)).text == TEXT
    log.check(warnings=1)


async def test_c30_speech_and_listening_share_one_limit(log: Log):
    async with listening(max_requests=1) as server:
        server.engine.script = Script(window_s=0.1)
        async with server.connect() as speaking, server.connect() as spoken:
            await speaking.send("synthesize", {"text": "x" * 50})
            await speaking.expect("audio-start")
            await spoken.write(utterance(PCM))
            await spoken.expect_error("busy")
            await spoken.expect_end()
            await speaking.until("audio-stop")
        await asyncio.sleep(0.05)
        await _is_free(server)
    log.check(warnings=1)


async def test_c30_those_who_say_nothing_keep_nobody_from_being_heard(log: Log):
    async with listening(max_requests=1) as server, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(server.connect()) for _ in range(8)]
        for client in silent:
            await client.write(frame("transcribe") + start() + chunk(b""))
        await _is_free(server)
        for client in silent:
            await client.write(chunks(PCM) + stop())
            assert (await answer(client)).text == TEXT
    log.check()


async def test_c30_more_than_may_be_worked_on_for_one_client_is_refused(log: Log):
    async with listening(script=RecogniserScript(decode_s=0.02), max_requests=4) as server, server.connect() as client:
        await client.write(utterance(PCM) * 40)
        answers = 0
        while (event := await client.receive()) is not None and event.type != "error":
            answers += event.type == "transcript"
            assert event.data.get("text", TEXT) == TEXT
        assert event is not None
        assert event.data["code"] == "busy"
        await client.expect_end()
        # What was taken in before is answered.
        assert 4 <= answers < 40
    log.check(warnings=1)
