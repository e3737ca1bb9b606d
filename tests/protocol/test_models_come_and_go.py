"""Voices and models that are copied, replaced and removed while the server runs."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_sensevoice
from protocol.harness.client import Client, Speech, eventually
from protocol.harness.clips import Clip, plain
from protocol.harness.servers import ServerProcess
from protocol.harness.transcription import answer, transcribe, utterance

from wyoming_rknn.runtime import onnx

VOICE, OTHER = "sano-hfc", "random-tiny"
RECOGNISER = "sensevoice-overfit"
PARTS = ("model_quant.onnx", "tokens.txt", "am.mvn")
SENTENCE = "The lamp in the kitchen is on."
USABLE_S = 2.0
"""How long it may take from the moment a voice or model lies there until it was used."""
ATTEMPTS = 3
SHARES = (0.0, 0.1, 0.5, 0.999)
"""How much of a file is there while it is being copied."""


@pytest.fixture(scope="module")
def running(split_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path]]:
    """Start a server with nothing installed, and tell where its models are."""
    folder = tmp_path_factory.mktemp("server")
    (data := folder / "models").mkdir()
    server = ServerProcess(folder, "--data-dir", str(data), "--cache-dir", str(split_cache))
    try:
        # The recogniser that is built in takes its time, once.
        server.wait_for_log("listens by default")
        yield server, data
        server.stop()
        server.check_log()
    finally:
        server.kill()


@pytest.fixture
def server(running: tuple[ServerProcess, Path]) -> ServerProcess:
    return running[0]


@pytest.fixture
def data(running: tuple[ServerProcess, Path]) -> Iterator[Path]:
    """Return the data folder, empty; it is emptied afterwards."""
    data = running[1]
    assert list(data.iterdir()) == []
    yield data
    shutil.rmtree(data)
    data.mkdir()


class Stopwatch:
    """Tells how long a server takes; on a machine that has more to do, its share of the time counts."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._begin, self._begin_cpu_s = time.monotonic(), server.cpu_s()

    def within(self, limit_s: float, end: float | None = None) -> bool:
        self.took_s = (end or time.monotonic()) - self._begin
        self.spent_s = self._server.cpu_s() - self._begin_cpu_s
        return self.took_s < limit_s or (self.spent_s < limit_s and self.took_s < 5 * limit_s)

    def __str__(self) -> str:
        return f"{self.took_s:.1f} s, {self.spent_s:.1f} s of them spent computing"


def loading_cpu_s(graph: Path) -> float:
    """Return how long it takes just now to do no more than load a graph, in seconds of computing."""
    begin_s = time.process_time()
    onnx.load(graph, threads=1).close()
    return time.process_time() - begin_s


async def offered(client: Client, program: str = "piper") -> list[str]:
    """Return the names of the voices or models of one program."""
    info = (await client.describe()).data
    programs = [*((each, "voices") for each in info["tts"]), *((each, "models") for each in info["asr"])]
    return [each["name"] for found, key in programs if found["name"] == program for each in found[key]]


def copy_voice(voices: Path, name: str, to: Path, under: str = "") -> None:
    """Copy a voice of two files, under another name if one is given."""
    to.mkdir(exist_ok=True)
    for ending in (".onnx", ".onnx.json"):
        shutil.copyfile(voices / name / f"{name}{ending}", to / f"{under or name}{ending}")


def copy_model(recognisers: Path, to: Path) -> None:
    to.mkdir()
    for part in PARTS:
        shutil.copyfile(recognisers / RECOGNISER / part, to / part)


async def says(server: ServerProcess, voice: str, text: str = SENTENCE) -> bytes:
    async with server.connect() as client:
        return (await client.say(text, voice)).pcm


async def error_of(server: ServerProcess, voice: str) -> str:
    """Return the code of the error that a request for a voice gets."""
    async with server.connect() as client:
        await client.send("synthesize", {"text": SENTENCE, "voice": {"name": voice}})
        error = await client.expect("error")
        await client.expect_end()
        return error.data["code"]


@pytest.mark.parametrize("kind", [VOICE, "random-tiny", "random-medium"])
async def test_a_voice_that_is_copied_speaks_within_2_s(
    server: ServerProcess, data: Path, voices: Path, kind: str
) -> None:
    async with server.connect() as client:
        assert await offered(client) == []
        for attempt in range(ATTEMPTS):
            name = f"{kind}-{attempt}"
            watch = Stopwatch(server)
            copy_voice(voices, kind, data / name, name)
            # A remark of the maker's (protobuf: doc_string), so that nothing of it was seen or cut before.
            with (data / name / f"{name}.onnx").open("ab") as graph:
                graph.write(b"\x32\x01" + str(attempt).encode())
            assert name in await offered(client)
            speech = await client.say(SENTENCE, name)
            assert speech.seconds > 1
            in_time = watch.within(USABLE_S, speech.first_audio_at)
            if kind != VOICE:
                assert f"{name}.onnx split in" not in server.log
            # To load the largest takes 1.3 of the 2 s of a machine with nothing else to do, and more of others.
            if not in_time:
                in_time = watch.spent_s < 1.5 * loading_cpu_s(data / name / f"{name}.onnx")
            # What is still being cut then would be counted the next time.
            await eventually(lambda name=name: f"{name}.onnx split in" in server.log, timeout_s=60.0)
            assert (await client.say(SENTENCE, name)).seconds > 1
            if in_time:
                return
    pytest.fail(f"from the voice to its first sound it took {watch}")


