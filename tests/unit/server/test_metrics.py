import asyncio
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from itertools import pairwise
from urllib.parse import urlsplit

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from wyoming_rknn import __version__
from wyoming_rknn.asr.programs import AsrPrograms
from wyoming_rknn.errors import Busy, Cancelled, EngineError, UsageError, VoiceNotFound
from wyoming_rknn.runtime.memory import Memory
from wyoming_rknn.runtime.scheduler import CPU, NPU, Scheduler
from wyoming_rknn.server import metrics as module
from wyoming_rknn.server.connection import Disconnected
from wyoming_rknn.server.metrics import BUCKETS_S, CLIENTS, HEAD_BYTES, Metrics, Scrapes
from wyoming_rknn.server.service import Finished, Service, outcome_of
from wyoming_rknn.settings import Settings
from wyoming_rknn.tts.programs import Programs

LOCAL = "tcp://127.0.0.1:0"
PATIENCE_S = 20.0
NUMBERS = b"wyoming_rknn_requests_total 1\n"


@pytest.fixture
def scheduler():
    scheduler = Scheduler({CPU: 1, NPU: 1})
    yield scheduler
    scheduler.close(PATIENCE_S)


@pytest.fixture
def service(scheduler):
    settings = Settings()
    return Service(settings, scheduler, Programs((), settings), AsrPrograms((), settings))


@pytest.fixture
def metrics(service):
    return Metrics(service, lambda: 3)


def parsed(metrics):
    return list(text_string_to_metric_families(metrics.render().decode()))


