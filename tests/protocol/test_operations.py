"""Conformance items 44 and 45: logs, health, and the benchmark that users will run."""

import asyncio
import json
import logging
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from protocol.harness.client import connect, eventually, frame, inline
from protocol.harness.clips import Clip
from protocol.harness.fake_engine import ALTO, Script
from protocol.harness.fake_recogniser import RecogniserScript, text_of
from protocol.harness.log import Log
from protocol.harness.servers import ROOT, ServerProcess, listening, serving
from protocol.harness.transcription import heard, quiet, speech, transcribe, utterance

SECRET = "Xylophone marmalade."
LINE = re.compile(
    rf"tts (\d+) fake {ALTO.name}: (\d+) characters, first audio \d+ ms, "
    r"(\d+\.\d) s audio in \d+\.\d+ s \(rtf \d+\.\d+\)"
)


async def test_c44_each_request_is_one_line(log: Log):
    async with serving() as server:
        for _ in range(2):
            async with server.connect() as client:
                await client.describe()
                await client.say(SECRET)
                await client.stream([SECRET])
                await client.send("ping")
                await client.expect("pong")
        listening, *requests = log.infos
        assert listening.startswith("listening on")
        found = [LINE.fullmatch(line) for line in requests]
        assert all(found), requests
        assert [match[1] for match in found if match] == ["1", "2", "3", "4"]
        assert {match[2] for match in found if match} == {str(len(SECRET))}
        assert {match[3] for match in found if match} == {f"{len(SECRET) * 0.02:.1f}"}
    log.check()


async def test_c44_what_is_said_is_not_logged(log: Log):
    async with serving(script=Script(fail="Fail")) as server:
        for event in (
            frame("synthesize", {"text": SECRET}),
            frame("synthesize", {"text": f"<speak>{SECRET}", "text_format": "ssml"}),
            frame("synthesize", {"text": f"{SECRET} Fail."}),
            frame("synthesize", {"text": f"{SECRET}\ud83d\0"}),
            frame("synthesize", {"text": [SECRET]}),
            frame("synthesize", {"text": SECRET, "voice": {"name": "unknown"}}),
            frame("synthesize-chunk", {"text": SECRET}),
            frame("synthesize-start")
            + frame("synthesize-chunk", {"text": SECRET})
            + frame("synthesize-chunk", {"text": 5}),
            inline("synthesize", {"text": SECRET})[:-5] + b"\n",
            f'{{"type":"synthesize","data":{{"text":"{SECRET}","x":NaN}}}}\n'.encode(),
        ):
            async with server.connect() as client:
                await client.write(event)
                client.half_close()
                await client.rest()
    for record in log.records:
        if record.levelno > logging.DEBUG:
            assert "marmalade" not in record.getMessage().lower()
    log.check(warnings=len(log.warnings))


HEARD = re.compile(
    r"asr (\d+) fake large (\w+): (\d+\.\d) s audio, (\d+) characters \d+ ms after its end "
    r"\((decoded then|nobody spoke|ready before), decoded in \d+ ms\)"
)


async def test_c44_each_utterance_is_one_line(log: Log):
    async with listening() as server, server.connect() as client:
        for pcm in (speech(1.0), quiet(1.0), b""):
            await transcribe(client, pcm, language="de")
        await eventually(lambda: len(log.infos) == 4)
        found = [HEARD.fullmatch(line) for line in log.infos[1:3]]
        assert all(found), log.infos
        text = text_of(heard(speech(1.0)))
        assert [match.groups() for match in found if match] == [
            ("1", "de", "1.0", str(len(text)), "decoded then"),
            ("2", "de", "1.0", "0", "nobody spoke"),
        ]
        assert log.infos[3] == "asr: no audio"
    log.check()


async def test_c44_what_is_heard_is_not_logged(log: Log):
    asked = {"transcript_names": [SECRET], "transcript_terms": [SECRET], "context": {"x": SECRET}, "name": None}
    for fail in ("", "finish"):
        async with listening(script=RecogniserScript(ending=SECRET, fail=fail)) as server, server.connect() as client:
            await client.write(utterance(speech(1.0), **asked))
            client.half_close()
            events = await client.rest()
            assert [event.data["text"] for event in events if event.type == "transcript"] == (
                [] if fail else [text_of(heard(speech(1.0))) + SECRET]
            )
    words = {"marmalade", *text_of(heard(speech(1.0))).split()}
    for record in log.records:
        if record.levelno > logging.DEBUG:
            assert not any(word in record.getMessage().lower() for word in words)
    log.check(warnings=1)


async def test_c44_errors_are_one_line_and_no_request_line(log: Log):
    async with serving(script=Script(fail="Fail")) as server, server.connect() as client:
        await client.send("synthesize", {"text": "Fail."})
        await client.expect_error("engine-error")
    log.check(warnings=1)
    assert len(log.infos) == 1


