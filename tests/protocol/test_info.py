"""Conformance items 14 to 16: what the server says about itself."""

import shutil
from pathlib import Path

import pytest
from computing import on_cpu
from protocol.harness.fake_engine import ALTO, BASS, DUO, VOICES, FakeEngine, Script, audio
from protocol.harness.info import check_info
from protocol.harness.log import Log
from protocol.harness.servers import serving

from wyoming_rknn.models.store import Store
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts import espeak
from wyoming_rknn.tts.engine import Voice
from wyoming_rknn.tts.piper.engine import PiperEngine


async def test_c14_info_is_complete_and_stable(log: Log):
    async with serving(FakeEngine(name="b"), FakeEngine(name="a")) as server:
        answers = set()
        for _ in range(3):
            async with server.connect() as client:
                info = await client.describe()
                check_info(info)
                answers.add(info.raw)
                answers.add((await client.describe()).raw)
    assert len(answers) == 1
    assert [program["name"] for program in info.data["tts"]] == ["b", "a"]
    assert [voice["name"] for voice in info.data["tts"][0]["voices"]] == sorted([ALTO.name, BASS.name, DUO.name])
    (duo,) = (voice for voice in info.data["tts"][0]["voices"] if voice["name"] == DUO.name)
    assert [speaker["name"] for speaker in duo["speakers"]] == ["ann", "bob"]
    assert log.infos == [f"listening on {server.uri}"]


async def test_c14_the_built_in_voices():
    async with serving(espeak.create(Settings(), on_cpu())) as server, server.connect() as client:
        info = await client.describe()
        check_info(info)
        (program,) = info.data["tts"]
        assert program["name"] == "espeak-ng"
        spoken = {tag for voice in program["voices"] for tag in voice["languages"]}
        assert {"en", "en-US", "en-GB", "de", "fr", "es", "zh", "ja", "ko"} <= spoken
        assert all(voice["name"].startswith("espeak-") for voice in program["voices"])


async def test_c14_a_program_without_voices_is_not_advertised():
    async with serving(FakeEngine(voices=[], name="empty"), FakeEngine()) as server, server.connect() as client:
        assert [program["name"] for program in (await client.describe()).data["tts"]] == ["fake"]


async def test_c15_voices_come_and_go(log: Log):
    new = Voice("fr_FR-new-medium", ("fr-FR", "fr"), "New", 22050)
    async with serving() as server, server.connect() as client:

        async def names() -> list[str]:
            return [voice["name"] for voice in (await client.describe()).data["tts"][0]["voices"]]

        before = await names()
        server.engine.installed.append(new)
        assert await names() == sorted([*before, new.name])
        assert (await client.say("Bonjour.", new.name)).samples.tolist() == audio("Bonjour.", new).tolist()
        server.engine.installed.remove(new)
        assert await names() == before
        await client.send("synthesize", {"text": "Bonjour.", "voice": {"name": new.name}})
        await client.expect_error("voice-not-found")
    log.check(warnings=1)


async def test_c15_a_voice_put_into_the_folder_is_there_at_once(tmp_path: Path, voices: Path, log: Log):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.onnx").write_bytes(b"no graph")
    (tmp_path / "broken" / "broken.onnx.json").write_text("{")
    settings = Settings(data_dir=(tmp_path,), cache_dir=tmp_path / "cache")
    async with (
        serving(PiperEngine(settings, Store((tmp_path,)), on_cpu()), FakeEngine()) as server,
        server.connect() as client,
    ):

        async def offered() -> list[tuple[str, list[str]]]:
            programs = (await client.describe()).data["tts"]
            return [(program["name"], [voice["name"] for voice in program["voices"]]) for program in programs]

        fakes = sorted(voice.name for voice in VOICES)
        assert await offered() == [("fake", fakes)]
        shutil.copytree(voices / "sano-kristin", tmp_path / "new-voice")
        (piper, (name,)), fake = await offered()
        assert (piper, fake) == ("piper", ("fake", fakes))
        assert (await client.say("Hello.", name)).samples.any()
        assert (await client.say("Hello.")).rate_hz == 22050
        shutil.rmtree(tmp_path / "new-voice")
        assert await offered() == [("fake", fakes)]
        await client.say("Hello.")
    # The broken one is reported once, however often it is looked at.
    log.check(warnings=1)


