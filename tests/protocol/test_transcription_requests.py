"""Conformance items 25 and 26: languages, models, words to expect, and what else a client may say."""

import pytest
from protocol.harness.client import frame, inline
from protocol.harness.fake_recogniser import LARGE, SMALL, FakeRecogniser, RecogniserScript, text_of
from protocol.harness.log import Log
from protocol.harness.servers import listening
from protocol.harness.transcription import answer, chunks, heard, speech, start, stop, transcribe

from wyoming_rknn.asr.engine import Bias

PCM = speech(0.2)
TEXT = text_of(heard(PCM))


@pytest.mark.parametrize(
    ("wanted", "used"),
    [
        ("en", "en"),
        ("en-US", "en-US"),
        ("en_US", "en-US"),
        ("EN-us", "en-US"),
        ("eN", "en"),
        ("en-AU", "en"),
        ("en-Latn-AU", "en"),
        ("de-AT", "de"),
        ("zh", "zh"),
        ("zh-TW", "zh-TW"),
        ("zh_tw", "zh-TW"),
        ("zh-CN", "zh"),
        ("zh-Hans-CN", "zh"),
        ("cmn", "zh"),
        ("yue", "yue"),
        ("yue-HK", "yue"),
        ("zh-HK", "yue"),
        ("xx", None),
        ("deu-x", None),
        ("", None),
        (" ", None),
        ("-", None),
        ("en" * 1000, None),
        ("🙂", None),
        ("auto", None),
        (None, None),
        (5, None),
        (True, None),
        (["de"], None),
        ({"language": "de"}, None),
    ],
)
async def test_c25_a_language_is_found_however_it_is_written(wanted, used, log: Log):
    async with listening() as server, server.connect() as client:
        for event in (frame("transcribe", {"language": wanted}), inline("transcribe", {"language": wanted})):
            await client.write(event + start() + chunks(PCM) + stop())
            found = await answer(client)
            assert found.text == TEXT
            # Left to itself, the fake one hears English.
            assert found.language == used or (used is None and found.language == "en")
    assert [session.language for session in server.recogniser.sessions] == [used, used]
    log.check()


async def test_c25_the_language_of_those_who_name_none_can_be_set(log: Log):
    async with listening(language="de_DE") as server, server.connect() as client:
        for asked, language in (({}, "de"), ({"language": None}, "de"), ({"language": "en"}, "en")):
            assert (await transcribe(client, PCM, **asked)).language == language
        assert (await transcribe(client, PCM, language="xx")).text == TEXT
    assert [session.language for session in server.recogniser.sessions] == ["de", "de", "en", None]
    log.check()


async def test_c25_the_language_that_was_heard_is_told_rather_than_the_one_asked_for():
    recogniser = FakeRecogniser()
    recogniser.spoken = "yue"
    async with listening(recogniser) as server, server.connect() as client:
        assert (await transcribe(client, PCM)).language == "yue"
        recogniser.spoken = None
        assert (await transcribe(client, PCM, language="xx")).language == "xx"
        assert (await transcribe(client, PCM)).text == TEXT


async def test_c25_the_language_is_told_though_nothing_was_said():
    async with listening() as server, server.connect() as client:
        await client.write(frame("transcribe", {"language": "de"}) + start() + stop())
        assert (await answer(client)).language == "de"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (None, LARGE),
        ("", LARGE),
        (5, LARGE),
        ("large", LARGE),
        ("small", SMALL),
        ("SMALL", SMALL),
        ("fake", LARGE),
        ("no-such-model", LARGE),
    ],
)
async def test_c25_a_model_may_be_named_and_an_unknown_one_costs_nothing(name, model, log: Log):
    async with listening() as server, server.connect() as client:
        await client.write(inline("transcribe", {"name": name}) + start() + chunks(PCM) + stop())
        assert (await answer(client)).text == TEXT
    assert [session.model for session in server.recogniser.sessions] == [model.name]
    log.check(warnings=name == "no-such-model")


async def test_c25_a_language_that_a_model_does_not_know_is_left_to_it(log: Log):
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, PCM, name="small", language="de")).text == TEXT
    assert [(session.model, session.language) for session in server.recogniser.sessions] == [("small", None)]
    log.check()


async def test_c25_without_any_model_whoever_speaks_is_told(log: Log):
    async with listening(FakeRecogniser(models=())) as server:
        async with server.connect() as client:
            await client.write(frame("transcribe") + start() + chunks(PCM) + stop())
            error = await client.expect_error("model-not-found")
            assert "--data-dir" in error.data["text"]
            await client.expect_end()
        async with server.connect() as client:
            await client.say("Hello.")
    log.check(warnings=1)


NAMES, TERMS = ["Wohnzimmer", "Küche", "Küche"], ["Stehlampe"]


@pytest.mark.parametrize(
    ("asked", "bias"),
    [
        ({}, Bias()),
        ({"transcript_names": None, "transcript_terms": None}, Bias()),
        ({"transcript_names": [], "transcript_terms": []}, Bias()),
        ({"transcript_names": NAMES}, Bias(tuple(NAMES))),
        ({"transcript_terms": TERMS}, Bias((), tuple(TERMS))),
        ({"transcript_names": NAMES, "transcript_terms": TERMS}, Bias(tuple(NAMES), tuple(TERMS))),
        ({"transcript_names": ["a", 5, None, ["b"], "c"], "transcript_terms": "lamp"}, Bias(("a", "c"))),
        ({"transcript_names": {"a": 1}, "transcript_terms": 5}, Bias()),
        ({"transcript_names": [f"name {n}" for n in range(5000)]}, Bias(tuple(f"name {n}" for n in range(5000)))),
    ],
)
async def test_c26_words_to_expect_reach_the_engine(asked, bias: Bias, log: Log):
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, PCM, **asked)).text == TEXT
        # They hold for one utterance.
        assert (await transcribe(client, PCM)).text == TEXT
    assert [session.bias for session in server.recogniser.sessions] == [bias, Bias()]
    log.check()


@pytest.mark.parametrize(
    "sensitivity", ["default", "relaxed", "aggressive", "", "no-such-one", None, 5, 0.5, ["x"], {}]
)
async def test_c26_any_sensitivity_is_accepted(sensitivity, log: Log):
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, PCM, vad_sensitivity=sensitivity)).text == TEXT
    log.check()


@pytest.mark.parametrize("context", [{"conversation_id": "1", "nested": {"list": [1, None]}}, {}, None, 5, "x", [1]])
async def test_c26_the_context_comes_back(context, log: Log):
    async with listening() as server, server.connect() as client:
        for pcm in (PCM, b""):
            found = await transcribe(client, pcm, context=context)
            wanted = context if isinstance(context, dict) else None
            for event in found.events:
                if event.type in ("transcript-start", "transcript"):
                    assert (event.data.get("context") or None) == (wanted or None)
        assert (await transcribe(client, PCM)).transcript.data.get("context") is None
    log.check()


async def test_c26_unknown_fields_do_no_harm(log: Log):
    async with listening() as server, server.connect() as client:
        assert (await transcribe(client, PCM, model="x", prompt=["y"], beam_size=5)).text == TEXT
    log.check()


@pytest.mark.parametrize(
    ("no_full_stop", "ending", "text"), [(False, ".", TEXT + "."), (True, ".", TEXT), (True, "?", TEXT + "?")]
)
async def test_c26_a_full_stop_can_be_left_out(no_full_stop: bool, ending: str, text: str):
    script = RecogniserScript(ending=ending)
    async with listening(script=script, no_full_stop=no_full_stop) as server, server.connect() as client:
        assert (await transcribe(client, PCM)).text == text