def test_c44_a_log_for_machines(launch: Callable[..., ServerProcess]):
    server = launch("--log-format", "json", script=Script(), log_level="info")
    server.describe()

    async def speak() -> None:
        async with connect(server.uri) as client:
            await client.say(SECRET)
            await client.write(b"\n")
            await client.expect_error("protocol-error")

    asyncio.run(speak())
    server.stop()
    entries = [json.loads(line) for line in server.log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
    assert [entry["level"] for entry in entries].count("warning") == 1
    assert "marmalade" not in server.log


def _busy_clients(uri: str, during: Callable[[], None]) -> None:
    """Call something while several clients have the server speak."""

    async def speak() -> None:
        async with asyncio.TaskGroup() as group, connect(uri) as first, connect(uri) as second:
            for client in (first, second):
                await client.send("synthesize", {"text": "This goes on and on. " * 1000})
                await client.expect("audio-start")
            readers = [group.create_task(client.rest(60)) for client in (first, second)]
            await asyncio.to_thread(during)
            for reader in readers:
                reader.cancel()

    asyncio.run(speak())


def test_c45_the_health_check_is_quick_under_load(launch: Callable[..., ServerProcess]):
    server = launch(script=Script(window_s=0.3, window_samples=22050))
    took = []

    def check() -> None:
        for _ in range(5):
            begin = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "wyoming_rknn", "health", "--uri", server.uri], cwd=ROOT, check=True, timeout=20
            )
            took.append(time.monotonic() - begin)

    _busy_clients(server.uri, check)
    assert sorted(took)[2] < 1.0, took


async def test_c45_describe_is_quick_while_others_are_spoken_to(launch: Callable[..., ServerProcess]):
    server = launch()
    async with connect(server.uri) as busy:
        await busy.send("synthesize", {"text": "This goes on and on. " * 500})
        await busy.expect("audio-start")
        reading = asyncio.create_task(busy.until("audio-stop", 60))
        took = []
        while not reading.done() and len(took) < 30:
            begin = time.monotonic()
            async with connect(server.uri) as client:
                await client.describe()
            took.append(time.monotonic() - begin)
        reading.cancel()
        await asyncio.wait((reading,))
    assert took
    assert max(took) < 1.0, took
    server.stop()
    server.check_log()


@pytest.fixture
def wyoming_bench() -> str:
    program = Path(sys.executable).with_name("wyoming-bench")
    if not program.exists():
        pytest.skip("wyoming-bench is not installed beside this Python")
    return str(program)


def test_c45_wyoming_bench_is_content_with_what_is_heard(
    wyoming_bench: str, launch: Callable[..., ServerProcess], recognisers: Path, clips: list[Clip], tmp_path: Path
):
    chosen = [clip for clip in clips if clip.path.suffix == ".wav"][::4]
    for clip in chosen:
        shutil.copy(clip.path, tmp_path)
        (tmp_path / f"{clip.path.stem}.txt").write_text(clip.text, encoding="utf-8")
    server = launch("--data-dir", str(recognisers), "--asr-engine", "sensevoice")
    server.wait_for_log("listens by default")
    bench = subprocess.run(
        [
            *(wyoming_bench, "stt", "--mode", "both", "--corpus", str(tmp_path), "--programs", "sensevoice"),
            *("--rounds", "1", "--warmup", "1", "-v", "--", server.uri.removeprefix("tcp://")),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert bench.returncode == 0, bench.stdout + bench.stderr
    # In both modes, none of which is "not supported".
    assert bench.stdout.count(f"ok={len(chosen)} fail=0") == 2, bench.stdout + bench.stderr
    assert bench.stdout.count("WER=0.0%  CER=0.0%") == 2, bench.stdout
    assert "not supported" not in bench.stdout + bench.stderr
    server.stop()
    server.check_log()


@pytest.mark.parametrize("program", ["espeak-ng", "piper"])
def test_c45_wyoming_bench_is_content(
    program: str, wyoming_bench: str, launch: Callable[..., ServerProcess], request: pytest.FixtureRequest
):
    options: list[str] = []
    if program == "piper":
        folder, cache = (request.getfixturevalue(name) for name in ("voices", "split_cache"))
        options = ["--data-dir", str(folder), "--cache-dir", str(cache), "--voice", "sano-hfc"]
    server = launch(*options)
    server.wait_for_log("speaks by default")
    bench = subprocess.run(
        [
            *(wyoming_bench, "tts", "--mode", "both", "--rounds", "2", "--warmup", "1", "--programs", program),
            *("--texts", "The light is on.", "Good evening. It is raining outside, take an umbrella.", "-v", "--"),
            server.uri.removeprefix("tcp://"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert bench.returncode == 0, bench.stdout + bench.stderr
    assert bench.stdout.count("ok=4 fail=0") == 2, bench.stdout + bench.stderr
    server.stop()
    server.check_log()
