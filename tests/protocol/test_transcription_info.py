"""Conformance items 14 to 16: what the server says about its recognisers."""

import pytest
from protocol.harness.fake_recogniser import LARGE, SMALL, FakeRecogniser, RecogniserScript, text_of
from protocol.harness.info import check_info
from protocol.harness.log import Log
from protocol.harness.servers import listening, serving
from protocol.harness.transcription import heard, speech, transcribe

from wyoming_rknn.asr.engine import AsrModel


async def test_c14_recognisers_are_described_completely_and_stably(log: Log):
    recognisers = FakeRecogniser(name="b"), FakeRecogniser(models=[], name="empty"), FakeRecogniser(name="a")
    async with listening(*recognisers) as server:
        answers = set()
        for _ in range(3):
            async with server.connect() as client:
                info = await client.describe()
                check_info(info)
                answers |= {info.raw, (await client.describe()).raw}
    assert len(answers) == 1
    # Only what can be used is offered, the default first.
    assert [program["name"] for program in info.data["asr"]] == ["b", "a"]
    models = {model["name"]: tuple(model["languages"]) for model in info.data["asr"][0]["models"]}
    assert models == {model.name: model.languages for model in (LARGE, SMALL)}
    assert info.data["tts"]
    log.check()


async def test_c14_the_first_recogniser_can_be_set_and_what_needs_no_model_comes_last():
    recognisers = [FakeRecogniser(name=name) for name in ("pocketsphinx", "b", "a")]
    for setting, order in (({}, ["b", "a", "pocketsphinx"]), ({"asr_engine": "a"}, ["a", "b", "pocketsphinx"])):
        async with listening(*recognisers, **setting) as server, server.connect() as client:
            assert [program["name"] for program in (await client.describe()).data["asr"]] == order
            await transcribe(client, speech(0.2))
            (used,) = (each.name for each in recognisers if each.sessions)
            assert used == order[0]
        recognisers = [FakeRecogniser(name=name) for name in ("pocketsphinx", "b", "a")]


async def test_c14_a_server_without_recognisers_says_so():
    async with serving() as server, server.connect() as client:
        info = await client.describe()
        check_info(info)
        assert info.data["asr"] == []


async def test_c15_models_come_and_go(log: Log):
    new = AsrModel("new", ("fr", "fr-FR"), "New")
    recogniser = FakeRecogniser()
    async with listening(recogniser) as server, server.connect() as client:

        async def names() -> list[str]:
            return [model["name"] for program in (await client.describe()).data["asr"] for model in program["models"]]

        before = await names()
        recogniser.installed.append(new)
        assert await names() == sorted([*before, new.name])
        assert (await transcribe(client, speech(0.2), name="new", language="fr")).language == "fr"
        recogniser.installed.clear()
        assert await names() == []
        recogniser.installed.append(new)
        assert await names() == ["new"]
        assert (await transcribe(client, speech(0.2))).text == text_of(heard(speech(0.2)))
    assert [session.model for session in recogniser.sessions] == ["new", "new"]
    log.check()


async def test_c15_a_recogniser_is_selected_for_the_connection():
    first, second = FakeRecogniser(), FakeRecogniser(name="other")
    async with listening(first, second) as server, server.connect() as client, server.connect() as bystander:

        async def used(which=client) -> str:
            before = len(first.sessions), len(second.sessions)
            assert (await transcribe(which, speech(0.2))).text == text_of(heard(speech(0.2)))
            after = len(first.sessions), len(second.sessions)
            return {(1, 0): "fake", (0, 1): "other"}[after[0] - before[0], after[1] - before[1]]

        assert await used() == "fake"
        await client.send("select-program", {"name": "other"})
        assert await used() == "other"
        assert await used() == "other"
        assert await used(bystander) == "fake"
        await client.say("Hello.")
        await client.send("select-program", {"name": "fakes"})
        error = await client.expect_error("program-not-found")
        assert "fake" in error.data["text"]
        assert await used() == "other"


@pytest.mark.parametrize("partial_s", [None, 0.01])
@pytest.mark.parametrize("interval", [0.0, 0.5])
@pytest.mark.parametrize("endpointing", [0.0, 0.8])
async def test_c16_the_flags_of_recognisers_are_true(partial_s: float | None, interval: float, endpointing: float):
    # That they are is tested with what they speak of: items 27 and 28.
    settings = {"partial_interval": interval, "vad_endpointing": endpointing}
    async with (
        listening(script=RecogniserScript(partial_s=partial_s), **settings) as server,
        server.connect() as client,
    ):
        (program,) = (await client.describe()).data["asr"]
        assert program["supports_transcript_streaming"] is (partial_s is not None and interval > 0)
        assert program["requires_external_vad"] is (endpointing == 0)
