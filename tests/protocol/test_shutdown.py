"""Conformance item 11: the server ends soon, whatever is going on."""

import asyncio
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from protocol.harness.blocking import dial, types_and_codes
from protocol.harness.client import PATIENCE_S, frame
from protocol.harness.clips import Clip
from protocol.harness.fake_engine import FakeEngine, Script
from protocol.harness.fake_recogniser import RecogniserScript
from protocol.harness.servers import ServerProcess
from protocol.harness.spoken import spoken
from protocol.harness.transcription import chunks, start, stop

from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.server import app
from wyoming_rknn.server.service import Service
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.programs import Programs

IN_TIME_S = 3.0
SLOW = Script(window_s=0.5, window_samples=22050)
HALF_AN_UTTERANCE = frame("transcribe") + start() + chunks(spoken("Turn on the living room light."))
LONG_TEXT = frame("synthesize", {"text": "x" * 10000})
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def idle_clients(uri: str, stack: ExitStack) -> None:
    for _ in range(5):
        stack.enter_context(dial(uri))


def half_sent_requests(uri: str, stack: ExitStack) -> None:
    for begun in (b'{"type":"synth', b'{"type":"synthesize","data_length":100}\n{"tex'):
        stack.enter_context(dial(uri)).sendall(begun)


def stalled_readers(uri: str, stack: ExitStack) -> None:
    for _ in range(2):
        connection = stack.enter_context(dial(uri, receive_bytes=4096))
        connection.sendall(LONG_TEXT)
        assert connection.recv(10)


def open_text(uri: str, stack: ExitStack) -> None:
    connection = stack.enter_context(dial(uri))
    connection.sendall(frame("synthesize-start") + frame("synthesize-chunk", {"text": "Hello. And"}))


def half_an_utterance(uri: str, stack: ExitStack) -> None:
    for sent in (HALF_AN_UTTERANCE, HALF_AN_UTTERANCE[:-500], frame("transcribe") + start()):
        stack.enter_context(dial(uri)).sendall(sent)


QUICK_SITUATIONS = (idle_clients, half_sent_requests, stalled_readers, open_text, half_an_utterance)


@contextmanager
def waiting_client(uri: str) -> Iterator[None]:
    """A client that hears the beginning of an answer and, once the server has stopped, an error."""
    with dial(uri) as connection, connection.makefile("rb") as answer:
        connection.sendall(LONG_TEXT)
        events = types_and_codes(answer)
        assert next(events) == ("audio-start", None)
        yield
        rest = list(events)
        assert ("error", "shutting-down") in rest
        assert {kind for kind, _ in rest} <= {"audio-chunk", "error"}


@pytest.mark.parametrize("number", SIGNALS)
def test_c11_a_server_that_nobody_uses_ends(
    number: signal.Signals, launch: Callable[..., ServerProcess], tmp_path: Path
):
    server = launch(uris=("tcp://127.0.0.1:0", f"unix://{tmp_path}/socket"))
    assert len(server.uris) == 2
    server.describe()
    assert (tmp_path / "socket").is_socket()
    assert server.stop(number) < IN_TIME_S
    assert not (tmp_path / "socket").exists()
    server.check_log()


@pytest.mark.parametrize("situation", QUICK_SITUATIONS, ids=lambda situation: situation.__name__)
@pytest.mark.parametrize("number", SIGNALS)
def test_c11_the_server_ends_with(
    situation: Callable[[str, ExitStack], None], number: signal.Signals, launch: Callable[..., ServerProcess]
):
    # The output buffers must fill up, so here the engine is quick.
    server = launch(script=Script(), recogniser=RecogniserScript())
    with ExitStack() as stack:
        situation(server.uri, stack)
        time.sleep(0.3)
        assert server.stop(number) < IN_TIME_S
    server.check_log()


