"""Conformance items 31 to 35: answers, streams, and when the first sound leaves."""

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from protocol.harness import homeassistant
from protocol.harness.client import Speech, connect, frame
from protocol.harness.fake_engine import ALTO, BASS, Script, audio
from protocol.harness.log import Log
from protocol.harness.servers import serving

SENTENCES = ["The light is on.", "The door is open.", "Good night!"]
TEXT = " ".join(SENTENCES)


def spoken(*sentences: str, voice=ALTO, script: Script | None = None) -> list[int]:
    return np.concatenate([audio(sentence, voice, script=script) for sentence in sentences]).tolist()


async def pieces(*texts: str, pause_s: float = 0.0) -> AsyncIterator[str]:
    for text in texts:
        yield text
        await asyncio.sleep(pause_s)


async def test_c31_one_answer_has_one_start_and_one_stop(log: Log):
    async with serving(script=Script(window_samples=1000)) as server, server.connect() as client:
        speech = await client.say(TEXT)
        assert speech.samples.tolist() == spoken(*SENTENCES)
        assert len(speech.chunks) > 10
        assert speech.rate_hz == ALTO.rate_hz
        bass = await client.say(TEXT, BASS.name)
        assert bass.rate_hz == BASS.rate_hz
        assert bass.samples.tolist() == spoken(*SENTENCES, voice=BASS)
        await client.describe()
    log.check()


@pytest.mark.parametrize("honours_error", [False, True], ids=["2025.12", "2026.8"])
async def test_c31_home_assistant_without_streaming(honours_error: bool):
    async with serving() as server:
        for voice in (None, {"name": BASS.name}):
            async with server.connect() as client:
                pcm = await homeassistant.speak_whole(client, TEXT, voice, honours_error=honours_error)
                assert np.frombuffer(pcm, "<i2").tolist() == spoken(*SENTENCES, voice=BASS if voice else ALTO)


@pytest.mark.parametrize("honours_error", [False, True], ids=["2026.4", "2026.8"])
@pytest.mark.parametrize(
    "texts",
    [[TEXT], ["The light is on. The door", " is", " open.", " Good", " night!"], [*TEXT]],
    ids=["tts.speak", "deltas", "characters"],
)
async def test_c32_home_assistant_with_streaming(texts: list[str], honours_error: bool):
    async with serving() as server, server.connect() as client:
        played = await homeassistant.speak_streaming(client, pieces(*texts), honours_error=honours_error)
        assert played[0].type == "audio-start"
        assert Speech(played).samples.tolist() == spoken(*SENTENCES)


@pytest.mark.parametrize("compatible", [True, False], ids=["compatible", "plain"])
async def test_c32_a_stream_is_spoken_once(compatible: bool, log: Log):
    async with serving() as server, server.connect() as client:
        for voice in (None, ALTO.name, {"language": "en"}):
            speech = await client.stream([TEXT[:20], TEXT[20:]], voice, compatible=compatible)
            assert speech.samples.tolist() == spoken(*SENTENCES)
        speech = await client.stream([TEXT], BASS.name, compatible=compatible)
        assert speech.rate_hz == BASS.rate_hz
        assert speech.samples.tolist() == spoken(*SENTENCES, voice=BASS)
        await client.describe()
    log.check()
    assert server.engine.texts == SENTENCES * 4


SPLIT_TEXTS = [
    "Dr. Smith has 21.5 °C at 3 p.m. today. Then... no! *Really*, it's “so”: fine? ok.",
    "Am 3. Oktober, d.h. morgen, kommt er. Gut!\n- Milch\n- Eier\n\nEnde (z.B. so).",
    "今天天气很好。我们去公园吧！你好吗？Yes. ```code``` <b>bold</b> &amp; https://example.com/a.b?c=d. 🙂 End",
]


@pytest.mark.parametrize("text", SPLIT_TEXTS)
async def test_c32_where_the_text_is_split_does_not_matter(text: str):
    cuts = [[text[:i], text[i:]] for i in range(1, len(text))]
    cuts += [[*text], [text[i : i + 3] for i in range(0, len(text), 3)]]
    async with serving(script=Script(character_s=0.001)) as server, server.connect() as client:
        whole = (await client.say(text)).pcm
        said = list(server.engine.texts)
        assert said
        for cut in cuts:
            server.engine.requests.clear()
            # In one write, lest a pause on a slow machine counts as a pause of the speaker.
            events = [frame("synthesize-start"), *(frame("synthesize-chunk", {"text": piece}) for piece in cut)]
            await client.write(b"".join(events) + frame("synthesize", {"text": text}) + frame("synthesize-stop"))
            assert (await client.hear(streaming=True)).pcm == whole, cut
            assert server.engine.texts == said


async def test_c32_halves_of_a_character_do_no_harm(log: Log):
    async with serving() as server, server.connect() as client:
        for half in (b"\\ud83d", b"\\ude42"):
            chunk = b'{"type":"synthesize-chunk","data":{"text":"Well ' + half + b'"}}\n'
            await client.write(frame("synthesize-start") + chunk + frame("synthesize-stop"))
            await client.hear(streaming=True)
        halves = b"".join(
            b'{"type":"synthesize-chunk","data":{"text":"' + half + b'"}}\n' for half in (b"\\ud83d", b"\\ude42 done.")
        )
        await client.write(frame("synthesize-start") + halves + frame("synthesize-stop"))
        await client.hear(streaming=True)
    log.check()