def samples(metrics):
    """Return {(name, *label values in the order of their names): value}."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parsed(metrics)
        for sample in family.samples
    }


def test_requests_are_counted_by_kind_engine_and_outcome(metrics):
    metrics.finished(Finished("tts", "piper", "ok", 2.5, 0.03))
    metrics.finished(Finished("tts", "piper", "ok", 1.5, 0.3))
    metrics.finished(Finished("tts", "piper", "cancelled", 1.0))
    metrics.finished(Finished("tts", "", "voice-not-found"))
    metrics.finished(Finished("asr", "sensevoice", "ok", 4.0, 0.0))
    found = samples(metrics)
    requests = {key[1:]: value for key, value in found.items() if key[0] == "wyoming_rknn_requests_total"}
    assert requests == {
        ("piper", "tts", "ok"): 2,
        ("piper", "tts", "cancelled"): 1,
        ("", "tts", "voice-not-found"): 1,
        ("sensevoice", "asr", "ok"): 1,
    }
    assert found["wyoming_rknn_audio_seconds_total", "piper", "tts"] == 5.0
    assert found["wyoming_rknn_audio_seconds_total", "sensevoice", "asr"] == 4.0
    assert found["wyoming_rknn_first_audio_seconds_count", "piper"] == 2
    assert found["wyoming_rknn_first_audio_seconds_sum", "piper"] == pytest.approx(0.33)
    assert found["wyoming_rknn_first_audio_seconds_bucket", "piper", "0.02"] == 0
    assert found["wyoming_rknn_first_audio_seconds_bucket", "piper", "0.05"] == 1
    assert found["wyoming_rknn_first_audio_seconds_bucket", "piper", "0.5"] == 2
    assert found["wyoming_rknn_transcript_latency_seconds_bucket", "sensevoice", "0.001"] == 1
    assert ("wyoming_rknn_first_audio_seconds_count", "sensevoice") not in found


def test_buckets_reach_from_a_millisecond_to_ten_seconds():
    assert (BUCKETS_S[0], BUCKETS_S[-1]) == (0.001, 10.0)
    assert all(1.5 <= after / before <= 3 for before, after in pairwise(BUCKETS_S))


def test_errors_connections_and_requests_under_way(metrics, service):
    metrics.reported(Busy("full"))
    metrics.reported(Busy("full"))
    metrics.reported(VoiceNotFound("secret", ()))
    service.begin()
    found = samples(metrics)
    assert found["wyoming_rknn_errors_total", "busy"] == 2
    assert found["wyoming_rknn_errors_total", "voice-not-found"] == 1
    assert found["wyoming_rknn_connections",] == 3
    assert found["wyoming_rknn_requests_active",] == 1
    assert b"secret" not in metrics.render()


def test_devices_tell_what_they_did_and_what_waits(metrics, scheduler):
    stream = scheduler.stream()
    stream.submit(lambda: time.sleep(0.02), at_s=0.0, device=NPU).result()
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(PATIENCE_S)

    running = stream.submit(work, at_s=0.0, device=NPU)
    begun.wait(PATIENCE_S)
    far = [scheduler.stream(background=True).submit(int, at_s=0.0, device=NPU) for _ in range(2)]
    near = scheduler.stream().submit(int, at_s=0.0, device=NPU)
    found = samples(metrics)
    assert found["wyoming_rknn_computations_total", NPU, "eager"] == 1
    assert found["wyoming_rknn_device_busy_seconds_total", NPU, "eager"] >= 0.02
    depth = {key[1:]: value for key, value in found.items() if key[0] == "wyoming_rknn_queue_depth"}
    assert depth == {
        (device, priority): {(NPU, "background"): 2, (NPU, "eager"): 1}.get((device, priority), 0)
        for device in (CPU, NPU)
        for priority in ("critical", "eager", "fill", "background")
    }
    time.sleep(0.05)
    go_on.set()
    for future in (running, near, *far):
        future.result(PATIENCE_S)
    found = samples(metrics)
    assert found["wyoming_rknn_computations_total", NPU, "background"] == 2
    assert found["wyoming_rknn_queue_wait_seconds_total", NPU, "background"] >= 0.1
    assert found["wyoming_rknn_queue_depth", NPU, "background"] == 0


def test_what_fails_on_the_npu_is_a_fallback(metrics, scheduler):
    def fail(error):
        raise error

    stream = scheduler.stream()
    for device, error in ((NPU, EngineError("one")), (NPU, EngineError("two")), (CPU, EngineError("three"))):
        with pytest.raises(EngineError):
            stream.submit(lambda error=error: fail(error), at_s=0.0, device=device).result()
    with pytest.raises(Cancelled):
        stream.submit(lambda: fail(Cancelled()), at_s=0.0, device=NPU).result()
    found = samples(metrics)
    assert found["wyoming_rknn_npu_fallbacks_total",] == 2
    assert found["wyoming_rknn_computations_failed_total", NPU, "eager"] == 2
    assert found["wyoming_rknn_computations_failed_total", CPU, "eager"] == 1


def test_without_an_npu_there_are_no_fallbacks(service):
    service.scheduler = Scheduler()
    found = samples(Metrics(service, int))
    assert found["wyoming_rknn_npu_fallbacks_total",] == 0
    assert not [key for key in found if NPU in key]


def test_models_in_memory(service):
    service.memory = Memory(1000)
    metrics = Metrics(service, int)
    lease = service.memory.admit("voice", 300, lambda used_too: False)
    found = samples(metrics)
    assert found["wyoming_rknn_models",] == 1
    assert found["wyoming_rknn_models_bytes",] == 300
    assert found["wyoming_rknn_models_budget_bytes",] == 1000
    lease.end()
    assert samples(metrics)["wyoming_rknn_models",] == 0


def test_no_budget_is_no_number(metrics):
    assert ("wyoming_rknn_models_budget_bytes",) not in samples(metrics)


def test_the_process_and_the_build(metrics):
    (build,) = (family for family in parsed(metrics) if family.name == "wyoming_rknn_build_info")
    assert build.samples[0].labels["version"] == __version__
    assert samples(metrics)["process_resident_memory_bytes",] > 1 << 20


def test_the_text_is_well_formed_and_has_no_creation_times(metrics):
    metrics.finished(Finished("tts", "piper", "ok", 2.5, 0.03))
    for family in parsed(metrics):
        assert family.name.startswith(("wyoming_rknn_", "process_"))
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
    assert b"_created" not in metrics.render()


def test_servers_do_not_share_their_numbers(metrics, service):
    before = prometheus_client.generate_latest()
    other = Metrics(service, int)
    metrics.reported(Busy("full"))
    assert ("wyoming_rknn_errors_total", "busy") not in samples(other)
    assert b"wyoming_rknn" not in before + prometheus_client.generate_latest()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (VoiceNotFound("x", ()), "voice-not-found"),
        (Busy("x"), "busy"),
        (Cancelled(), "cancelled"),
        (Disconnected(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
        (ValueError(), "internal-error"),
    ],
)
def test_outcomes(error, outcome):
    assert outcome_of(error) == outcome


def test_who_wants_no_numbers_does_not_load_their_library():
    code = "import sys, wyoming_rknn.cli.serve, wyoming_rknn.server.app; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Scrapes.


@asynccontextmanager
async def scraping(render=lambda: NUMBERS):
    before = asyncio.all_tasks()
    scrapes = Scrapes(LOCAL, render)
    await scrapes.start()
    try:
        yield scrapes
    finally:
        await scrapes.close()
        assert not {task for task in asyncio.all_tasks() - before if not task.done()}


async def connect(scrapes):
    url = urlsplit(scrapes.url)
    return await asyncio.open_connection(url.hostname, url.port)


async def ask(scrapes, request):
    """Return the status, the head's fields, and the body of the answer to a request."""
    reader, writer = await connect(scrapes)
    try:
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status.startswith("HTTP/1.1 ")
    return int(status.split(" ")[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize("target", ["/metrics", "/metrics?name[]=up"])
async def test_a_scrape_is_answered(target):
    async with scraping() as scrapes:
        assert scrapes.url.startswith("http://127.0.0.1:")
        assert scrapes.url.endswith("/metrics")
        status, fields, body = await ask(scrapes, f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n".encode())
    assert (status, body) == (200, NUMBERS)
    assert fields["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert fields["Content-Length"] == str(len(NUMBERS))
    assert fields["Connection"] == "close"


async def test_a_head_has_no_body():
    async with scraping() as scrapes:
        status, fields, body = await ask(scrapes, b"HEAD /metrics HTTP/1.0\r\n\r\n")
    assert (status, body) == (200, b"")
    assert fields["Content-Length"] == str(len(NUMBERS))


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000000), 405),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"HEAD /other HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics SPDY/3\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\xff\xfe\r\n\r\n", 400),
        (b'{"type":"describe"}\n\r\n\r\n', 400),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"x" * 3 * HEAD_BYTES + b"\r\n\r\n", 431),
    ],
    ids=["post", "upload", "root", "path", "head", "http09", "spdy", "empty", "tls", "wyoming", "large"],
)
async def test_what_is_no_scrape_is_refused(request_bytes, expected, caplog):
    async with scraping() as scrapes:
        status, fields, body = await ask(scrapes, request_bytes)
        assert status == expected
        assert NUMBERS not in body
        assert ("Allow" in fields) == (expected == 405)
        assert (await ask(scrapes, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 200
    assert not caplog.records


async def test_a_head_in_pieces_is_put_together():
    async with scraping() as scrapes:
        reader, writer = await connect(scrapes)
        for byte in b"GET /metrics HTTP/1.1\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await asyncio.wait_for(reader.read(), PATIENCE_S)).endswith(NUMBERS)
        writer.close()


async def test_who_leaves_in_the_middle_is_forgotten(caplog):
    async with scraping() as scrapes:
        reader, writer = await connect(scrapes)
        writer.write(b"GET /met")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()
    assert not caplog.records


async def test_who_sends_slowly_or_nothing_is_cut_off(monkeypatch):
    monkeypatch.setattr(module, "REQUEST_S", 0.2)
    async with scraping() as scrapes:
        clients = [await connect(scrapes) for _ in range(3)]
        begin = time.monotonic()
        clients[0][1].write(b"GET /metrics HT")

        async def drip():
            for byte in b"GET /metrics HTTP/1.1\r\n" * 100:
                clients[1][1].write(bytes([byte]))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        for reader, writer in clients:
            try:
                assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            except ConnectionResetError:
                assert reader is clients[1][0]
            writer.close()
        assert time.monotonic() - begin < PATIENCE_S
        dripping.cancel()
        assert (await ask(scrapes, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 200


async def test_who_does_not_read_is_cut_off(monkeypatch):
    monkeypatch.setattr(module, "REQUEST_S", 0.2)
    async with scraping(lambda: b"x" * (64 << 20)) as scrapes:
        reader, writer = await connect(scrapes)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.5)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(64 << 20), PATIENCE_S)
        writer.close()


async def test_too_many_scrapes_are_refused():
    async with scraping() as scrapes:
        waiting = [await connect(scrapes) for _ in range(CLIENTS)]
        # Accepted in order, so the next one comes when all these are there.
        reader, writer = await connect(scrapes)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), PATIENCE_S)).startswith(b"HTTP/1.1 503 ")
        writer.close()
        for _, each in waiting:
            each.close()
        for _ in range(1000):
            try:
                if (await ask(scrapes, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 200:
                    break
            except ConnectionResetError:
                pass
            await asyncio.sleep(0.01)
        else:
            pytest.fail("nobody is served again")


async def test_numbers_are_rendered_one_at_a_time_beside_the_event_loop():
    running = []
    together = []

    def render():
        running.append(threading.get_ident())
        together.append(len(running))
        time.sleep(0.1)
        running.pop()
        return NUMBERS

    async with scraping(render) as scrapes:
        asking = [asyncio.create_task(ask(scrapes, b"GET /metrics HTTP/1.1\r\n\r\n")) for _ in range(4)]
        turns = 0
        while not all(each.done() for each in asking):
            assert threading.get_ident() not in running
            await asyncio.sleep(0.005)
            turns += 1
        assert [(await each)[0] for each in asking] == [200] * 4
    assert together == [1] * 4
    assert turns > 8


async def test_the_end_does_not_wait_for_scrapes(caplog):
    async with scraping() as scrapes:
        reader, writer = await connect(scrapes)
        writer.write(b"GET ")
        await asyncio.sleep(0.05)
        await asyncio.wait_for(scrapes.close(), 2.0)
        with pytest.raises(OSError):
            await connect(scrapes)
        assert await reader.read() == b""
        writer.close()
    assert not caplog.records


@pytest.mark.parametrize("uri", ["9110", "http://127.0.0.1:9110", "unix:///run/metrics", "stdio://", "tcp://localhost"])
async def test_what_is_no_address_is_wrong_use(uri):
    with pytest.raises(UsageError, match=rf"^--metrics-uri '{re.escape(uri)}' is no address"):
        await Scrapes(uri, bytes).start()


async def test_an_address_in_use_names_the_setting():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError) as raised:
            await Scrapes(f"tcp://127.0.0.1:{port}", bytes).start()
    assert str(raised.value).startswith(f"cannot listen on tcp://127.0.0.1:{port}: Address already in use")
    assert str(raised.value).endswith("; choose another address with --metrics-uri")
