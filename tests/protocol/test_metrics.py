"""Numbers for Prometheus: what a scrape shows of requests that a real server has answered."""

import asyncio
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from protocol.harness.client import PATIENCE_S, Client, connect, eventually, frame
from protocol.harness.fake_engine import Script
from protocol.harness.fake_recogniser import RecogniserScript
from protocol.harness.log import Log
from protocol.harness.servers import LOCAL, Running, ServerProcess, listening, serving
from protocol.harness.transcription import answer, chunks, quiet, speak, speech, start, stop, transcribe

from wyoming_rknn.errors import UsageError

SECRET = "Xylophone marmalade."
PCM = speech(0.5)
REQUESTS = "wyoming_rknn_requests_total"
Numbers = dict[tuple[str, ...], float]


async def scrape(server: Running) -> tuple[str, Numbers]:
    """Return the text, and from it {(name, *label values in the order of their names): value}."""
    assert server.server.metrics_url
    text = await asyncio.to_thread(fetch, server.server.metrics_url)
    return text, numbers(text)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        assert answer.status == 200
        return str(answer.read(), "utf-8")


def numbers(text: str) -> Numbers:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def shows(server: Running, *key: str, value: float = 1) -> Numbers:
    """Wait until a number has a value: what is counted at a request's end may come after its last event."""
    end = time.monotonic() + PATIENCE_S
    while (found := (await scrape(server))[1]).get(key) != value:
        assert time.monotonic() < end, (key, found)
        await asyncio.sleep(0.02)
    return found


async def test_speech_is_counted(log: Log):
    async with serving(metrics_uri=LOCAL) as server, server.connect() as client:
        await client.say(SECRET)
        spoken = await client.stream([SECRET])
        found = await shows(server, REQUESTS, "fake", "tts", "ok", value=2)
        assert found["wyoming_rknn_first_audio_seconds_count", "fake"] == 2
        assert 0 < found["wyoming_rknn_first_audio_seconds_sum", "fake"] < PATIENCE_S
        assert found["wyoming_rknn_audio_seconds_total", "fake", "tts"] == pytest.approx(2 * spoken.seconds)
        assert found["wyoming_rknn_connections",] == 1
        assert found["wyoming_rknn_requests_active",] == 0
        done = {key: value for key, value in found.items() if key[:2] == ("wyoming_rknn_computations_total", "cpu")}
        assert sum(done.values()) >= 4
        assert sum(found[("wyoming_rknn_device_busy_seconds_total", *key[1:])] for key in done) > 0
        assert "marmalade" not in (await scrape(server))[0].lower()
    log.check()


async def test_listening_is_counted(log: Log):
    async with listening(metrics_uri=LOCAL) as server, server.connect() as client:
        await transcribe(client, PCM)
        await transcribe(client, quiet(0.5))
        found = await shows(server, REQUESTS, "fake", "asr", "ok", value=2)
        assert found["wyoming_rknn_transcript_latency_seconds_count", "fake"] == 2
        assert 0 <= found["wyoming_rknn_transcript_latency_seconds_sum", "fake"] < PATIENCE_S
        assert found["wyoming_rknn_audio_seconds_total", "fake", "asr"] == pytest.approx(1.0, abs=0.1)
    log.check()


async def test_errors_are_counted_by_their_code(log: Log):
    async with listening(metrics_uri=LOCAL, script=RecogniserScript(fail="finish")) as server:
        for event in (
            frame("synthesize", {"text": SECRET, "voice": {"name": SECRET}}),
            frame("synthesize", {"text": [SECRET]}),
            b"not Wyoming\n",
        ):
            async with server.connect() as client:
                await client.write(event)
                await client.rest()
        text, found = await scrape(server)
        assert found[REQUESTS, "", "tts", "voice-not-found"] == 1
        assert (REQUESTS, "", "tts", "invalid-request") not in found
        errors = {key[1]: value for key, value in found.items() if key[0] == "wyoming_rknn_errors_total"}
        assert errors == {"voice-not-found": 1, "invalid-request": 1, "protocol-error": 1}
        assert "marmalade" not in text.lower()
    log.check(warnings=3)


async def test_engines_that_fail_are_counted(log: Log):
    async with serving(metrics_uri=LOCAL, script=Script(fail="Fail")) as server:
        async with server.connect() as client:
            await client.send("synthesize", {"text": "Fail."})
            await client.expect_error("engine-error")
        found = await shows(server, REQUESTS, "fake", "tts", "engine-error")
        assert ("wyoming_rknn_first_audio_seconds_count", "fake") not in found
        assert found["wyoming_rknn_computations_failed_total", "cpu", "eager"] == 1
        assert found["wyoming_rknn_npu_fallbacks_total",] == 0
    log.check(warnings=1)


async def _begun(client: Client, server: Running) -> None:
    await client.write(start() + chunks(PCM))
    await eventually(lambda: server.recogniser.sessions)


async def test_who_leaves_is_counted_as_such(log: Log):
    async with listening(metrics_uri=LOCAL, script=RecogniserScript(decode_s=0.0)) as server:
        async with server.connect() as client:
            await _begun(client, server)
            await shows(server, "wyoming_rknn_requests_active")
            client.reset()
        found = await shows(server, REQUESTS, "fake", "asr", "cancelled")
        assert ("wyoming_rknn_transcript_latency_seconds_count", "fake") not in found
        await shows(server, "wyoming_rknn_connections", value=0)
    async with serving(metrics_uri=LOCAL, script=Script(window_s=0.05)) as server:
        async with server.connect() as client:
            await client.send("synthesize", {"text": 50 * SECRET})
            await client.expect("audio-start")
            client.reset()
        found = await shows(server, REQUESTS, "fake", "tts", "cancelled")
        assert found["wyoming_rknn_first_audio_seconds_count", "fake"] == 1
        assert 0 < found["wyoming_rknn_audio_seconds_total", "fake", "tts"] < 10
    log.check()


