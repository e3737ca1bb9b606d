"""Servers to talk to: within the test's own event loop, and as processes of their own."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from protocol.harness import fake_engine, fake_recogniser
from protocol.harness.client import PATIENCE_S, connect, eventually
from protocol.harness.detector import Loudness
from protocol.harness.fake_engine import FakeEngine, Script
from protocol.harness.fake_recogniser import FakeRecogniser, RecogniserScript

from wyoming_rknn.asr.engine import AsrEngine
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.runtime.scheduler import Scheduler
from wyoming_rknn.server.app import Server
from wyoming_rknn.server.service import Service
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.engine import TtsEngine
from wyoming_rknn.tts.programs import Programs

ROOT = Path(__file__).parents[3]
LOCAL = "tcp://127.0.0.1:0"


@dataclass(frozen=True)
class Running:
    """A server in this process."""

    uris: list[str]
    engine: FakeEngine
    recognisers: Sequence[FakeRecogniser]
    server: Server

    @property
    def uri(self) -> str:
        return self.uris[0]

    @property
    def recogniser(self) -> FakeRecogniser:
        return self.recognisers[0]

    def connect(self, **options: Any) -> Any:
        return connect(self.uri, **options)


@asynccontextmanager
async def serving(
    *engines: TtsEngine,
    script: Script | None = None,
    uri: str | None = LOCAL,
    recognisers: Sequence[AsrEngine] = (),
    detector: Callable[[], Any] | None = Loudness,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Run a server in this event loop; speaks with a fake engine if none is given.

    The speech detector is a scripted one; `None` stands for the real one.
    """
    engines = engines or (FakeEngine(script),)
    chosen = Settings(uri=() if uri is None else (uri,), no_zeroconf=True, **{"sentence_silence": 0.0, **settings})
    scheduler = Scheduler()
    options = {} if detector is None else {"detector": lambda: nullcontext(detector())}
    programs = Programs(engines, chosen), AsrPrograms(recognisers, chosen)
    server = Server(Service(chosen, scheduler, *programs, **options))  # type: ignore[arg-type]
    before = asyncio.all_tasks()
    try:
        await server.start()
        yield Running(server.addresses, engines[0], recognisers, server)  # type: ignore[arg-type]
    except BaseException:
        await server.close()
        scheduler.close()
        raise
    await server.close()
    assert scheduler.close(PATIENCE_S)
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    assert not left, f"tasks left behind: {left}"
    await eventually(lambda: not _listening_threads())


@asynccontextmanager
async def listening(
    *recognisers: AsrEngine, script: RecogniserScript | None = None, **options: Any
) -> AsyncIterator[Running]:
    """Run a server that listens with a fake recogniser if none is given; nothing of an utterance may outlive it."""
    recognisers = recognisers or (FakeRecogniser(script),)
    async with serving(recognisers=recognisers, **options) as server:
        yield server
    fakes = [recogniser for recogniser in recognisers if isinstance(recogniser, FakeRecogniser)]
    assert all(fake.open_sessions == 0 and fake.decoding == 0 for fake in fakes)


def _listening_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith((" listener", "asr decoder"))]


@dataclass(frozen=True)
class Resources:
    """What a process holds."""

    descriptors: int
    threads: int
    rss_bytes: int


class ServerProcess:
    """`wyoming-rknn serve` in a process of its own, with its log in a file; `within` are words before the command."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        uris: Sequence[str] = (LOCAL,),
        script: Script | None = None,
        recogniser: RecogniserScript | None = None,
        log_level: str = "debug",
        environment: dict[str, str] | None = None,
        within: Sequence[str] = (),
        zeroconf: bool = False,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
    ) -> None:
        self.log_file = folder / "server.log"
        command = [*within, sys.executable, "-m", "wyoming_rknn", "serve", "--log-level", log_level]
        if not zeroconf:
            command.append("--no-zeroconf")
        for uri in uris:
            command += ["--uri", uri]
        if script is not None:
            command += ["--tts-engine", "fake"]
        if recogniser is not None:
            command += ["--asr-engine", "fake"]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("WYOMING_RKNN_")}
        path = [str(ROOT), str(ROOT / "tests"), str(_plug_in(folder))]
        if "PYTHONPATH" in inherited:
            path.append(inherited["PYTHONPATH"])
        home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "XDG_DATA_HOME": str(folder / "data")}
        scripted = {fake_engine.SCRIPT_VARIABLE: json.dumps(asdict(script or Script()))}
        if recogniser is not None:
            scripted[fake_recogniser.SCRIPT_VARIABLE] = json.dumps(asdict(recogniser))
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                stdin=stdin,
                stdout=stdout,
                stderr=log,
                cwd=folder,
                env={**inherited, **home, **scripted, "PYTHONPATH": os.pathsep.join(path), **(environment or {})},
            )
        self._expected = len([uri for uri in uris if not uri.startswith("stdio")])

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def uris(self) -> list[str]:
        """Return where the server listens, once it does."""
        self.wait_for_log("listening on", self._expected)
        return re.findall(r'listening on ((?:tcp|unix)://[^\s"]+)', self.log)

    @property
    def uri(self) -> str:
        return self.uris[0]

    def wait_for_log(self, text: str, times: int = 1, patience_s: float = PATIENCE_S) -> None:
        end = time.monotonic() + patience_s
        while self.log.count(text) < times:
            assert self.process.poll() is None, f"exit code {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < end, f"no {text!r} in the log:\n{self.log}"
            time.sleep(0.02)

    def connect(self, **options: Any) -> Any:
        return connect(self.uri, **options)

    def describe(self) -> None:
        """Ask and wait for the answer, with plain blocking sockets."""
        host, _, port = self.uri.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
            connection.sendall(b'{"type":"describe"}\n')
            with connection.makefile("rb") as answer:
                assert b'"info"' in answer.readline()

    def resources(self) -> Resources:
        folder = Path("/proc") / str(self.process.pid)
        status = (folder / "status").read_text()
        rss = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert rss
        return Resources(
            len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir())), 1024 * int(rss[1])
        )

    def cpu_s(self) -> float:
        """Return how many seconds the process and its children that ended have computed."""
        fields = (Path("/proc") / str(self.process.pid) / "stat").read_text().rpartition(")")[2].split()
        # utime, stime, cutime, cstime: fields 14 to 17 of proc_pid_stat(5); two are cut off before these.
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Send a signal and return how many seconds the process took to exit with code 0."""
        begin = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        took = time.monotonic() - begin
        assert code == 0, f"exit code {code}:\n{self.log}"
        return took

    def check_log(self) -> None:
        """Assert that nothing went wrong that nobody meant to."""
        log = self.log
        for sign in ("Traceback", " ERROR ", " CRITICAL ", "never awaited", "never retrieved", "ResourceWarning"):
            assert sign not in log, log

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def _plug_in(folder: Path) -> Path:
    """Write the metadata by which the server finds the fake engines, and return the folder to look in."""
    home = folder / "plug-in"
    metadata = home / "fakes-1.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fakes\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[wyoming_rknn.tts]\nfake = protocol.harness.fake_engine:create\n"
        "[wyoming_rknn.asr]\nfake = protocol.harness.fake_recogniser:create\n"
    )
    return home
