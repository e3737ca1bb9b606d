"""Conformance item 27: the text is there before it is asked for, and told while the speaker speaks."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from protocol.harness.client import Client, frame
from protocol.harness.fake_recogniser import WORD_S, RecogniserScript, digest, text_of
from protocol.harness.homeassistant import TRANSCRIBERS, Outcome
from protocol.harness.log import Log
from protocol.harness.servers import listening
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

DECODE_S = 0.3
SLOW = RecogniserScript(decode_s=DECODE_S)
AT_ONCE_S = 0.1
"""Less than a decoding, more than any machine needs to send what it has."""
HELLO, AGAIN = speech(0.4), speech(0.4, seed=1)


def words(pcm: bytes) -> list[str]:
    """Return the words of all that is spoken in 16-bit audio that ends with silence."""
    audio = heard(pcm)
    spoken = np.flatnonzero(audio)[-1] + 1
    return digest(audio)[: round(spoken / 16000 / WORD_S)]


async def _stop(client: Client) -> tuple[Transcription, float]:
    """End the audio and return the answer, and how long it took."""
    asked = time.monotonic()
    await client.write(stop())
    found = await answer(client)
    return found, found.at - asked


async def test_c27_after_silence_the_text_is_there_at_once(log: Log):
    pcm = HELLO + quiet(0.7)
    async with listening(script=SLOW) as server, server.connect() as client:
        await client.write(frame("transcribe", {"language": "en"}) + start())
        await speak(client, pcm)
        found, took_s = await _stop(client)
        assert found.text.split()[:4] == words(pcm)
        assert took_s < AT_ONCE_S
        assert server.recogniser.finishes == 1
    assert "ready before" in log.infos[-1]
    log.check()


async def test_c27_what_comes_after_a_pause_is_heard_too(log: Log):
    pcm = HELLO + quiet(0.4) + AGAIN + quiet(0.6)
    async with listening(script=SLOW) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        await speak(client, pcm)
        found, took_s = await _stop(client)
        assert found.text.split()[:12] == words(pcm)
        assert took_s < AT_ONCE_S
        # One at each pause; the first is thrown away.
        assert server.recogniser.finishes == 2
        assert server.recogniser.decoded == 2
    log.check()


async def test_c27_speech_up_to_the_end_is_decoded_after_it(log: Log):
    pcm = HELLO + quiet(0.3) + AGAIN
    async with listening(script=SLOW) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        await speak(client, pcm)
        found, took_s = await _stop(client)
        assert found.text == text_of(heard(pcm))
        assert DECODE_S < took_s < 3 * DECODE_S
        assert server.recogniser.finishes == 2
    log.check()


async def test_c27_a_decoding_that_runs_when_the_audio_ends_is_not_begun_anew():
    pcm = HELLO + quiet(0.3)
    async with listening(script=SLOW) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        await speak(client, pcm)
        found, took_s = await _stop(client)
        assert found.text.split()[:4] == words(pcm)
        assert took_s < DECODE_S
        assert server.recogniser.finishes == 1


async def test_c27_another_rate_is_no_slower():
    layout = Layout(48000)
    pcm = speech(0.4, rate_hz=48000) + quiet(0.7, rate_hz=48000)
    async with listening(script=SLOW) as server, server.connect() as client:
        await client.write(frame("transcribe") + start(layout))
        await speak(client, pcm, layout)
        found, took_s = await _stop(client)
        assert len(found.text.split()) > 4
        assert took_s < AT_ONCE_S
        assert server.recogniser.finishes == 1


async def test_c27_audio_in_a_burst_is_decoded_once_and_at_its_end():
    pcm = (HELLO + quiet(0.5)) * 3
    async with listening(script=RecogniserScript(partial_s=0.0)) as server, server.connect() as client:
        found = await transcribe(client, pcm)
        assert found.text == text_of(heard(pcm))
        assert found.told == [found.text]
        assert server.recogniser.finishes == 1
        assert server.recogniser.sessions[0].partials == 0


async def test_c27_the_model_is_loaded_while_the_speaker_speaks():
    async with listening(script=RecogniserScript(load_s=0.5)) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        await speak(client, speech(0.7))
        found, took_s = await _stop(client)
        assert found.text == text_of(heard(speech(0.7)))
        assert took_s < 0.3


TALKATIVE = RecogniserScript(partial_s=0.01)


async def test_c27_what_is_certain_is_told_while_the_speaker_speaks(log: Log):
    script = RecogniserScript(partial_s=0.01, decode_s=0.1)
    pcm = speech(1.8)
    async with listening(script=script, partial_interval=0.2) as server, server.connect() as client:
        assert (await client.describe()).data["asr"][0]["supports_transcript_streaming"] is True
        await client.write(frame("transcribe") + start())
        await speak(client, pcm)
        found, _ = await _stop(client)
        assert found.text == text_of(heard(pcm))
        assert server.recogniser.sessions[0].partials > 2
    assert len(found.told) > 1
    log.check()


async def test_c27_pieces_arrive_before_the_audio_ends():
    async with listening(script=TALKATIVE, partial_interval=0.2) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        speaking = asyncio.create_task(speak(client, speech(1.6)))
        await client.expect("transcript-start")
        first = await client.expect("transcript-chunk")
        assert not speaking.done()
        await speaking
        await client.write(stop())
        rest = await client.until("transcript-stop")
    text = text_of(heard(speech(1.6)))
    assert text.startswith(first.data["text"])
    assert first.data["text"] + "".join(e.data["text"] for e in rest if e.type == "transcript-chunk") == text
    assert [event.data["text"] for event in rest if event.type == "transcript"] == [text]


async def test_c27_pieces_can_be_turned_off():
    async with listening(script=TALKATIVE, partial_interval=0.0) as server, server.connect() as client:
        assert (await client.describe()).data["asr"][0]["supports_transcript_streaming"] is False
        await client.write(frame("transcribe") + start())
        await speak(client, speech(0.5))
        found, _ = await _stop(client)
        assert found.told == [found.text]
        assert server.recogniser.sessions[0].partials == 0


async def test_c27_a_partial_transcript_that_fails_costs_nothing(log: Log):
    script = RecogniserScript(partial_s=0.0, fail="partial")
    async with listening(script=script, partial_interval=0.1) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        await speak(client, speech(0.8))
        found, _ = await _stop(client)
        assert found.text == text_of(heard(speech(0.8)))
        assert server.recogniser.sessions[0].partials > 1
    log.check()


async def test_c27_a_speaker_who_begins_anew_after_pieces_were_told_gets_one_transcript(log: Log):
    async with listening(script=TALKATIVE, partial_interval=0.2) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        speaking = asyncio.create_task(speak(client, speech(1.6)))
        await client.expect("transcript-start")
        speaking.cancel()
        await client.write(frame("transcribe") + start() + chunks(HELLO) + stop())
        given_up = await client.until("transcript-stop")
        assert {event.type for event in given_up} == {"transcript-chunk", "transcript-stop"}
        assert (await answer(client)).text == text_of(heard(HELLO))
        await client.describe()
    log.check()


async def test_c27_clients_that_know_nothing_of_pieces_are_unaffected(log: Log):
    pcm = speech(1.5)
    async with listening(script=TALKATIVE, partial_interval=0.2) as server:

        async def hear(transcriber: Callable[..., Awaitable[Outcome]]) -> Outcome:
            async with server.connect() as client:
                return await transcriber(client, pcm, live=True)

        outcomes = await asyncio.gather(*map(hear, TRANSCRIBERS.values()))
        assert outcomes == [Outcome(text_of(heard(pcm)), None, len(pcm), True)] * len(TRANSCRIBERS)
        assert all(session.partials > 1 for session in server.recogniser.sessions)
    log.check()


@pytest.mark.parametrize("version", TRANSCRIBERS)
async def test_c27_every_generation_of_home_assistant_is_answered(version: str, log: Log):
    pcm = HELLO + quiet(0.3)
    async with listening() as server:
        for audio, text in ((pcm, text_of(heard(pcm))), (quiet(1.0), ""), (b"", ""), (HELLO[:960], "")):
            async with server.connect() as client:
                outcome = await TRANSCRIBERS[version](client, audio, language="en")
            assert (outcome.text, outcome.error) == (text, None)
    log.check()
