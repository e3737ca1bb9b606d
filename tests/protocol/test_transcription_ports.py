"""Conformance items 12, 14 and 15: ports of their own for those who speak and those who listen."""

import io
import subprocess
from collections.abc import Callable

import pytest
from protocol.harness.blocking import types_and_codes
from protocol.harness.client import PATIENCE_S, Client, connect, frame
from protocol.harness.fake_engine import ALTO, audio
from protocol.harness.fake_recogniser import FakeRecogniser, RecogniserScript, text_of
from protocol.harness.log import Log
from protocol.harness.servers import LOCAL, Running, ServerProcess, listening
from protocol.harness.spoken import spoken
from protocol.harness.transcription import chunks, heard, quiet, speech, start, stop, transcribe, utterance

from wyoming_rknn.errors import UsageError

PCM = speech(0.3)
TEXT = text_of(heard(PCM))


def recognisers() -> list[FakeRecogniser]:
    return [FakeRecogniser(name=name) for name in ("one", "two", "three")]


async def _hears(server: Running, client: Client) -> str:
    """Return which program answers."""
    before = [len(recogniser.sessions) for recogniser in server.recognisers]
    assert (await transcribe(client, PCM)).text == TEXT
    (used,) = (
        recogniser.name
        for recogniser, count in zip(server.recognisers, before, strict=True)
        if len(recogniser.sessions) > count
    )
    return used


async def _offered(client: Client, kind: str = "asr") -> list[str]:
    return [program["name"] for program in (await client.describe()).data[kind]]


async def test_c14_each_listening_port_prefers_another_program(log: Log):
    ports = {"uri": None, "asr_uri": (LOCAL, LOCAL, LOCAL, LOCAL)}
    async with listening(*recognisers(), **ports) as server:
        assert len(set(server.uris)) == 4
        for uri, order in zip(
            server.uris,
            (["one", "two", "three"], ["two", "one", "three"], ["three", "one", "two"], ["one", "two", "three"]),
            strict=True,
        ):
            async with connect(uri) as client:
                assert await _offered(client) == order
                assert await _hears(server, client) == order[0]
                # Home Assistant names no program, others may.
                await client.send("select-program", {"name": "three"})
                assert await _hears(server, client) == "three"
            async with connect(uri) as client:
                assert await _hears(server, client) == order[0]
    log.check()


async def test_c14_a_listening_port_may_name_its_program(log: Log):
    ports = {"uri": None, "asr_uri": (f"{LOCAL}?program=three", f"{LOCAL}?program=one", LOCAL)}
    async with listening(*recognisers(), **ports) as server:
        for uri, first in zip(server.uris, ("three", "one", "three"), strict=True):
            async with connect(uri) as client:
                assert (await _offered(client))[0] == first
                assert sorted(await _offered(client)) == ["one", "three", "two"]
                assert await _hears(server, client) == first
    log.check()


async def test_c14_a_program_that_cannot_be_used_is_stood_in_for(log: Log):
    one, two = FakeRecogniser(name="one"), FakeRecogniser(name="two", models=())
    async with listening(one, two, uri=None, asr_uri=(LOCAL, f"{LOCAL}?program=two", LOCAL)) as server:
        for uri in server.uris:
            async with connect(uri) as client:
                assert await _offered(client) == ["one"]
                assert await _hears(server, client) == "one"


@pytest.mark.parametrize("uri", [f"{LOCAL}?program=", f"{LOCAL}?programm=one", f"{LOCAL}?program=fakes"])
async def test_c12_a_program_that_is_none_is_wrong_use(uri: str):
    with pytest.raises(UsageError):
        async with listening(uri=None, asr_uri=(uri,)):
            pass


async def test_c12_a_port_that_only_listens_refuses_to_speak(log: Log):
    async with listening(uri=None, asr_uri=(LOCAL,)) as server:
        for event in (
            frame("synthesize", {"text": "Hello."}),
            frame("synthesize-start") + frame("synthesize-chunk", {"text": "Hello."}) + frame("synthesize-stop"),
        ):
            async with server.connect() as client:
                await client.write(event)
                error = await client.expect_error("invalid-request")
                assert "only speech-to-text" in error.data["text"]
                await client.expect_end()
        async with server.connect() as client:
            info = await client.describe()
            assert info.data["tts"] == []
            assert info.data["asr"]
            assert await _hears(server, client) == "fake"
            await client.send("select-program", {"name": "fake"})
            assert await _hears(server, client) == "fake"
    log.check(warnings=2)


async def test_c12_a_port_that_only_speaks_refuses_to_listen(log: Log):
    async with listening(uri=None, tts_uri=(LOCAL,)) as server:
        for event in (utterance(PCM), frame("transcribe") + chunks(PCM), start() + chunks(PCM) + stop()):
            async with server.connect() as client:
                await client.write(event)
                error = await client.expect_error("invalid-request")
                assert "only text-to-speech" in error.data["text"]
                await client.expect_end()
        async with server.connect() as client:
            info = await client.describe()
            assert info.data["asr"] == []
            assert info.data["tts"]
            assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", ALTO).tolist()
    assert server.recogniser.sessions == []
    log.check(warnings=3)


async def test_c15_a_program_is_selected_only_where_it_is_served(log: Log):
    async with listening(FakeRecogniser(name="ear"), uri=LOCAL, tts_uri=(LOCAL,), asr_uri=(LOCAL,)) as server:
        everything, speaking, hearing = server.uris
        for uri, name, known in (
            (everything, "ear", True),
            (everything, "fake", True),
            (speaking, "ear", False),
            (speaking, "fake", True),
            (hearing, "ear", True),
            (hearing, "fake", False),
        ):
            async with connect(uri) as client:
                await client.send("select-program", {"name": name})
                if not known:
                    await client.expect_error("program-not-found")
                await client.describe()
    log.check(warnings=2)


async def test_c12_one_port_does_both():
    async with listening(uri=LOCAL, tts_uri=(LOCAL,), asr_uri=(LOCAL,)) as server, server.connect() as client:
        assert await _offered(client, "tts") == ["fake"]
        assert await _offered(client, "asr") == ["fake"]
        assert await _hears(server, client) == "fake"
        assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", ALTO).tolist()


def test_c12_stdout_carries_answers_and_nothing_else(launch: Callable[..., ServerProcess]):
    recogniser = RecogniserScript(chatter="careless library\n")
    server = launch(recogniser=recogniser, uris=("stdio://",), stdin=subprocess.PIPE)
    pcm = spoken("Turn on the living room light.")
    produced, _ = server.process.communicate(utterance(pcm) + frame("describe") + utterance(quiet(1)), PATIENCE_S)
    assert server.process.returncode == 0, server.log
    with io.BytesIO(produced) as answers:
        types = [kind for kind, _ in types_and_codes(answers)]
    told = ["transcript-start", "transcript-chunk", "transcript", "transcript-stop"]
    assert types == [*told, "info", *(kind for kind in told if kind != "transcript-chunk")]
    assert text_of(heard(pcm)).encode() in produced
    server.check_log()
