"""Conformance items 38 and 39: voices that are not there, and requests that are none."""

import pytest
from protocol.harness import homeassistant
from protocol.harness.client import inline
from protocol.harness.fake_engine import ALTO, BASS, DUO, FakeEngine, Script, audio, pause
from protocol.harness.log import Log
from protocol.harness.servers import serving

from wyoming_rknn.tts.engine import Prosody

HELLO = audio("Hello.", ALTO).tolist()


async def test_c38_an_unknown_voice_is_an_error_with_close_names(log: Log):
    for streaming in (False, True):
        async with serving() as server, server.connect() as client:
            voice = {"voice": {"name": "en_US-alto-high"}}
            if streaming:
                await client.send("synthesize-start", voice)
            else:
                await client.send("synthesize", {"text": "Hello.", **voice})
            error = await client.expect_error("voice-not-found")
            assert ALTO.name in error.data["text"]
            await client.expect_end()
    log.check(warnings=2)


async def test_c38_another_voice_may_be_set_to_speak_instead(log: Log):
    async with serving(fallback_voice=True) as server, server.connect() as client:
        assert (await client.say("Hello.", "no-such-voice")).samples.tolist() == HELLO
        assert (await client.stream(["Hello."], "no-such-voice")).samples.tolist() == HELLO
    log.check(warnings=2)


async def test_c38_an_unknown_speaker_is_the_default_one(log: Log):
    async with serving() as server, server.connect() as client:
        for voice, spoken in ((DUO, DUO), (ALTO, ALTO)):
            speech = await client.say("Hello.", {"name": voice.name, "speaker": "zoe"})
            assert speech.samples.tolist() == audio("Hello.", spoken).tolist()
    log.check(warnings=2)


@pytest.mark.parametrize(
    ("voice", "expected"),
    [
        (None, (ALTO, None)),
        ({}, (ALTO, None)),
        ({"name": None}, (ALTO, None)),
        ({"name": ""}, (ALTO, None)),
        ({"name": None, "language": None, "speaker": None}, (ALTO, None)),
        ({"name": "de_DE-bass-low"}, (BASS, None)),
        ({"name": "DE_de-Bass-LOW"}, (BASS, None)),
        ({"name": "de-DE bass low"}, (BASS, None)),
        ({"name": "de-de_bass_low", "language": "en"}, (BASS, None)),
        ({"language": "de"}, (BASS, None)),
        ({"language": "de-DE"}, (BASS, None)),
        ({"language": "de_de"}, (BASS, None)),
        ({"language": "de-AT"}, (BASS, None)),
        ({"language": "en"}, (ALTO, None)),
        ({"language": "en-GB"}, (DUO, None)),
        ({"name": DUO.name, "speaker": "bob"}, (DUO, "bob")),
        ({"name": DUO.name, "speaker": "BOB"}, (DUO, "bob")),
        ({"name": DUO.name, "speaker": "1"}, (DUO, "bob")),
        ({"name": DUO.name, "speaker": 1}, (DUO, "bob")),
        ({"name": f"{DUO.name}#bob"}, (DUO, "bob")),
        ({"name": DUO.name, "speaker": ""}, (DUO, None)),
    ],
)
async def test_c38_a_voice_is_found_however_it_is_written(voice, expected, log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(inline("synthesize", {"text": "Hello.", "voice": voice}))
        assert (await client.hear()).samples.tolist() == audio("Hello.", *expected).tolist()
    log.check()


async def test_c38_the_default_voice_can_be_set():
    async with serving(voice="de-de-bass-low") as server, server.connect() as client:
        assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", BASS).tolist()
    async with serving(language="en-GB") as server, server.connect() as client:
        assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", DUO).tolist()


BAD_REQUESTS = {
    "no data": None,
    "no text": {"voice": {"name": ALTO.name}},
    "text is null": {"text": None},
    "text is a number": {"text": 5},
    "text is a list": {"text": ["Hello."]},
    "text is an object": {"text": {}},
    "text is true": {"text": True},
    "voice is a number": {"text": "Hello.", "voice": 5},
    "voice is a list": {"text": "Hello.", "voice": ["x"]},
    "name is a number": {"text": "Hello.", "voice": {"name": 5}},
    "name is an object": {"text": "Hello.", "voice": {"name": {}}},
    "language is a list": {"text": "Hello.", "voice": {"language": ["en"]}},
    "speaker is a list": {"text": "Hello.", "voice": {"speaker": []}},
}


for key, bad in {
    "length_scale": [0, 0.09, 10.1, -1, True, "1", [1], {}, 10**400],
    "noise_scale": [-0.1, 2.1, "0.5"],
    "noise_w": [-0.1, 2.1],
    "noise_w_scale": [-0.1, 2.1, False],
    "sentence_silence": [-0.1, 10.1, "1"],
}.items():
    # With a good number beside it, since one of them has two names.
    BAD_REQUESTS |= {f"{key} is {str(value)[:9]}": {"text": "Hello.", "noise_w": 0.5, key: value} for value in bad}


@pytest.mark.parametrize("data", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_c39_a_request_with_bad_fields_ends_in_an_error_and_the_connection_too(data, log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(inline("synthesize", data))
        await client.expect_error("invalid-request")
        await client.expect_end()
    log.check(warnings=1)
    assert server.engine.texts == []


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, Prosody(1.0)),
        ({"length_scale": None, "noise_scale": None, "noise_w": None, "sentence_silence": None}, Prosody(1.0)),
        ({"length_scale": 2, "noise_scale": 0, "noise_w": 0.5}, Prosody(2.0, 0.0, 0.5)),
        ({"noise_w_scale": 0.25}, Prosody(1.0, None, 0.25)),
        ({"noise_w": 0.5, "noise_w_scale": 0.25}, Prosody(1.0, None, 0.5)),
        ({"length_scale": 0.1, "noise_scale": 2.0, "noise_w": 0.0}, Prosody(0.1, 2.0, 0.0)),
    ],
)
async def test_c38_a_request_may_say_how_it_is_to_be_spoken(data, expected, streaming: bool, log: Log):
    async with serving() as server, server.connect() as client:
        speech = await (client.stream(["Hello."], **data) if streaming else client.say("Hello.", **data))
        assert speech.samples.tolist() == audio("Hello.", ALTO, length=expected.length_scale).tolist()
        assert [request.prosody for request in server.engine.requests] == [expected]
    log.check()