@pytest.mark.parametrize("number", SIGNALS)
def test_c11_clients_that_wait_are_told(number: signal.Signals, launch: Callable[..., ServerProcess], tmp_path: Path):
    server = launch(script=SLOW, uris=("tcp://127.0.0.1:0", f"unix://{tmp_path}/socket"))
    tcp, unix = server.uris
    with waiting_client(tcp), waiting_client(unix), ExitStack() as stack:
        for situation in QUICK_SITUATIONS[:2]:
            situation(tcp, stack)
        assert server.stop(number) < IN_TIME_S
    assert not (tmp_path / "socket").exists()
    server.check_log()
    assert " WARNING " not in server.log


def test_c11_a_refused_client_that_stays_does_not_hinder_the_end(launch: Callable[..., ServerProcess]):
    server = launch("--max-connections", "1", script=Script())
    with dial(server.uri) as client, dial(server.uri) as refused, refused.makefile("rb") as answer:
        client.sendall(b'{"type":')
        assert next(types_and_codes(answer)) == ("error", "busy")
        assert server.stop() < IN_TIME_S
    server.check_log()


def test_c11_a_second_signal_changes_nothing(launch: Callable[..., ServerProcess]):
    server = launch(script=SLOW)
    with waiting_client(server.uri):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            server.process.send_signal(number)
        assert server.stop() < IN_TIME_S
    server.check_log()


@pytest.mark.parametrize("number", SIGNALS)
def test_c11_the_server_ends_while_a_voice_is_loaded(number: signal.Signals, launch: Callable[..., ServerProcess]):
    server = launch(script=Script(load_s=30))
    with dial(server.uri) as connection:
        connection.sendall(frame("synthesize", {"text": "Hello."}))
        assert server.stop(number) < IN_TIME_S
    server.check_log()


@pytest.mark.parametrize(
    "recogniser",
    [
        RecogniserScript(decode_s=30),
        RecogniserScript(decode_s=30, stubborn=True),
        RecogniserScript(load_s=30),
        RecogniserScript(accept_s=30),
    ],
    ids=["decodes", "decodes and cannot be stopped", "loads", "prepares"],
)
@pytest.mark.parametrize("number", SIGNALS)
def test_c11_the_server_ends_while_the_recogniser(
    number: signal.Signals, recogniser: RecogniserScript, launch: Callable[..., ServerProcess]
):
    server = launch(recogniser=recogniser)
    with ExitStack() as stack:
        answers = []
        for sent in (HALF_AN_UTTERANCE + stop(), HALF_AN_UTTERANCE + stop(), HALF_AN_UTTERANCE):
            connection = stack.enter_context(dial(server.uri))
            connection.sendall(sent)
            answers.append(stack.enter_context(connection.makefile("rb")))
        time.sleep(0.3)
        assert server.stop(number) < IN_TIME_S
        # Also who still speaks waits for something.
        assert [list(types_and_codes(answer)) for answer in answers] == [[("error", "shutting-down")]] * 3
    server.check_log()
    assert " WARNING " not in server.log


async def test_c11_all_steps_of_the_end_share_one_deadline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    stuck = threading.Event()

    class StuckAnnouncer:
        def __init__(self, announcements: object) -> None:
            pass

        async def start(self) -> None:
            pass

        async def close(self) -> None:
            await asyncio.sleep(60)

    async def open_stuck(limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, threading.Thread]:
        # A client that says nothing, and a full disk behind stdout.
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        copier = threading.Thread(target=stuck.wait, args=(30,), daemon=True)
        copier.start()
        return (*await asyncio.open_unix_connection(sock=ours, limit=limit), copier)

    monkeypatch.setattr(app, "Announcer", StuckAnnouncer)
    monkeypatch.setattr(app, "open_stdio", open_stuck)
    settings = Settings(uri=("tcp://127.0.0.1:0", f"unix://{tmp_path}/socket", "stdio://"), cache_dir=tmp_path)
    with ExitStack() as stack:
        scheduler = Scheduler()
        stack.callback(scheduler.close)
        stack.callback(stuck.set)
        server = app.Server(
            Service(settings, scheduler, Programs((FakeEngine(),), settings), AsrPrograms((), settings))
        )
        await server.start()
        begin = time.monotonic()
        await server.close()
        # One after the other, they would take 3 s.
        assert time.monotonic() - begin < 2.7
        assert not (tmp_path / "socket").exists()


