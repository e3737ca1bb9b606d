"""Conformance items 17, 18, 22 to 25 and 30: what people said, a real detector and a real model, over the wire."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from protocol.harness.client import Client, connect, frame
from protocol.harness.clips import Clip, plain
from protocol.harness.servers import ServerProcess
from protocol.harness.transcription import (
    USUAL,
    Layout,
    answer,
    chunks,
    quiet,
    ragged,
    speak,
    start,
    stop,
    transcribe,
)

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server(recognisers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server that listens with a real model; nothing may go wrong in it."""
    options = ("--data-dir", str(recognisers), "--asr-engine", "sensevoice")
    server = ServerProcess(tmp_path_factory.mktemp("server"), *options)
    try:
        server.wait_for_log("listens by default")
        yield server
        server.stop()
        server.check_log()
        assert " WARNING " not in server.log
    finally:
        server.kill()


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(server.uri) as client:
        yield client


async def _understands(client: Client, clips: list[Clip], sizes, layout: Layout = USUAL) -> None:
    """Assert that all clips are understood, one after the other."""
    wrong = {}
    for clip in clips:
        found = await transcribe(client, clip.encoded(layout), sizes, layout)
        if plain(found.text) != plain(clip.text):
            wrong[clip.path.name] = found.text
    assert not wrong


async def test_c17_all_clips_in_chunks_of_home_assistant(client: Client, clips: list[Clip]):
    assert len(clips) == 26
    await _understands(client, clips, 320)


async def test_c17_all_clips_in_one_chunk_each(client: Client, clips: list[Clip]):
    await _understands(client, clips, MEGABYTE)


async def test_c17_a_clip_in_chunks_of_one_byte(client: Client, clips: list[Clip]):
    await _understands(client, clips[:1], 1)


async def test_c18_all_clips_in_odd_chunks(client: Client, clips: list[Clip]):
    await _understands(client, clips, [next(ragged(seed, 4096)) for seed in range(200)])


LAYOUTS = [Layout(22050, 2, 2), Layout(44100, 3, 1), Layout(48000), Layout(16000, 3, 2)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.rate}-{8 * layout.width}-{layout.channels}")
async def test_c22_all_clips_in_other_formats(layout: Layout, client: Client, clips: list[Clip]):
    await _understands(client, clips, layout.second_bytes // 50, layout)


@pytest.mark.parametrize("layout", [Layout(96000, 4, 1), Layout(48000, 2, 6), Layout(32000, 2, 4)], ids=str)
async def test_c22_clips_in_rare_formats(layout: Layout, client: Client, clips: list[Clip]):
    await _understands(client, clips[::6], layout.second_bytes // 50, layout)


async def test_c23_a_clip_whose_format_changes(client: Client, clips: list[Clip]):
    for clip in clips[-3:]:
        half = len(clip.pcm) // 4 * 2
        stereo = np.repeat(np.frombuffer(clip.pcm[half:], "<i2"), 2).tobytes()
        await client.write(frame("transcribe") + start() + chunks(clip.pcm[:half]))
        await client.write(chunks(stereo, layout=Layout(channels=2)) + stop())
        assert plain((await answer(client)).text) == plain(clip.text)


async def test_c25_languages_are_found_out_and_told(client: Client, clips: list[Clip]):
    for clip in clips:
        if clip.path.name.startswith("tts_"):
            language = clip.path.name.split("_")[1]
            for asked in ({}, {"language": language}):
                found = await transcribe(client, clip.pcm, **asked)
                assert plain(found.text) == plain(clip.text)
                assert found.language == ("en" if language == "de" else language)


async def test_c30_eight_clips_at_once(server: ServerProcess, clips: list[Clip]):
    async def hear(number: int) -> None:
        async with connect(server.uri) as client:
            await _understands(client, clips[number::8], 320)

    await asyncio.gather(*map(hear, range(8)))


async def test_c30_eight_live_commands_are_answered_at_once(server: ServerProcess, clips: list[Clip]):
    waits: list[float] = []
    describes: list[float] = []

    async def hear(clip: Clip) -> None:
        async with connect(server.uri) as client:
            await client.write(frame("transcribe") + start())
            await speak(client, clip.pcm + quiet(0.7))
            asked = time.monotonic()
            await client.write(stop())
            found = await answer(client)
            waits.append(found.at - asked)
            assert plain(found.text) == plain(clip.text)

    async def describe() -> None:
        async with connect(server.uri) as client:
            while not hearing.done():
                begin = time.monotonic()
                await client.describe()
                describes.append(time.monotonic() - begin)
                await asyncio.sleep(0.01)

    hearing = asyncio.gather(*map(hear, clips[:8]))
    await asyncio.gather(hearing, describe())
    assert sorted(waits)[4] < 0.1
    assert sorted(describes)[int(0.98 * len(describes))] < 0.25


async def test_c24_long_speech_gives_a_text(client: Client, clips: list[Clip]):
    # Longer than any one decoding; the tests' model knows each clip by itself only.
    chosen = [clip for clip in clips if clip.path.name.startswith("en_")][-6:]
    pcm = b"".join(clip.pcm + quiet(0.8) for clip in chosen * 3)
    assert len(pcm) > 2 * 16000 * 60
    assert (await transcribe(client, pcm, 4096)).text
