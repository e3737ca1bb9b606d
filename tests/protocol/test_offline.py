"""A machine without a network: what is installed works at once, and nobody is asked for anything."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from protocol.harness.client import PATIENCE_S, Client, Speech, connect
from protocol.harness.clips import Clip, plain
from protocol.harness.servers import ServerProcess
from protocol.harness.transcription import transcribe
from unplugged import recorded, without_network

Launch = Callable[..., ServerProcess]

START_S = 3.0
"""How long a start may take, from the command to the answer to `describe`."""
ATTEMPTS = 3
"""A machine that does something else at the same time may be late once."""
VOICE, RECOGNISERS = "sano-hfc", "sensevoice-overfit"
RECOGNISER = f"{RECOGNISERS}/model_quant"
SENTENCE = "The lamp in the kitchen is on."
ASKING = re.compile(
    r"connect\(|(sendto|sendmsg|sendmmsg)\(.*AF_INET|(open|openat)\(.*/(resolv\.conf|hosts|nsswitch\.conf|nscd)"
)
"""A call that turns to somebody else, or makes ready to ask for an address."""


def installed(folder: Path, *models: Path) -> Path:
    """Return a data folder with models."""
    folder.mkdir()
    for model in models:
        (folder / model.name).symlink_to(model)
    return folder


async def began(server: ServerProcess, uri: str, since: float) -> tuple[list[str], float]:
    """Return the voices and models that are offered, and how many seconds after `since` that was told."""
    while True:
        assert server.process.poll() is None, server.log
        assert time.monotonic() - since < PATIENCE_S, server.log
        try:
            async with connect(uri) as client:
                info = (await client.describe()).data
                took_s = time.monotonic() - since
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.sleep(0.01)
            continue
        listed = [("tts", "voices"), ("asr", "models")]
        return [each["name"] for kind, key in listed for program in info[kind] for each in program[key]], took_s


async def hears(client: Client, clip: Clip) -> None:
    answer = await transcribe(client, clip.pcm, name=RECOGNISER)
    assert plain(answer.text) == plain(clip.text)


async def test_without_a_network_a_server_is_there_within_3_s_and_speaks_and_hears(
    launch: Launch, tmp_path: Path, voices: Path, recognisers: Path, clips: list[Clip]
) -> None:
    """First with an empty cache: the voice is cut while the server answers already. Then with a full one."""
    data = installed(tmp_path / "data", voices / VOICE, recognisers / RECOGNISERS)
    uri = f"unix://{tmp_path}/socket"
    said: list[Speech] = []
    for is_first in (True, False):
        for attempt in range(ATTEMPTS):
            if is_first:
                cache = tmp_path / f"cache{attempt}"
            options = ("--data-dir", str(data), "--cache-dir", str(cache))
            begin = time.monotonic()
            # The port cannot be reached from here, yet is to be announced.
            server = launch(*options, uris=("tcp://0.0.0.0:0", uri), within=without_network(), zeroconf=is_first)
            names, took_s = await began(server, uri, begin)
            assert VOICE in names
            assert RECOGNISER in names
            if took_s < START_S:
                break
            server.stop()
        else:
            pytest.fail(f"no start of {ATTEMPTS} took less than {START_S} s, the last one {took_s:.1f} s")
        async with connect(uri) as client:
            said.append(await client.say(SENTENCE, VOICE))
            await hears(client, clips[0])
        if is_first:
            server.wait_for_log(" split in ")
        server.stop()
        server.check_log()
        assert server.log.count(" split in ") == is_first
        assert " WARNING " not in server.log
        assert server.log.count("zeroconf") == is_first, server.log
    assert said[0].rate_hz == 22050
    assert said[0].seconds > 1
    # Whole, since it was not cut yet, and then in windows: at most one step of 16 bits apart.
    first, second = (np.frombuffer(each.pcm, np.int16).astype(int) for each in said)
    assert np.abs(first - second).max() <= 1


@pytest.mark.parametrize("zeroconf", [True, False])
async def test_without_a_network_nobody_is_asked_for_anything(
    launch: Launch, tmp_path: Path, voices: Path, recognisers: Path, clips: list[Clip], zeroconf: bool
) -> None:
    data = installed(tmp_path / "data", voices / VOICE, recognisers / RECOGNISERS)
    uri, trace = f"unix://{tmp_path}/socket", tmp_path / "trace"
    # The one who writes down is a process of its own, so that signals reach the server.
    record = [*recorded(), "--daemonize", "--seccomp-bpf", "--signal=none", f"--output={trace}"]
    within = [*without_network(), *record, "--trace=%network,open,openat,exit_group"]
    uris = ("tcp://0.0.0.0:0", uri) if zeroconf else (uri,)
    begin = time.monotonic()
    server = launch("--data-dir", str(data), "--voice", VOICE, uris=uris, within=within, zeroconf=zeroconf)
    await began(server, uri, begin)
    async with connect(uri) as client:
        await client.say(SENTENCE)
        await hears(client, clips[0])
    server.stop()
    # Cut in two where another thread's call comes between.
    end = re.compile(rf"^{server.process.pid} +exit_group\(0\b", re.MULTILINE)
    while not end.search(text := trace.read_text(encoding="utf-8", errors="replace")):
        assert time.monotonic() - begin < 3 * PATIENCE_S, "the record has no end"
        await asyncio.sleep(0.02)
    done = [line.split(maxsplit=1)[1] for line in text.splitlines()]
    assert any(RECOGNISER in call for call in done)
    assert [call for call in done if ASKING.match(call)] == []
    if not zeroconf:
        # Without ports not even a socket that could.
        assert [call for call in done if call.startswith("socket(AF_INET")] == []
    server.check_log()