@pytest.mark.parametrize(
    ("data", "pause_s"), [({}, 0.1), ({"sentence_silence": 0.5}, 0.5), ({"sentence_silence": 0}, 0)]
)
async def test_c38_a_request_may_say_how_long_pauses_are(data, pause_s: float):
    async with serving(sentence_silence=0.1) as server, server.connect() as client:
        speech = await client.say("Hello there. Good bye then.", **data)
    silent = [*audio("Hello there.", ALTO), *pause(pause_s, ALTO), *audio("Good bye then.", ALTO)]
    assert speech.samples.tolist() == silent


async def test_c39_a_stream_with_bad_fields_ends_in_an_error_and_the_connection_too(log: Log):
    async with serving() as server, server.connect() as client:
        await client.send("synthesize-start", {"voice": 5})
        await client.expect_error("invalid-request")
        await client.expect_end()
    async with serving() as server, server.connect() as client:
        await client.send("synthesize-start", {"length_scale": 11})
        error = await client.expect_error("invalid-request")
        assert "'length_scale' of 'synthesize-start'" in error.data["text"]
        assert "between 0.1 and 10" in error.data["text"]
        await client.expect_end()
    log.check(warnings=2)


async def test_c39_what_was_asked_before_a_bad_request_is_answered(log: Log):
    async with serving(script=Script(window_s=0.02)) as server, server.connect() as client:
        await client.write(inline("synthesize", {"text": "Hello."}) + inline("synthesize", {}) + inline("describe"))
        assert (await client.hear()).samples.tolist() == HELLO
        await client.expect_error("invalid-request")
        await client.expect_end()
    log.check(warnings=1)


@pytest.mark.parametrize("honours_error", [False, True], ids=["2026.7", "2026.8"])
async def test_c39_no_generation_of_home_assistant_waits_for_ever(honours_error: bool):
    async def text():
        yield "Hello."

    for voice in ({"name": "no-such-voice"}, None):
        async with serving(script=Script(fail="" if voice else "Hello")) as server:
            if honours_error:
                code = "voice-not-found" if voice else "engine-error"
                async with server.connect() as client:
                    with pytest.raises(homeassistant.ServerError, match=code):
                        await homeassistant.speak_whole(client, "Hello.", voice, honours_error=True)
                async with server.connect() as client:
                    with pytest.raises(homeassistant.ServerError, match=code):
                        await homeassistant.speak_streaming(client, text(), voice, honours_error=True)
            else:
                async with server.connect() as client:
                    assert await homeassistant.speak_whole(client, "Hello.", voice, honours_error=False) == b""
                async with server.connect() as client:
                    assert await homeassistant.speak_streaming(client, text(), voice, honours_error=False) == []


