"""Conformance item 29: clients that go away, and engines that fail."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from protocol.harness.client import Client, eventually, frame
from protocol.harness.fake_engine import ALTO, audio
from protocol.harness.fake_recogniser import FakeRecogniser, RecogniserScript, text_of
from protocol.harness.homeassistant import TRANSCRIBERS
from protocol.harness.log import Log
from protocol.harness.servers import Running, listening
from protocol.harness.transcription import (
    answer,
    chunk,
    chunks,
    heard,
    quiet,
    speak,
    speech,
    start,
    stop,
    transcribe,
    utterance,
)

PCM = speech(0.5)
TEXT = text_of(heard(PCM))
HALF = frame("transcribe", {"language": "en"}) + start() + chunks(PCM)
ENDLESS_S = 3600.0


async def _reset(client: Client) -> None:
    client.reset()


async def _close(client: Client) -> None:
    await client.close()


async def _half_close(client: Client) -> None:
    client.half_close()
    await client.expect_end()


LEAVE = pytest.mark.parametrize("leave", [_reset, _close, _half_close], ids=["reset", "close", "half-close"])


async def _is_free(server: Running) -> None:
    """Assert that an utterance is answered as if nothing had been before."""
    async with server.connect() as client:
        assert (await transcribe(client, PCM)).text == TEXT


async def _freed(recogniser: FakeRecogniser) -> None:
    """Wait until no utterance holds anything."""
    await eventually(lambda: recogniser.open_sessions == 0 and recogniser.decoding == 0, 5)


@LEAVE
async def test_c29_who_leaves_during_the_upload_leaves_nothing_behind(leave, log: Log):
    async with listening(max_requests=1) as server:
        for number in range(10):
            async with server.connect() as client:
                await client.write(HALF if number % 2 else HALF + chunk(PCM[:333]))
                await eventually(lambda number=number: len(server.recogniser.sessions) > number)
                await leave(client)
            await _freed(server.recogniser)
            await asyncio.sleep(0.02)
        await _is_free(server)
    assert server.recogniser.finishes == 1
    log.check()


async def test_c29_who_leaves_during_the_decoding_frees_the_device(log: Log):
    async with listening(script=RecogniserScript(decode_s=ENDLESS_S)) as server:
        # As many as may be worked on, several times.
        for _ in range(3):
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(server.connect()) for _ in range(32)]
                for client in clients:
                    await client.write(HALF + stop())
                await eventually(lambda: server.recogniser.decoding == 1)
                for client in clients:
                    client.reset()
            await _freed(server.recogniser)
            await asyncio.sleep(0.05)
        server.recogniser.script = RecogniserScript()
        await _is_free(server)
    log.check()


async def test_c29_who_closes_during_the_decoding_leaves_nothing_behind(log: Log):
    # A client that has closed looks like one that waits for its answer with nothing more to say.
    async with listening(script=RecogniserScript(decode_s=0.05), max_requests=4) as server:
        for _ in range(4):
            async with AsyncExitStack() as stack:
                for _ in range(4):
                    client = await stack.enter_async_context(server.connect())
                    await client.write(HALF + stop())
                await eventually(lambda: server.recogniser.decoding == 1)
            await _freed(server.recogniser)
            await asyncio.sleep(0.05)
        await _is_free(server)
    log.check()


async def test_c29_who_leaves_before_his_turn_costs_nothing(log: Log):
    async with listening(script=RecogniserScript(decode_s=ENDLESS_S)) as server:
        async with server.connect() as first:
            await first.write(HALF + stop())
            await eventually(lambda: server.recogniser.decoding == 1)
            for number in range(2, 7):
                async with server.connect() as client:
                    await client.write(HALF + stop())
                    await eventually(lambda number=number: server.recogniser.finishes == number)
                    client.reset()
            await asyncio.sleep(0.1)
            server.recogniser.script = RecogniserScript()
            first.reset()
        await _freed(server.recogniser)
        assert len(server.recogniser.order) == 1
        await _is_free(server)
    log.check()


async def test_c29_pipelined_utterances_of_a_lost_client_are_dropped(log: Log):
    async with listening(script=RecogniserScript(decode_s=0.3)) as server:
        async with server.connect() as client:
            await client.write((HALF + stop()) * 8)
            await eventually(lambda: server.recogniser.decoding == 1)
            client.reset()
        await _freed(server.recogniser)
        assert len(server.recogniser.order) < 4
        await _is_free(server)
    log.check()


async def test_c29_who_leaves_while_the_model_loads_is_not_waited_for(log: Log):
    async with listening(script=RecogniserScript(load_s=0.5)) as server:
        async with server.connect() as client:
            await client.write(HALF + stop())
            await asyncio.sleep(0.1)
            client.reset()
        async with server.connect() as client:
            await client.describe()
            assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", ALTO).tolist()
        # Loading cannot be interrupted; what it was for is closed all the same.
        await eventually(lambda: server.recogniser.sessions)
        await _freed(server.recogniser)
        assert server.recogniser.order == []
    log.check()


async def test_c29_who_leaves_while_a_decoding_ahead_runs_frees_it(log: Log):
    async with listening(script=RecogniserScript(decode_s=ENDLESS_S)) as server:
        async with server.connect() as client:
            await client.write(frame("transcribe") + start())
            await speak(client, speech(0.2) + quiet(0.4))
            await eventually(lambda: server.recogniser.decoding == 1)
            client.reset()
        await _freed(server.recogniser)
    log.check()


async def test_c29_a_decoding_ahead_that_nobody_needs_is_given_up(log: Log):
    pcm = speech(0.2) + quiet(0.4) + speech(0.3)
    async with listening(script=RecogniserScript(decode_s=ENDLESS_S)) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        await speak(client, pcm[: -2 * 4800])
        await eventually(lambda: server.recogniser.decoding == 1)
        server.recogniser.script = RecogniserScript()
        await speak(client, pcm[-2 * 4800 :])
        await client.write(stop())
        assert (await answer(client)).text == text_of(heard(pcm))
        assert server.recogniser.decoded == 2
    log.check()


FAILURES = {
    "open": "engine-error",
    "model": "model-invalid",
    "accept": "engine-error",
    "finish": "engine-error",
    "bug": "internal-error",
}


@pytest.mark.parametrize(("step", "code"), FAILURES.items())
async def test_c29_an_engine_that_fails_is_an_error_and_the_end_of_the_connection(step: str, code: str, log: Log):
    async with listening(script=RecogniserScript(fail=step), max_requests=1) as server:
        for number in range(3):
            async with server.connect() as client:
                await client.write(utterance(PCM) + frame("describe"))
                error = await client.expect_error(code)
                assert "scripted" in error.data["text"] or code == "internal-error"
                await client.expect_end()
            assert len(log.warnings) == number + 1
        async with server.connect() as client:
            await client.describe()
            await client.say("Hello.")
        server.recogniser.script = RecogniserScript()
        await _is_free(server)
    if step == "bug":
        # What nobody has foreseen is explained, to those who want to know.
        assert {record.levelname for record in log.records if record.exc_info} == {"DEBUG"}
        log.clear()
    else:
        log.check(warnings=3)


@pytest.mark.parametrize("version", TRANSCRIBERS)
async def test_c29_no_generation_of_home_assistant_waits_for_ever(version: str):
    for step, code in FAILURES.items():
        async with listening(script=RecogniserScript(fail=step)) as server, server.connect() as client:
            outcome = await TRANSCRIBERS[version](client, PCM)
            assert outcome.text is None
            assert outcome.error == (None if version == "2026.7" else code)


async def test_c29_what_was_asked_before_a_failure_is_answered(log: Log):
    async with listening(script=RecogniserScript(fail="finish")) as server, server.connect() as client:
        await client.write(frame("synthesize", {"text": "Hello."}) + frame("describe") + utterance(PCM))
        assert (await client.hear()).samples.tolist() == audio("Hello.", ALTO).tolist()
        await client.expect("info")
        await client.expect_error("engine-error")
        await client.expect_end()
    log.check(warnings=1)


async def test_c29_an_engine_that_prints_does_no_harm(log: Log):
    async with listening(script=RecogniserScript(chatter="careless library\n")) as server:
        await _is_free(server)
    log.check()
