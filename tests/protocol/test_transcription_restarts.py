"""Conformance items 28 and 30: what was given up or is over leaves its successor alone."""

import asyncio
import tracemalloc
from dataclasses import replace

from protocol.harness.client import frame
from protocol.harness.fake_recogniser import RecogniserScript, digest
from protocol.harness.log import Log
from protocol.harness.servers import listening
from protocol.harness.transcription import Layout, answer, chunk, chunks, heard, quiet, speech, start, stop, utterance

HELLO, AGAIN = speech(0.4), speech(0.4, seed=1)
BEGIN = frame("transcribe", {"language": "en"}) + start()
STUBBORN = RecogniserScript(decode_s=0.5, stubborn=True)
"""Goes on decoding what nobody waits for, as an accelerator does."""


async def test_c30_an_utterance_given_up_while_it_is_decoded_leaves_the_next_one_alone(log: Log):
    async with listening(script=STUBBORN, vad_endpointing=0.3, max_requests=2) as server:
        for _ in range(3):
            async with server.connect() as client:
                await client.write(BEGIN + chunks(HELLO + quiet(0.6)))
                # Its decoding has begun, and will end while the next utterance is listened to.
                await asyncio.sleep(0.3)
                await client.write(BEGIN + chunks(AGAIN[:6400]))
                await asyncio.sleep(0.5)
                await client.write(chunks(AGAIN[6400:]) + stop())
                assert (await answer(client)).text.split() == digest(heard(AGAIN))
        assert server.server._service._active == 0
    log.check()


async def test_c28_a_fast_upload_is_read_on_after_its_early_transcript(log: Log):
    async with (
        listening(script=RecogniserScript(decode_s=0.3), vad_endpointing=0.3) as server,
        server.connect() as client,
    ):
        minutes = utterance(HELLO + quiet(1) + quiet(150), 65536)
        await client.write(minutes)
        assert (await answer(client)).text
        await client.describe()
    log.check()


async def test_c28_the_end_of_speech_is_found_however_the_audio_is_cut_up(log: Log):
    audio = HELLO + quiet(1.024) + AGAIN + quiet(1.024)
    wanted = digest(heard(HELLO))
    async with listening(vad_endpointing=0.512) as server:
        for sizes in (320, 4096, len(audio)):
            async with server.connect() as client:
                await client.write(utterance(audio, sizes))
                words = (await answer(client)).text.split()
                assert words[: len(wanted)] == wanted
                # Up to the end of the first silence, and not to that of the audio.
                assert len(words) <= len(wanted) + 8
    log.check()


async def test_c26_a_late_transcribe_is_answered_with_its_context(log: Log):
    async with listening() as server, server.connect() as client:
        late = frame("transcribe", {"language": "de", "context": {"id": 1}})
        await client.write(start() + chunk(HELLO[:3200]) + late + chunk(HELLO[3200:]) + stop())
        transcript = await answer(client)
        assert transcript.text.split() == digest(heard(HELLO))
        assert transcript.transcript.data["context"] == {"id": 1}
    log.check()


async def test_c24_a_chunk_of_a_slow_rate_is_taken_in_piece_by_piece(log: Log):
    slow = Layout(rate=1000, width=1, channels=1)
    async with listening(max_utterance=5.0) as server, server.connect() as client:
        tracemalloc.start()
        try:
            await client.write(start(slow) + chunk(bytes(range(0, 250, 5)) * 20000, slow) + stop())
            assert (await answer(client)).text
            # All of it at once would be 64 MB, several times over.
            assert tracemalloc.get_traced_memory()[1] < 32e6
        finally:
            tracemalloc.stop()
    log.check(warnings=1)


async def test_c30_a_connection_full_of_requests_hears_nothing_early_and_everything_in_the_end(log: Log):
    script = RecogniserScript(partial_s=0.0)
    async with listening(script=script, partial_interval=0.05, max_requests=100) as server, server.connect() as client:
        connection = next(iter(server.server._connections))
        connection._limits = replace(connection._limits, pipelined=0)
        words = digest(heard(HELLO * 8))
        await client.write(BEGIN)
        for begin in range(0, len(HELLO) * 8, 3200):
            await client.write(chunk((HELLO * 8)[begin : begin + 3200]))
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        connection._limits = replace(connection._limits, pipelined=8)
        await client.write(stop())
        assert (await answer(client)).text.split() == words
    log.check()
