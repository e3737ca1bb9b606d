"""Conformance item 27 with Qwen3-ASR: tokens are decided while someone speaks, and its end is all that is left."""

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from computing import on_cpu
from protocol.harness.client import Client, connect, eventually, frame
from protocol.harness.log import Log
from protocol.harness.servers import LOCAL, listening
from protocol.harness.transcription import (
    Transcription,
    answer,
    chunk,
    heard,
    quiet,
    speak,
    start,
    stop,
    transcribe,
    utterance,
)
from qwen3_doubles import OracleGenerator, continued, counted, numbers_in, oracle
from tiny_sensevoice import build_graph, install

from wyoming_rknn.asr.engine import AsrModel, Bias
from wyoming_rknn.asr.qwen3 import engine as qwen3_engine
from wyoming_rknn.asr.qwen3.session import Qwen3Session, Streaming
from wyoming_rknn.asr.sensevoice import engine as sensevoice_engine
from wyoming_rknn.models.formats.qwen3 import LANGUAGES
from wyoming_rknn.runtime.scheduler import Scheduler, Stream
from wyoming_rknn.settings import Settings

GOLDEN = Path(__file__).parents[1] / "golden" / "qwen3" / "model"
AT_ONCE_S = 0.2
"""Far more than it takes to send what is there."""


class SlowGenerator(OracleGenerator):
    """Takes its time for each token, and counts them."""

    def __init__(self, engine: "OracleEngine") -> None:
        super().__init__(engine.model.tokenizer, engine.prompts)
        self._engine = engine

    def generate(self, ids: Sequence[int], audio: np.ndarray, max_tokens: int, stream: Stream) -> Iterator[int]:
        engine = self._engine
        engine.answers.append([])
        for token in super().generate(ids, audio, max_tokens, stream):
            stream.submit(lambda: time.sleep(engine.token_s), at_s=0.0).result()
            engine.answers[-1].append(token)
            engine.worked_at = time.monotonic()
            yield token

    def close(self) -> None:
        self._engine.open_sessions -= 1


class OracleEngine:
    """Hears the seconds of `counted` audio; everything above encoder and language model is the real one."""

    name = "qwen3-asr"
    description = "An oracle"
    partials = True

    def __init__(self, token_s: float = 0.0) -> None:
        self.model, self.encoder, self.prompts = oracle()
        self.model.open_generator = lambda: SlowGenerator(self)
        self.token_s = token_s
        self.answers: list[list[int]] = []
        """Tokens given for each prompt."""
        self.open_sessions = 0
        self.worked_at = time.monotonic()

    def models(self) -> list[AsrModel]:
        return [AsrModel("oracle", LANGUAGES, "Hears seconds")]

    def prepare(self, model: str) -> None:
        pass

    def open(self, model: str, language: str | None, bias: Bias) -> Qwen3Session:
        self.open_sessions += 1
        return Qwen3Session(self.model, language, bias)

    def close(self) -> None:
        assert self.open_sessions == 0

    def idle_since(self, seconds: float) -> bool:
        """Tell whether nothing has been computed for so long."""
        return time.monotonic() - self.worked_at > seconds

    @property
    def work(self) -> tuple[int, int, int]:
        """Return how many windows were encoded, prompts answered and tokens given."""
        return len(self.encoder.encoded_frames), len(self.prompts), sum(map(len, self.answers))

    def kept(self, number: int) -> list[int]:
        """Return what a prompt held of the answer already."""
        return continued(self.model.tokenizer, self.prompts[number])

    def hypothesis(self, number: int) -> list[int]:
        """Return all that was decided by a prompt and its answer."""
        return self.kept(number) + self.answers[number]


def pcm(seconds: float) -> bytes:
    """Return 16-bit audio that tells the number of each second."""
    return (32767 * counted(seconds)).astype("<i2").tobytes()


async def _stop(client: Client) -> tuple[Transcription, float]:
    """End the audio and return the answer, and how long it took."""
    asked = time.monotonic()
    await client.write(stop())
    found = await answer(client)
    return found, found.at - asked


async def test_c27_every_second_is_heard_once(log: Log) -> None:
    engine = OracleEngine()
    async with listening(engine) as server:
        for seconds in (0.5, 1.0, 3.3, 7.9, 8.1, 17.0, 30.0, 31.0, 60.0):
            async with server.connect() as client:
                found = await transcribe(client, pcm(seconds), 65_536)
            assert numbers_in(found.text) == list(range(int(np.ceil(seconds)))), seconds
            assert found.language == "en"
    log.check()


async def test_c27_the_answer_is_there_when_the_audio_ends(log: Log) -> None:
    engine = OracleEngine(token_s=0.005)
    async with listening(engine, partial_interval=0.5) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        await speak(client, pcm(1.8) + quiet(0.7))
        before = engine.work
        found, took_s = await _stop(client)
        assert numbers_in(found.text) == [0, 1]
        # What was computed in the pause is the answer: after the end nothing is.
        assert engine.work == before
        assert took_s < AT_ONCE_S
    assert "ready before" in log.infos[-1]
    log.check()