async def test_who_begins_anew_has_given_up_once(log: Log):
    async with listening(metrics_uri=LOCAL) as server, server.connect() as client:
        await client.send("synthesize-start")
        await client.send("synthesize-chunk", {"text": "This"})
        await client.stream([SECRET])
        await _begun(client, server)
        await transcribe(client, PCM)
        await shows(server, REQUESTS, "fake", "tts", "cancelled")
        await shows(server, REQUESTS, "fake", "tts", "ok")
        await shows(server, REQUESTS, "fake", "asr", "ok")
        found = await shows(server, REQUESTS, "fake", "asr", "cancelled")
        assert sum(value for key, value in found.items() if key[0] == REQUESTS) == 4
    log.check()


async def test_who_begins_anew_after_pieces_were_told_has_given_up_once(log: Log):
    script = RecogniserScript(partial_s=0.0)
    async with listening(metrics_uri=LOCAL, script=script, partial_interval=0.1) as server, server.connect() as client:
        await client.write(start())
        speaking = asyncio.create_task(speak(client, speech(1.6)))
        await client.expect("transcript-start")
        speaking.cancel()
        await client.write(start() + chunks(PCM) + stop())
        await client.until("transcript-stop")
        await answer(client)
        found = await shows(server, REQUESTS, "fake", "asr", "ok")
        assert found[REQUESTS, "fake", "asr", "cancelled"] == 1
    log.check()


async def test_who_leaves_during_the_decoding_has_given_up_once(log: Log):
    async with listening(metrics_uri=LOCAL, script=RecogniserScript(decode_s=3600.0)) as server:
        async with server.connect() as client:
            await client.write(start() + chunks(PCM) + stop())
            await eventually(lambda: server.recogniser.decoding)
            client.reset()
        await shows(server, "wyoming_rknn_requests_active", value=0)
        await shows(server, REQUESTS, "fake", "asr", "cancelled")
        await asyncio.sleep(0.05)
        await shows(server, REQUESTS, "fake", "asr", "cancelled")
    log.check()


async def test_what_is_refused_for_lack_of_room_is_counted(log: Log):
    async with listening(metrics_uri=LOCAL, max_requests=1, max_connections=2) as server:
        async with server.connect() as holder, server.connect() as other:
            await _begun(holder, server)
            async with server.connect() as third:
                await third.expect_error("busy")
            found = await shows(server, "wyoming_rknn_errors_total", "busy")
            assert not [key for key in found if key[0] == REQUESTS]
            await other.write(start() + chunks(PCM))
            await other.expect_error("busy")
            found = await shows(server, "wyoming_rknn_errors_total", "busy", value=2)
            assert not [key for key in found if key[0] == REQUESTS]
        async with server.connect() as client:
            await shows(server, "wyoming_rknn_requests_active", value=0)
            await _begun_speaking(client)
            async with server.connect() as other:
                await other.send("synthesize", {"text": SECRET})
                await other.expect_error("busy")
            await shows(server, REQUESTS, "fake", "tts", "busy")
    log.check(warnings=3)


async def _begun_speaking(client: Client) -> None:
    await client.send("synthesize-start")
    await client.send("synthesize-chunk", {"text": f"{SECRET} And"})
    await client.expect("audio-start")


async def test_describe_stays_quick_while_numbers_are_fetched(launch: Callable[..., ServerProcess]):
    server = launch("--metrics-uri", LOCAL, script=Script(), recogniser=RecogniserScript())
    server.wait_for_log("metrics for Prometheus at ")
    url = server.log.partition("metrics for Prometheus at ")[2].split()[0]
    stop = asyncio.Event()
    scrapes = 0

    async def poll() -> None:
        nonlocal scrapes
        while not stop.is_set():
            assert "wyoming_rknn_build_info" in await asyncio.to_thread(fetch, url)
            scrapes += 1

    async with connect(server.uri) as client:
        polling = [asyncio.create_task(poll()) for _ in range(3)]
        took = []
        for _ in range(50):
            begin = time.monotonic()
            await client.describe()
            took.append(time.monotonic() - begin)
            await asyncio.sleep(0.005)
        await client.say(SECRET)
        stop.set()
        await asyncio.gather(*polling)
    assert scrapes >= 3
    # Some milliseconds on a machine with nothing else to do.
    assert max(took) < 1.0, took
    assert numbers(fetch(url))["wyoming_rknn_audio_seconds_total", "fake", "tts"] > 0
    assert server.stop() < 3
    server.check_log()


async def test_an_address_in_use_is_wrong_use(log: Log):
    async with serving(metrics_uri=LOCAL) as server:
        taken = str(server.server.metrics_url).removeprefix("http").removesuffix("/metrics")
        for other in (f"tcp{taken}", server.uri):
            with pytest.raises(UsageError, match=r"in use.*with --metrics-uri$"):
                async with serving(metrics_uri=other):
                    pass
    log.check()


async def test_without_the_setting_nothing_is_served(log: Log):
    settings: dict[str, Any] = {}
    async with serving(**settings) as server:
        assert server.server.metrics_url is None
    assert len(log.infos) == 1