async def test_c15_a_broken_voice_is_not_offered_and_its_fault_is_told(tmp_path: Path, voices: Path, log: Log):
    shutil.copytree(voices / "sano-kristin", tmp_path / "bbb")
    config = (tmp_path / "bbb" / "config.json").read_bytes()
    for name, content in (("aaa", b"no graph"), ("half", None)):
        (tmp_path / f"{name}.onnx.json").write_bytes(config)
        if content:
            (tmp_path / f"{name}.onnx").write_bytes(content)
    settings = Settings(data_dir=(tmp_path,), cache_dir=tmp_path / "cache")
    async with serving(PiperEngine(settings, Store((tmp_path,)), on_cpu())) as server:

        async def offered() -> list[str]:
            async with server.connect() as client:
                return [voice["name"] for voice in (await client.describe()).data["tts"][0]["voices"]]

        assert await offered() == ["aaa", "bbb"]
        for voice, code, fix in (
            ({}, "model-invalid", "aaa.onnx"),
            ({"voice": {"name": "aaa"}}, "model-invalid", "aaa.onnx"),
            ({"voice": {"name": "half"}}, "model-file-missing", "put half.onnx beside it"),
        ):
            async with server.connect() as client:
                await client.send("synthesize", {"text": "Hello.", **voice})
                assert fix in (await client.expect_error(code)).data["text"]
            assert await offered() == ["bbb"]
        async with server.connect() as client:
            assert (await client.say("Hello.")).samples.any()
    log.check(warnings=4)


async def test_c15_a_program_is_selected_for_the_connection():
    other = Voice("other-voice", ("en-US", "en"), "Other", 22050)
    engines = (FakeEngine(), FakeEngine(voices=[other], name="other"))
    async with serving(*engines) as server, server.connect() as client, server.connect() as bystander:
        assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", ALTO).tolist()
        await client.send("select-program", {"name": "other"})
        assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", other).tolist()
        assert (await client.stream(["Hello."])).samples.tolist() == audio("Hello.", other).tolist()
        await client.send("select-program", {"name": "fake"})
        assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", ALTO).tolist()
        assert (await bystander.say("Hello.")).samples.tolist() == audio("Hello.", ALTO).tolist()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"name": "fak"}, "program-not-found"),
        ({"name": ""}, "program-not-found"),
        ({"name": None}, "invalid-request"),
        ({"name": 1}, "invalid-request"),
        ({}, "invalid-request"),
    ],
)
async def test_c15_an_unknown_program_is_an_error_that_the_connection_survives(data, code, log: Log):
    async with serving() as server, server.connect() as client:
        await client.send("select-program", data)
        error = await client.expect_error(code)
        if code == "program-not-found":
            assert "fake" in error.data["text"]
        await client.describe()
        assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", ALTO).tolist()
    log.check(warnings=1)


async def test_c16_the_streaming_flag_is_true():
    async with serving(script=Script(window_s=0.01)) as server, server.connect() as client:
        assert (await client.describe()).data["tts"][0]["supports_synthesize_streaming"] is True
        await client.send("synthesize-start")
        await client.send("synthesize-chunk", {"text": "Hello there. And "})
        await client.expect("audio-start")  # the text has not ended
        await client.send("synthesize-chunk", {"text": "more."})
        await client.send("synthesize-stop")
        await client.until("synthesize-stopped")


async def test_c16_nothing_is_advertised_that_is_not_served():
    async with serving() as server, server.connect() as client:
        info = await client.describe()
        for kind in ("handle", "intent", "wake", "mic", "snd"):
            assert not info.data.get(kind)
        assert info.data.get("satellite") is None
