"""A server that is ended before it serves, and one that is killed at work and leaves nothing broken on disk."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_voices import TEXT, catalogue, offer, put, voice_files
from protocol.harness.client import PATIENCE_S, eventually
from protocol.harness.servers import ServerProcess
from serving_files import FileServer, listing

OLD, NEW, CUT = "en_US-old-low", "en_US-new-low", "random-tiny"


@pytest.fixture
def hub() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


def cutting(server: ServerProcess) -> None:
    """Wait until a child process cuts the default voice."""
    end = time.monotonic() + PATIENCE_S
    while subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True).returncode:
        assert time.monotonic() < end, "no child process cuts the voice"
        time.sleep(0.02)


async def test_killed_while_it_cuts_and_while_it_downloads(
    launch: Callable[..., ServerProcess], voices: Path, hub: FileServer, tmp_path: Path
):
    data, cache = tmp_path / "data", tmp_path / "cache"
    put(data / OLD, voice_files(OLD, 16000))
    files = voice_files(NEW, 8000)
    catalogue(data, offer(hub, NEW, files, piece=500, pause_s=0.1))
    whole = listing(data)
    local = {"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    folders = ("--data-dir", str(data), "--data-dir", str(voices), "--cache-dir", str(cache))

    def start() -> ServerProcess:
        return launch("--auto-download", "--voice", CUT, *folders, environment=local, log_level="info")

    server = start()
    async with server.connect() as client:
        await asyncio.to_thread(cutting, server)
        await client.send("synthesize", {"text": TEXT, "voice": {"name": NEW}})
        await eventually(lambda: hub.sent > 1000)
        server.process.send_signal(signal.SIGKILL)
    server.kill()
    # What was there is as it was, and what is half done is none of the models.
    seen = {name: content for name, content in listing(data).items() if not name.startswith(".")}
    assert seen == whole
    assert f"{CUT} speaks by default" not in server.log

    for served in hub.served.values():
        served.pause_s = 0.0
    server = start()
    await asyncio.to_thread(server.wait_for_log, f"{CUT} speaks by default", 1, 120.0)
    async with server.connect() as client:
        assert (await client.say(TEXT)).pcm
        assert (await client.say(TEXT, OLD)).rate_hz == 16000
        await client.say(TEXT, NEW)
        await asyncio.to_thread(server.wait_for_log, f"{NEW} is ready")
        assert (await client.say(TEXT, NEW)).rate_hz == 8000
    got = listing(data)
    assert {name: got[f"{NEW}/{name}"] for name in files} == files
    server.check_log()
    server.stop()


@pytest.mark.parametrize("delay_s", [0.05, 0.3])
def test_ended_while_it_starts(delay_s: float, launch: Callable[..., ServerProcess]):
    server = launch()
    time.sleep(delay_s)
    begin = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)
    assert time.monotonic() - begin < 3.0
    server.check_log()