@pytest.mark.parametrize("event", ["synthesize-chunk", "synthesize-stop"])
async def test_c39_a_piece_without_a_start_is_an_error_that_the_connection_survives(event: str, log: Log):
    async with serving() as server, server.connect() as client:
        await client.send(event, {"text": "Hello."})
        await client.expect_error("invalid-request")
        await client.describe()
        assert (await client.say("Hello.")).samples.tolist() == HELLO
        await client.stream(["Hello."])
        await client.send(event, {"text": "Hello."})
        await client.expect_error("invalid-request")
        await client.describe()
    log.check(warnings=2)


@pytest.mark.parametrize("text", [None, 5, ["x"]])
async def test_c39_a_bad_piece_does_not_end_the_stream(text: object, log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(
            inline("synthesize-start")
            + inline("synthesize-chunk", {"text": text})
            + inline("synthesize-chunk", {"text": "Hello."})
            + inline("synthesize-stop")
        )
        assert (await client.hear(streaming=True)).samples.tolist() == HELLO
        await client.expect_error("invalid-request")
        await client.describe()
    log.check(warnings=1)


async def test_c39_a_second_start_begins_anew(log: Log):
    async with serving() as server, server.connect() as client:
        await client.write(
            inline("synthesize-start", {"voice": {"name": BASS.name}})
            + inline("synthesize-chunk", {"text": "Never mind. And"})
            + inline("synthesize-start")
            + inline("synthesize-chunk", {"text": "Hello."})
            + inline("synthesize-stop")
            + inline("describe")
        )
        events = await client.until("info")
        assert [event.type for event in events].count("synthesize-stopped") == 1
        assert [event.type for event in events][-2:] == ["synthesize-stopped", "info"]
        _check_balanced(events)
        assert b"".join(event.payload for event in events).endswith(audio("Hello.", ALTO).tobytes())
    log.check()


async def test_c39_a_second_start_stops_what_sounds_already(log: Log):
    async with serving(script=Script(window_s=0.05)) as server, server.connect() as client:
        await client.send("synthesize-start")
        await client.send("synthesize-chunk", {"text": "This goes on and on. " * 50})
        await client.expect("audio-start")
        await client.expect("audio-chunk")
        await client.write(
            inline("synthesize-start") + inline("synthesize-chunk", {"text": "Hello."}) + inline("synthesize-stop")
        )
        events = await client.until("synthesize-stopped")
        types = [event.type for event in events]
        assert types.count("audio-chunk") < 20
        assert types.count("audio-start") == 1
        second = events[types.index("audio-start") :]
        assert b"".join(event.payload for event in second) == audio("Hello.", ALTO).tobytes()
        await client.describe()
    log.check()


async def test_c39_a_second_start_ends_a_stream_that_waits_for_text(log: Log):
    async with serving() as server, server.connect() as client:
        await client.send("synthesize-start")
        await client.send("synthesize-chunk", {"text": "Hello."})
        heard = b""
        while len(heard) < 2 * len(HELLO):
            event = await client.receive()
            assert event is not None
            heard += event.payload
        await client.write(
            inline("synthesize-start") + inline("synthesize-chunk", {"text": "Bye."}) + inline("synthesize-stop")
        )
        await client.expect("audio-stop")
        speech = await client.hear(streaming=True)
        assert speech.samples.tolist() == audio("Bye.", ALTO).tolist()
        await client.describe()
    log.check()


def _check_balanced(events) -> None:
    sounding = False
    for event in events:
        if event.type in ("audio-start", "audio-stop"):
            assert sounding is (event.type == "audio-stop")
            sounding = not sounding
        elif event.type == "audio-chunk":
            assert sounding
    assert not sounding


async def test_c39_a_failing_engine_ends_in_an_error(log: Log):
    async with serving(script=Script(fail="bad")) as server, server.connect() as client:
        await client.send("synthesize", {"text": "Good. And bad."})
        events = await client.rest()
        assert events[-1].type == "error"
        assert events[-1].data["code"] == "engine-error"
    log.check(warnings=1)


async def test_c39_an_engine_that_crashes_is_reported_without_a_traceback(log: Log):
    class Crashing(FakeEngine):
        def speak(self, request, stream):
            raise RuntimeError("out of cheese")

    async with serving(Crashing()) as server, server.connect() as client:
        await client.send("synthesize", {"text": "Hello."})
        await client.expect_error("internal-error")
        await client.expect_end()
    assert len(log.warnings) == 1
    # Where it happened is for those who look at the details.
    assert [record for record in log.records if record.exc_info and record.levelname == "DEBUG"]