@pytest.mark.parametrize("uri", ["tcp://127.0.0.1:0", "tcp://localhost:0", "tcp://:0"])
async def test_c31_small_events_do_not_wait_for_acknowledgements(uri: str):
    async with serving(uri=uri) as server, connect(server.uri.replace("//:", "//127.0.0.1:")) as client:
        took = []
        for _ in range(30):
            begin = time.monotonic()
            await client.stream(["x"])
            took.append(time.monotonic() - begin)
    # Nagle's algorithm against delayed acknowledgements costs 40 ms each time.
    assert sorted(took)[10] < 0.03, took


async def test_c33_synthesize_after_a_stream_is_spoken():
    async with serving() as server, server.connect() as client:
        for _ in range(2):
            assert (await client.stream([TEXT])).samples.tolist() == spoken(*SENTENCES)
            assert (await client.say(TEXT)).samples.tolist() == spoken(*SENTENCES)
            await client.describe()


LONG = {
    "sentences": "The quick brown fox jumps over the lazy dog. ",
    "no punctuation": "the quick brown fox jumps over the lazy dog and then ",
    "one word": "abcdefghij",
    "Chinese": "今天天气很好我们去公园散步然后吃饭",
    "list": "milk\neggs\nbread and butter\n",
    "commas": "one, two, three, ",
}


@pytest.mark.parametrize("size", [10, 100, 1000, 10000])
@pytest.mark.parametrize("kind", LONG)
async def test_c34_the_first_sound_does_not_wait_for_the_rest(kind: str, size: int):
    # Character for character 20 ms of sound, computed ten times as fast: 20 s for the longest text.
    text = (LONG[kind] * (size // len(LONG[kind]) + 1))[:size]
    async with serving(script=Script(window_s=0.02, window_samples=4410)) as server:
        for streaming in (False, True):
            server.engine.requests.clear()
            async with server.connect() as client:
                begin = time.monotonic()
                if streaming:
                    await client.send("synthesize-start")
                    await client.send("synthesize-chunk", {"text": text})
                    await client.send("synthesize-stop")
                else:
                    await client.send("synthesize", {"text": text})
                await client.expect("audio-start")
                chunk = await client.expect("audio-chunk")
                assert chunk.at - begin < 0.5
                assert len(server.engine.texts[0]) <= 200
                client.reset()


async def test_c34_the_first_sound_does_not_wait_for_the_end_of_the_text():
    async with serving() as server, server.connect() as client:
        await client.send("synthesize-start")
        await client.send("synthesize-chunk", {"text": "The light is on. And the do"})
        await client.expect("audio-start")
        heard = (await client.expect("audio-chunk")).payload
        while len(heard) < 2 * len(audio(SENTENCES[0], ALTO)):
            heard += (await client.expect("audio-chunk")).payload
        assert heard == audio(SENTENCES[0], ALTO).tobytes()
        await client.send("synthesize-chunk", {"text": "or."})
        await client.send("synthesize-stop")
        rest = await client.until("synthesize-stopped")
        assert b"".join(event.payload for event in rest) == audio("And the door.", ALTO).tobytes()


async def test_c35_a_complete_sentence_is_spoken_when_the_text_pauses():
    async with serving() as server, server.connect() as client:
        await client.send("synthesize-start")
        begin = time.monotonic()
        await client.send("synthesize-chunk", {"text": "One moment."})
        await client.expect("audio-start")
        chunk = await client.expect("audio-chunk")
        assert 0.2 < chunk.at - begin < 1.5
        await asyncio.sleep(2.0)  # a tool call
        await client.send("synthesize-chunk", {"text": " Here it"})
        await asyncio.sleep(0.6)
        assert server.engine.texts == ["One moment."], "half a sentence is not spoken"
        await client.send("synthesize-chunk", {"text": " is."})
        await client.send("synthesize", {"text": "One moment. Here it is."})
        await client.send("synthesize-stop")
        rest = await client.until("synthesize-stopped")
    heard = chunk.payload + b"".join(event.payload for event in rest)
    assert np.frombuffer(heard, "<i2").tolist() == spoken("One moment.", "Here it is.")


async def test_c35_a_pause_does_not_hold_up_others():
    async with serving() as server, server.connect() as slow, server.connect() as quick:
        await slow.send("synthesize-start")
        await slow.send("synthesize-chunk", {"text": "Hello wor"})
        for _ in range(3):
            await quick.say("Hello.")
            await asyncio.sleep(0.2)
        await slow.send("synthesize-chunk", {"text": "ld."})
        await slow.send("synthesize-stop")
        speech = await slow.hear(streaming=True)
        assert speech.samples.tolist() == spoken("Hello world.")


async def test_c35_home_assistant_streams_an_answer_word_by_word():
    words = [word + " " for word in ("The light is on. " * 3 + "The door is open.").split()]
    async with serving(script=Script(window_s=0.01)) as server, server.connect() as client:
        begin = time.monotonic()
        played = await homeassistant.speak_streaming(client, pieces(*words, pause_s=0.08), honours_error=True)
        took = time.monotonic() - begin
        assert Speech(played).samples.tolist() == spoken(*["The light is on."] * 3, "The door is open.")
        assert played[1].at - begin < took - 0.5, "the first sentence waited for the last word"
