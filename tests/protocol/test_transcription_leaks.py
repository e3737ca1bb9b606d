"""Conformance items 9 and 29: what clients who go away in the middle of an utterance leave behind."""

import asyncio
import gc
import socket
import struct
import time
import weakref
from collections.abc import Callable
from functools import partial

import pytest
from protocol.harness.blocking import dial
from protocol.harness.client import eventually, frame
from protocol.harness.detector import Loudness
from protocol.harness.fake_engine import Script
from protocol.harness.fake_recogniser import FakeRecogniser, RecogniserScript
from protocol.harness.leaks import nothing_leaks, warm_up
from protocol.harness.log import Log
from protocol.harness.servers import ServerProcess, listening
from protocol.harness.spoken import spoken
from protocol.harness.transcription import chunks, quiet, speech, start, stop, transcribe

BEGIN = frame("transcribe") + start()
SPOKEN = BEGIN + chunks(spoken("Turn on the living room light.")[:9600], 4096)
SILENT = BEGIN + chunks(quiet(0.3), 4096)


def _leave(server: ServerProcess, sent: bytes, *, reset: bool) -> None:
    with dial(server.uri) as connection:
        connection.sendall(sent)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


RUDE = {
    "reset": (partial(_leave, sent=SPOKEN, reset=True), 250),
    "close": (partial(_leave, sent=SPOKEN, reset=False), 50),
    "reset once all is said": (partial(_leave, sent=SPOKEN + stop(), reset=True), 50),
    "reset in silence": (partial(_leave, sent=SILENT, reset=True), 650),
}


def test_c09_a_thousand_rude_speakers_leave_nothing_behind(launch: Callable[..., ServerProcess]):
    server = launch(script=Script(), recogniser=RecogniserScript())
    warm_up(server)
    threads = server.resources().threads

    def be_rude(rude: Callable[..., None], times: int) -> None:
        for count in range(times):
            rude(server)
            if count % 5 == 0:
                server.describe()
                # How much is held while many are heard at once is another question.
                while server.resources().threads > threads + 10:
                    time.sleep(0.005)

    for rude, times in RUDE.values():
        be_rude(rude, 30)
        # A detector holds 3 MB. What the allocator keeps of them depends on how many there were at once.
        with nothing_leaks(server, megabytes=80):
            be_rude(rude, times)
    server.stop()
    server.check_log()
    assert " WARNING " not in server.log


async def test_c09_rude_speakers_leave_no_tasks_behind(log: Log):
    half = frame("transcribe") + start() + chunks(speech(0.3))
    async with listening(max_requests=8) as server:
        for _ in range(30):
            for sent in (half, half[:-100], frame("transcribe"), half + stop()):
                async with server.connect() as client:
                    await client.write(sent)
                    client.reset()
            await asyncio.sleep(0.02)
        async with server.connect() as client:
            await transcribe(client, speech(0.3))
    log.check()


@pytest.mark.parametrize("fail", ["", "open", "accept", "finish"])
@pytest.mark.parametrize("leaves", ["early", "late", "never"])
async def test_c29_what_an_utterance_holds_is_freed_at_once(leaves: str, fail: str):
    alive: weakref.WeakSet[Loudness] = weakref.WeakSet()

    class Detector(Loudness):
        def __init__(self) -> None:
            super().__init__()
            alive.add(self)

    recogniser = FakeRecogniser(RecogniserScript(fail=fail), remembers=False)
    async with listening(recogniser, detector=Detector) as server:
        async with server.connect() as client:
            await transcribe(client, b"")
        gc.collect()
        # Detectors are large. Garbage that only the collector finds may pile up for long.
        gc.disable()
        try:
            for _ in range(3):
                async with server.connect() as client:
                    await client.write(frame("transcribe") + start() + chunks(speech(0.3)))
                    await eventually(lambda: alive)
                    if leaves != "early":
                        await client.write(stop())
                    if leaves == "never":
                        await client.until("error" if fail else "transcript-stop")
                    else:
                        client.reset()
                await eventually(lambda: not alive, 5)
        finally:
            gc.enable()