def _cutting(launch: Callable[..., ServerProcess], voices: Path) -> tuple[ServerProcess, list[int]]:
    """Return a server that cuts its default voice, and the child processes that do it."""
    server = launch("--data-dir", str(voices), "--voice", "random-medium")
    assert server.uri
    end = time.monotonic() + PATIENCE_S
    while not (children := _children(server.process.pid)):
        assert time.monotonic() < end, "no child process cuts the voice"
        time.sleep(0.02)
    return server, children


def test_c11_the_server_ends_while_a_real_voice_is_cut(launch: Callable[..., ServerProcess], voices: Path):
    server, _ = _cutting(launch, voices)
    with dial(server.uri) as connection, connection.makefile("rb") as answer:
        connection.sendall(frame("synthesize", {"text": "Hello. " * 500, "voice": {"name": "random-medium"}}))
        time.sleep(0.1)
        assert server.stop() < IN_TIME_S
        assert list(types_and_codes(answer))[-1] == ("error", "shutting-down")
    server.check_log()


def test_c11_what_cuts_a_voice_ends_with_the_server(launch: Callable[..., ServerProcess], voices: Path):
    server, children = _cutting(launch, voices)
    server.stop()
    end = time.monotonic() + 2
    while any(map(_is_running, children)):
        assert time.monotonic() < end, "the child process outlived the server"
        time.sleep(0.05)


@pytest.mark.parametrize("delay_s", [0.1, 0.4])
def test_c11_the_server_ends_while_a_real_voice_is_loaded(
    delay_s: float, launch: Callable[..., ServerProcess], voices: Path, split_cache: Path
):
    server = launch("--data-dir", str(voices), "--voice", "random-medium", "--cache-dir", str(split_cache))
    assert server.uri
    time.sleep(delay_s)
    assert server.stop() < IN_TIME_S
    server.check_log()


@pytest.mark.parametrize("voice", ["random-medium", "espeak-en-us"])
def test_c11_the_server_ends_while_a_real_voice_speaks(
    voice: str, launch: Callable[..., ServerProcess], voices: Path, split_cache: Path
):
    server = launch("--data-dir", str(voices), "--voice", voice, "--cache-dir", str(split_cache))
    text = "The morning starts with fog, later the sun comes through and it gets warm. " * 100
    with ExitStack() as stack:
        answers = []
        for _ in range(3):
            connection = stack.enter_context(dial(server.uri))
            connection.sendall(frame("synthesize", {"text": text, "voice": {"name": voice}}))
            answer = stack.enter_context(connection.makefile("rb"))
            events = types_and_codes(answer)
            assert next(events)[0] == "audio-start"
            answers.append(events)
        assert server.stop() < IN_TIME_S
        for events in answers:
            assert ("error", "shutting-down") in list(events)
    server.check_log()


def test_c11_the_server_ends_while_a_real_model_listens(
    launch: Callable[..., ServerProcess], recognisers: Path, clips: list[Clip]
):
    server = launch("--data-dir", str(recognisers), "--asr-engine", "sensevoice")
    server.wait_for_log("listens by default")
    with ExitStack() as stack:
        answers = []
        for number in range(8):
            connection = stack.enter_context(dial(server.uri))
            connection.sendall(frame("transcribe") + start() + chunks(clips[-1].pcm * number, 4096) + stop())
            answers.append(stack.enter_context(connection.makefile("rb")))
        assert server.stop() < IN_TIME_S
        for answer in answers:
            assert list(types_and_codes(answer))[-1] in (("error", "shutting-down"), ("transcript-stop", None))
    server.check_log()


def _children(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in listing.stdout.split()]


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