async def test_c27_speech_up_to_the_end_leaves_one_decoding_of_the_tail(log: Log) -> None:
    engine = OracleEngine(token_s=0.005)
    async with listening(engine, partial_interval=0.5) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        audio = pcm(3.8)
        await speak(client, audio[:-640])
        await eventually(lambda: engine.idle_since(0.2))
        prompts = len(engine.prompts)
        await client.write(chunk(audio[-640:]) + stop())
        found = await answer(client)
        assert numbers_in(found.text) == [0, 1, 2, 3]
        assert len(engine.prompts) == prompts + 1
    former = engine.hypothesis(prompts - 1)
    assert engine.kept(prompts) == former[: -Streaming().rollback]
    assert len(engine.kept(prompts)) > len(engine.hypothesis(prompts)) / 2
    # It was told piece by piece while it was spoken; `answer` has checked that the pieces add up.
    assert len(found.told) > 1
    assert "decoded then" in log.infos[-1]
    log.check()


async def _decoding(engine: OracleEngine, client: Client) -> None:
    """Have a long utterance decoded, and return in the middle of it."""
    await client.write(utterance(pcm(12.0), 65_536))
    await eventually(lambda: engine.answers and len(engine.answers[-1]) >= 3)


async def test_c27_who_disconnects_ends_the_decoding_within_a_token(log: Log) -> None:
    engine = OracleEngine(token_s=0.1)
    async with listening(engine) as server:
        async with server.connect() as client:
            await _decoding(engine, client)
            client.reset()
            given = engine.work
            await eventually(lambda: engine.open_sessions == 0)
        # One is being computed, one more may have been before the connection's end was noticed.
        assert engine.work[2] <= given[2] + 2
        assert engine.work[:2] == given[:2]
    log.check()


async def test_c27_who_begins_anew_ends_the_decoding_within_a_token(log: Log) -> None:
    engine = OracleEngine(token_s=0.1)
    async with listening(engine) as server, server.connect() as client:
        await client.write(frame("transcribe") + start())
        speaking = asyncio.create_task(speak(client, pcm(1.8) + quiet(5.0)))
        await eventually(lambda: engine.answers and len(engine.answers[-1]) >= 2)
        speaking.cancel()
        given = len(engine.answers[-1])
        await client.write(frame("transcribe") + start())
        await eventually(lambda: engine.open_sessions == 0)
        assert len(engine.answers[-1]) <= given + 2
        await client.write(stop())
        assert (await client.until("transcript-stop"))[-2].data["text"] == ""
    log.check()


async def test_c27_words_to_expect_are_told_to_the_model(log: Log) -> None:
    engine = OracleEngine()
    asked = {"language": "de-DE", "transcript_names": ["Küche", "Wohnzimmer"], "transcript_terms": ["Rolladen"]}
    async with listening(engine) as server, server.connect() as client:
        await client.write(utterance(pcm(1.0), 65_536, **asked))
        await eventually(lambda: engine.prompts)
    prompt = engine.model.tokenizer.decode(engine.prompts[0])
    assert "system\nKüche Wohnzimmer Rolladen" in prompt
    assert prompt.endswith("assistant\nlanguage German")


async def test_c14_two_programs_listen_on_ports_of_one_process(tmp_path: Path, log: Log) -> None:
    shutil.copytree(GOLDEN, tmp_path / "data" / "tiny")
    install(tmp_path / "data" / "sense", model=build_graph("funasr"))
    settings = Settings(data_dir=(tmp_path / "data",), cache_dir=tmp_path / "cache")
    engines = [module.create(settings, on_cpu()) for module in (sensevoice_engine, qwen3_engine)]
    ports = {"uri": None, "asr_uri": (LOCAL, f"{LOCAL}?program=qwen3-asr")}
    audio = pcm(2.2)
    scheduler = Scheduler()
    expected = []
    for engine, model in zip(engines, ("sense", "tiny"), strict=True):
        session = engine.open(model, None, Bias())
        session.accept(heard(audio))
        expected.append(session.finish(scheduler.stream()).text)
        session.close()
    assert scheduler.close(20.0)
    assert expected[1]
    async with listening(*engines, **ports) as server:
        assert len(server.uris) == 2

        async def hear(uri: str) -> str:
            async with connect(uri) as client:
                return (await transcribe(client, audio, 4096)).text

        for uri, name, languages in zip(server.uris, ("sensevoice", "qwen3-asr"), (5, LANGUAGES), strict=True):
            async with connect(uri) as client:
                programs = (await client.describe()).data["asr"]
            assert sorted(program["name"] for program in programs) == ["qwen3-asr", "sensevoice"]
            assert programs[0]["name"] == name
            told = programs[0]["models"][0]["languages"]
            assert len(told) == languages if isinstance(languages, int) else set(told) >= set(languages)
            assert programs[0]["supports_transcript_streaming"] is True
        # Both at once, twice.
        texts = await asyncio.gather(*map(hear, server.uris * 2))
        assert texts == expected * 2
    for engine in engines:
        engine.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "asr closing"]
    log.check()
