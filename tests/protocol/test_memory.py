"""Models in memory, as a client sees it: voices come and go, and nothing waits for a voice that is being loaded."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from protocol.harness.client import Client, connect, eventually
from protocol.harness.servers import ServerProcess, serving

from wyoming_rknn.runtime.board import Board
from wyoming_rknn.runtime.onnx import OnnxGraph
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.piper.engine import create

MB = 1 << 20
TEXT = "Turn on the living room lights."
COUNT = 20


def install(graph: Path, folder: Path, name: str) -> None:
    """Put a voice into a folder under a name of its own."""
    folder.mkdir(exist_ok=True)
    # The config first: what has none yet would be told.
    (folder / f"{name}.onnx.json").write_bytes(graph.with_suffix(".onnx.json").read_bytes())
    (folder / f"{name}.onnx").symlink_to(graph)


async def names(client: Client) -> set[str]:
    info = await client.describe()
    return {voice["name"] for program in info.data["tts"] for voice in program["voices"]}


async def test_a_voice_that_is_removed_disappears_and_its_memory_is_freed(
    launch: Callable[..., ServerProcess], voices: Path, split_cache: Path, tmp_path: Path
):
    folder = tmp_path / "models"
    install(voices / "sano-hfc" / "sano-hfc.onnx", folder, "stays")
    server = launch("--data-dir", str(folder), "--cache-dir", str(split_cache), "--voice", "stays")
    server.wait_for_log("stays speaks by default")
    async with connect(server.uri) as client:
        before = await client.say(TEXT, "stays")
        rss_before = server.resources().rss_bytes
        install(voices / "random-medium" / "random-medium.onnx", folder, "comes")
        assert "comes" in await names(client)
        begin = time.monotonic()
        await client.say(TEXT, "comes")
        # Within 2 s on a machine with nothing else to do.
        assert time.monotonic() - begin < 20
        # Its graphs are 60 MB.
        assert server.resources().rss_bytes > rss_before + 90 * MB
        (folder / "comes.onnx").unlink()
        (folder / "comes.onnx.json").unlink()
        assert "comes" not in await names(client)
        await eventually(lambda: server.resources().rss_bytes < rss_before + 40 * MB)
        await client.send("synthesize", {"text": TEXT, "voice": {"name": "comes"}})
        await client.expect_error("voice-not-found")
    async with connect(server.uri) as client:
        assert (await client.say(TEXT, "stays")).pcm == before.pcm
    server.stop()
    server.check_log()


async def test_twenty_voices_in_turn_stay_within_the_budget(
    launch: Callable[..., ServerProcess], voices: Path, split_cache: Path, tmp_path: Path
):
    folder = tmp_path / "models"
    for number in range(COUNT):
        install(voices / "random-tiny" / "random-tiny.onnx", folder, f"v{number:02}")
    # Each counts as 67 MB and really takes some 20.
    options = ("--memory-budget", "210", "--preload", "none")
    server = launch("--data-dir", str(folder), "--cache-dir", str(split_cache), *options)
    async with connect(server.uri) as client:
        first = await client.say("One.", "v00")
        rss_of_one = server.resources().rss_bytes
        most = 0
        for number in range(1, COUNT):
            assert (await client.say("One.", f"v{number:02}")).pcm == first.pcm
            most = max(most, server.resources().rss_bytes)
    assert most < rss_of_one + 90 * MB
    assert server.log.count("is let go") == COUNT - 3
    async with connect(server.uri) as client:
        assert (await client.say("One.", "v00")).pcm == first.pcm
    assert "by default" not in server.log
    server.stop()
    server.check_log()


class Gated(Runtimes):
    """A CPU that loads no graph of one voice before it is told to."""

    def __init__(self) -> None:
        super().__init__(Board(), None, 1)
        self.asked, self.go_on = threading.Event(), threading.Event()

    def load(self, model: Path | bytes) -> OnnxGraph:
        if isinstance(model, Path) and model.name == "slow.onnx":
            self.asked.set()
            assert self.go_on.wait(30)
        return super().load(model)


@pytest.mark.parametrize("budget_bytes", [None, 1])
async def test_describe_and_other_voices_do_not_wait_for_a_voice_that_is_loaded(
    voices: Path, split_cache: Path, tmp_path: Path, budget_bytes: int | None
):
    folder, runtimes = tmp_path / "models", Gated()
    runtimes.memory.budget_bytes = budget_bytes
    install(voices / "sano-hfc" / "sano-hfc.onnx", folder, "quick")
    # One that cannot be cut is loaded from its own file.
    install(voices / "sano-duo" / "sano-duo.onnx", folder, "slow")
    settings = Settings(data_dir=(folder,), cache_dir=split_cache)
    engine = create(settings, runtimes)
    async with serving(engine) as server, server.connect() as waiting, server.connect() as client:
        try:
            await waiting.send("synthesize", {"text": TEXT, "voice": {"name": "slow"}})
            await eventually(runtimes.asked.is_set)
            assert {"quick", "slow"} <= await names(client)
            await client.say(TEXT, "quick")
            assert {"quick", "slow"} <= await names(client)
            with pytest.raises(TimeoutError):
                await waiting.receive(timeout_s=0.05)
        finally:
            runtimes.go_on.set()
        # The read that was given up took nothing of the answer.
        await waiting.hear()
    await asyncio.to_thread(engine.close)