@pytest.mark.parametrize("last", [".onnx", ".onnx.json"])
async def test_a_voice_is_offered_once_it_is_whole(server: ServerProcess, data: Path, voices: Path, last: str) -> None:
    name = f"whole{last.count('.')}"
    first = ({".onnx", ".onnx.json"} - {last}).pop()
    async with server.connect() as client:
        for ending in (first, last):
            content = (voices / VOICE / f"{VOICE}{ending}").read_bytes()
            for share in SHARES:
                (data / f"{name}{ending}").write_bytes(content[: int(share * len(content))])
                assert await offered(client) == [], (ending, share)
                assert await error_of(server, name) in ("model-invalid", "model-file-missing", "voice-not-found")
            (data / f"{name}{ending}").write_bytes(content)
            assert await offered(client) == ([name] if ending == last else [])
        # What was wrong with it is forgotten.
        assert (await client.say(SENTENCE, name)).seconds > 1
        assert await offered(client) == [name]


async def test_a_voice_that_comes_in_many_pieces_is_never_offered_half(
    server: ServerProcess, data: Path, voices: Path
) -> None:
    content = (voices / VOICE / f"{VOICE}.onnx").read_bytes()
    shutil.copyfile(voices / VOICE / f"{VOICE}.onnx.json", data / "pieces.onnx.json")
    step = len(content) // 40
    async with server.connect() as client:
        with (data / "pieces.onnx").open("wb", buffering=0) as file:
            for place in range(0, len(content) - 1, step):
                file.write(content[place : min(place + step, len(content) - 1)])
                assert await offered(client) == [], place
            file.write(content[-1:])
        assert await offered(client) == ["pieces"]
        assert (await client.say(SENTENCE, "pieces")).seconds > 1


async def test_a_voice_that_is_removed_ends_its_sentence_and_is_gone(
    server: ServerProcess, data: Path, voices: Path
) -> None:
    copy_voice(voices, VOICE, data / VOICE)
    sentences = [f"{SENTENCE} "] * 12
    async with server.connect() as client, server.connect() as other:
        whole = await client.stream(sentences, VOICE)
        await client.send("synthesize-start", {"voice": {"name": VOICE}})
        await client.send("synthesize-chunk", {"text": "".join(sentences[:3])})
        events = await client.until("audio-chunk")
        shutil.rmtree(data / VOICE)
        assert await offered(other) == []
        assert await error_of(server, VOICE) == "voice-not-found"
        # Text that comes only now belongs to a reply that has its voice.
        await client.send("synthesize-chunk", {"text": "".join(sentences[3:])})
        await client.send("synthesize-stop")
        events += await client.until("synthesize-stopped")
        assert Speech(events).check(streaming=True).pcm == whole.pcm
        copy_voice(voices, VOICE, data / VOICE)
        assert await offered(other) == [VOICE]
        assert (await client.stream(sentences, VOICE)).pcm == whole.pcm


@pytest.mark.parametrize("how", ["in place", "by a rename", "removed first"])
async def test_a_voice_that_is_replaced_is_heard_in_the_next_request(
    server: ServerProcess, data: Path, voices: Path, tmp_path: Path, how: str
) -> None:
    copy_voice(voices, VOICE, data / "voice", "mine")
    before = await says(server, "mine")
    if how == "by a rename":
        copy_voice(voices, OTHER, tmp_path / "next", "mine")
        for path in (tmp_path / "next").iterdir():
            path.replace(data / "voice" / path.name)
    else:
        if how == "removed first":
            shutil.rmtree(data / "voice")
            assert await error_of(server, "mine") == "voice-not-found"
        copy_voice(voices, OTHER, data / "voice", "mine")
    after = await says(server, "mine")
    copy_voice(voices, OTHER, data / "other")
    assert after == await says(server, OTHER)
    assert after != before


