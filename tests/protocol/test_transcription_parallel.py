"""Conformance item 30: many speakers at once."""

import asyncio
import time
from contextlib import AsyncExitStack

import numpy as np
from protocol.harness.client import eventually, frame
from protocol.harness.fake_engine import ALTO, Script, audio
from protocol.harness.fake_recogniser import RecogniserScript, text_of
from protocol.harness.log import Log
from protocol.harness.servers import Running, listening
from protocol.harness.transcription import (
    Layout,
    Transcription,
    answer,
    chunks,
    heard,
    quiet,
    speak,
    speech,
    start,
    stop,
    transcribe,
)

MANY = 8
DECODE_S = 0.05
EVERY = [speech(0.5 + 0.1 * number, seed=number) for number in range(MANY)]


async def test_c30_eight_speakers_at_once_are_not_mixed(log: Log):
    async with listening(script=RecogniserScript(decode_s=0.02)) as server:

        async def hear(number: int) -> list[str]:
            async with server.connect() as client:
                sizes = np.random.default_rng(number).integers(1, 1500, 1000).tolist()
                found = [await transcribe(client, EVERY[(number + turn) % MANY], sizes) for turn in range(3)]
                return [each.text for each in found]

        for number, texts in enumerate(await asyncio.gather(*map(hear, range(MANY)))):
            assert texts == [text_of(heard(EVERY[(number + turn) % MANY])) for turn in range(3)]
    assert server.recogniser.finishes == 3 * MANY
    log.check()


async def test_c30_speakers_are_answered_in_the_order_in_which_they_stopped(log: Log):
    async with listening(script=RecogniserScript(decode_s=DECODE_S)) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.connect()) for _ in range(MANY)]
        for client, pcm in zip(clients, EVERY, strict=True):
            await client.write(frame("transcribe") + start() + chunks(pcm))
        await eventually(lambda: len(server.recogniser.sessions) == MANY)
        asked = time.monotonic()
        order = np.random.default_rng(5).permutation(MANY).tolist()
        for number in order:
            await clients[number].write(stop())
            # Each is known to have stopped before the next one does.
            await clients[number].send("ping")
            await clients[number].expect("pong")
            await asyncio.sleep(0.01)
        found = dict(zip(order, await asyncio.gather(*(answer(clients[number]) for number in order)), strict=True))
        for number in range(MANY):
            assert found[number].text == text_of(heard(EVERY[number]))
        times = [found[number].at for number in order]
        assert times == sorted(times)
        # Linear in the place: nobody waits for more than those before.
        for place, at in enumerate(times, 1):
            assert at - asked < place * DECODE_S + 0.4
        assert times[-1] - asked < MANY * DECODE_S + 0.4
    log.check()


async def _describe_until(server: Running, done: asyncio.Event) -> list[float]:
    took = []
    async with server.connect() as client:
        while not done.is_set():
            begin = time.monotonic()
            await client.describe()
            took.append(time.monotonic() - begin)
            await asyncio.sleep(0.01)
    return took


async def test_c30_eight_live_speakers_and_a_talker_do_not_get_in_each_others_way(log: Log):
    pcm = [speech(0.4, seed=number, rate_hz=48000) + quiet(0.7, 48000) for number in range(MANY)]
    layout = Layout(48000)
    async with listening(script=RecogniserScript(decode_s=0.03)) as server:
        server.engine.script = Script(window_s=0.01)
        done = asyncio.Event()
        describing = asyncio.create_task(_describe_until(server, done))

        async def hear(number: int) -> tuple[Transcription, float]:
            async with server.connect() as client:
                await client.write(frame("transcribe") + start(layout))
                await speak(client, pcm[number], layout)
                asked = time.monotonic()
                await client.write(stop())
                found = await answer(client)
                return found, found.at - asked

        async def listen() -> None:
            async with server.connect() as client:
                assert (await client.say("Hello there.")).samples.tolist() == audio("Hello there.", ALTO).tolist()

        answers, *_ = await asyncio.gather(asyncio.gather(*map(hear, range(MANY))), *(listen() for _ in range(4)))
        done.set()
        took = await describing
        for session, (found, _) in zip(server.recogniser.sessions, answers, strict=True):
            assert len(found.text.split()) > 4
            assert session.finishes == 1
        # Ready before it was asked for, though all asked at once.
        assert sorted(took_s for _, took_s in answers)[MANY // 2] < 0.1
        assert sorted(took)[int(len(took) * 0.98)] < 0.25
    log.check()


async def test_c30_describe_is_quick_while_the_device_is_busy():
    async with listening(script=RecogniserScript(decode_s=1.0)) as server, server.connect() as busy:
        await busy.write(frame("transcribe") + start() + chunks(EVERY[0]) + stop())
        await eventually(lambda: server.recogniser.decoding == 1)
        done = asyncio.Event()
        describing = asyncio.create_task(_describe_until(server, done))
        await answer(busy)
        done.set()
        took = await describing
        assert len(took) > 20
        assert sorted(took)[-2] < 0.25
