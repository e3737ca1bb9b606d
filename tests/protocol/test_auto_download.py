"""A server that offers the catalogue's voices and fetches one when it is first asked for."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_voices import TEXT, catalogue, offer, put, voice_files
from protocol.harness.client import Client, eventually
from protocol.harness.homeassistant import speak_whole
from protocol.harness.servers import ServerProcess
from serving_files import FileServer

OLD, NEW = "en_US-old-low", "en_US-new-low"
OLD_HZ, NEW_HZ = 16000, 8000


@pytest.fixture
def hub() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


@pytest.fixture
def serve(launch: Callable[..., ServerProcess], hub: FileServer, tmp_path: Path) -> Callable[..., ServerProcess]:
    """Start servers whose one installed voice is `OLD`."""
    data = tmp_path / "data"
    put(data / OLD, voice_files(OLD, OLD_HZ))

    def serve(*options: str, **environment: str) -> ServerProcess:
        local = {"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        folders = ("--data-dir", str(data), "--cache-dir", str(tmp_path / "cache"))
        return launch("--auto-download", *folders, *options, environment={**local, **environment}, log_level="info")

    return serve


async def voices(client: Client) -> dict[str, dict[str, Any]]:
    """Return what Home Assistant lists: the installed voices of the first program."""
    program = (await client.describe()).data["tts"][0]
    assert program["installed"]
    return {voice["name"]: voice for voice in program["voices"] if voice["installed"]}


async def becomes(client: Client, voice: str, rate_hz: int) -> bytes:
    """Ask for a voice by name, again and again, until it speaks itself; return what it said."""
    end = time.monotonic() + 60.0
    while (speech := await client.say(TEXT, voice)).rate_hz != rate_hz:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    return speech.pcm


async def test_a_voice_comes_while_the_default_speaks(serve, hub, tmp_path):
    files = voice_files(NEW, NEW_HZ, seed=2)
    catalogue(tmp_path / "data", offer(hub, NEW, files))
    go_on = threading.Event()
    hub.before = lambda asked: go_on.wait(30)
    server = serve("--voice", OLD)
    async with server.connect() as client:
        listed = await voices(client)
        assert {OLD, NEW, "en_GB-alan-low"} <= set(listed)
        assert listed[NEW]["languages"] == ["en-US", "en"]
        own = await client.say(TEXT)
        assert own.rate_hz == OLD_HZ
        # The names of other languages' voices, and no name, fetch nothing.
        await client.send("synthesize", {"text": TEXT, "voice": {"name": "de_DE-thorsten-medium"}})
        await client.expect_error("voice-not-found")
    assert not hub.asked
    async with server.connect() as client:
        # The hub does not answer yet.
        assert (await client.say(TEXT, NEW)).pcm == own.pcm
        await eventually(lambda: hub.asked)
        assert (await client.stream([TEXT], NEW)).pcm == own.pcm
        assert NEW in await voices(client)
        go_on.set()
        new = await becomes(client, NEW, NEW_HZ)
        assert new
        assert set(await voices(client)) == set(listed)
        assert await speak_whole(client, TEXT, {"name": NEW}, honours_error=True) == new
        assert (await client.say(TEXT)).pcm == own.pcm
    await asyncio.to_thread(server.wait_for_log, f"{NEW} is ready")
    log = server.log
    assert log.count(f"fetching {NEW} (") == 1
    assert log.count(f"{NEW} is ready") == 1
    assert log.index(f"voice {NEW} is not here yet; {OLD} speaks instead") < log.index(f"{NEW} is ready")
    server.check_log()
    server.stop()
    # As if it had always been there, and no more is asked.
    asked = len(hub.asked)
    server = serve("--voice", NEW, HF_HUB_OFFLINE="1")
    async with server.connect() as client:
        assert set(await voices(client)) == {OLD, NEW}
        assert (await client.say(TEXT)).pcm == new
    server.stop()
    assert len(hub.asked) == asked


async def test_ended_in_the_middle_it_goes_on_when_asked_again(serve, hub, tmp_path):
    files = voice_files(NEW, NEW_HZ)
    catalogue(tmp_path / "data", offer(hub, NEW, files, piece=500, pause_s=0.1))
    for end_it in (lambda server: server.stop() < 3.0, lambda server: server.kill() is None):
        before = hub.sent
        server = serve()
        async with server.connect() as client:
            assert (await client.say(TEXT, NEW)).rate_hz == OLD_HZ
            await eventually(lambda before=before: hub.sent > before + 2000)
        assert end_it(server)
        assert {path.name for path in (tmp_path / "data").iterdir() if not path.name.startswith(".")} == {
            OLD,
            "catalog.json",
        }
    for served in hub.served.values():
        served.pause_s = 0.0
    asked, sent = len(hub.asked), hub.sent
    server = serve()
    async with server.connect() as client:
        assert NEW in await voices(client)
        assert len(hub.asked) == asked
        await becomes(client, NEW, NEW_HZ)
    assert hub.sent - sent < sum(map(len, files.values()))
    server.check_log()
    server.stop()


async def test_what_cannot_be_fetched_is_told_once_and_no_request_fails(serve, hub, tmp_path):
    missing, wrong = "en_US-missing-low", "en_US-wrong-low"
    models = [offer(hub, name, voice_files(name, NEW_HZ)) for name in (missing, wrong)]
    catalogue(tmp_path / "data", *models)
    for path, served in hub.served.items():
        if missing in path:
            served.status = 404
        served.content = served.content[::-1]
    server = serve()
    async with server.connect() as client:
        for name in (missing, wrong, missing, wrong):
            assert (await client.say(TEXT, name)).rate_hz == OLD_HZ
        for name in (missing, wrong):
            await asyncio.to_thread(server.wait_for_log, f"{name} cannot be fetched: ")
        asked = len(hub.asked)
        for name in (missing, wrong):
            assert (await client.say(TEXT, name)).rate_hz == OLD_HZ
        assert {missing, wrong} <= set(await voices(client))
    assert len(hub.asked) == asked
    assert server.log.count(" WARNING wyoming_rknn.models") == 2
    assert server.log.count("a request after 1 min or later tries again") == 2
    server.check_log()
    server.stop()


async def test_a_default_voice_that_is_not_here_is_fetched_at_the_start(serve, hub, tmp_path):
    catalogue(tmp_path / "data", offer(hub, NEW, voice_files(NEW, NEW_HZ)))
    server = serve("--voice", NEW)
    await asyncio.to_thread(server.wait_for_log, f"{NEW} is ready")
    async with server.connect() as client:
        assert (await client.say(TEXT)).rate_hz == NEW_HZ
    server.check_log()
    server.stop()


async def test_offline_nothing_is_offered_that_is_not_here(serve, hub):
    server = serve(HF_HUB_OFFLINE="1")
    async with server.connect() as client:
        assert set(await voices(client)) == {OLD}
        await client.send("synthesize", {"text": TEXT, "voice": {"name": "en_GB-alan-low"}})
        await client.expect_error("voice-not-found")
    assert not hub.asked
    assert server.log.count("--auto-download is without effect: HF_HUB_OFFLINE forbids it") == 1
    server.stop()