async def test_two_hundred_voices_are_told_at_once(
    server: ServerProcess, data: Path, voices: Path, tmp_path: Path
) -> None:
    copy_voice(voices, VOICE, tmp_path / "voice", "v")
    names = [f"v{number:03}" for number in range(200)]
    async with server.connect() as client:
        for attempt in range(ATTEMPTS):
            # Folders that were never seen before.
            (data / f"{attempt}").mkdir()
            for name in names:
                (folder := data / f"{attempt}" / name).mkdir()
                for ending in (".onnx", ".onnx.json"):
                    os.link(tmp_path / "voice" / f"v{ending}", folder / f"{name}{ending}")
            watch = Stopwatch(server)
            assert await offered(client) == names
            if watch.within(1.0):
                return
            shutil.rmtree(data / f"{attempt}")
            assert await offered(client) == []
    pytest.fail(f"to tell them took {watch}")


async def hears(client: Client, clip: Clip) -> None:
    assert plain((await transcribe(client, clip.pcm, name=RECOGNISER)).text) == plain(clip.text)


async def is_answered(server: ServerProcess, clip: Clip) -> None:
    """Ask for the model; what is wrong with its files is told, or another one hears."""
    async with server.connect() as client:
        await client.write(utterance(clip.pcm, name=RECOGNISER))
        while (event := await client.receive()) is not None and event.type not in ("transcript", "error"):
            pass
        assert event is not None
        assert event.data.get("code") in (None, "model-invalid", "model-file-missing"), event.data


async def test_a_model_that_is_copied_hears_within_2_s(
    server: ServerProcess, data: Path, recognisers: Path, clips: list[Clip]
) -> None:
    async with server.connect() as client:
        for _ in range(ATTEMPTS):
            assert await offered(client, "sensevoice") == []
            watch = Stopwatch(server)
            copy_model(recognisers, data / RECOGNISER)
            assert await offered(client, "sensevoice") == [RECOGNISER]
            await hears(client, clips[0])
            if watch.within(USABLE_S):
                return
            shutil.rmtree(data / RECOGNISER)
    pytest.fail(f"from the model to its first transcript it took {watch}")


@pytest.mark.parametrize("last", PARTS)
async def test_a_model_hears_once_it_is_whole(
    server: ServerProcess, data: Path, recognisers: Path, clips: list[Clip], last: str
) -> None:
    """A graph is not offered before; the small files beside it are not looked into before they are needed."""
    (data / RECOGNISER).mkdir()
    async with server.connect() as client:
        for part in sorted(PARTS, key=last.__eq__):
            content = (recognisers / RECOGNISER / part).read_bytes()
            for share in SHARES:
                (data / RECOGNISER / part).write_bytes(content[: int(share * len(content))])
                assert await offered(client, "sensevoice") in ([], [RECOGNISER][: part != PARTS[0]]), (part, share)
            await is_answered(server, clips[0])
            (data / RECOGNISER / part).write_bytes(content)
            assert await offered(client, "sensevoice") == [RECOGNISER][: part == last]
        # What was wrong with it is forgotten.
        await hears(client, clips[0])
        assert await offered(client, "sensevoice") == [RECOGNISER]


async def test_a_model_that_is_removed_ends_its_utterance_and_is_gone(
    server: ServerProcess, data: Path, recognisers: Path, clips: list[Clip]
) -> None:
    copy_model(recognisers, data / RECOGNISER)
    clip = clips[0]
    async with server.connect() as client, server.connect() as other:
        await hears(client, clip)
        sent = utterance(clip.pcm, name=RECOGNISER)
        await client.write(sent[: len(sent) // 2])
        await other.describe()
        shutil.rmtree(data / RECOGNISER)
        assert await offered(other, "sensevoice") == []
        await client.write(sent[len(sent) // 2 :])
        assert plain((await answer(client)).text) == plain(clip.text)
        # What is said must not be lost: another model hears it.
        told = server.log.count(f"model '{RECOGNISER}' is not installed")
        await transcribe(other, clip.pcm, name=RECOGNISER)
        assert server.log.count(f"model '{RECOGNISER}' is not installed") == told + 1


async def test_a_model_that_is_replaced_hears_the_next_request(
    server: ServerProcess, data: Path, recognisers: Path, clips: list[Clip]
) -> None:
    copy_model(recognisers, data / RECOGNISER)
    async with server.connect() as client:
        await hears(client, clips[0])
        tiny_sensevoice.install(data / RECOGNISER, model_quant=tiny_sensevoice.build_graph("funasr"))
        assert await offered(client, "sensevoice") == [RECOGNISER]
        of_other = (await transcribe(client, clips[0].pcm, name=RECOGNISER)).text
        assert plain(of_other) != plain(clips[0].text)
        assert set(of_other) <= set("".join(tiny_sensevoice.PIECES).replace("▁", " ")), of_other
        shutil.rmtree(data / RECOGNISER)
        copy_model(recognisers, data / RECOGNISER)
        await hears(client, clips[0])
