"""`wyoming-rknn serve` with an NPU, as Home Assistant meets it."""

import asyncio
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from npu.voices import converted, snr_db, split_cache  # noqa: F401 - fixtures
from protocol.harness.client import connect
from protocol.harness.servers import ServerProcess

TEXT = "Turn on the living room lights, please, and then tell us a story about the sea."
LONG = " ".join([TEXT] * 8)


@pytest.fixture
def serve(tmp_path, double, converted, control) -> Iterator[Callable[..., ServerProcess]]:  # noqa: F811
    """Return a function that starts a server with one voice, converted for the double."""
    started: list[ServerProcess] = []

    def start(voice: str, runtime: str = "rknn") -> ServerProcess:
        folder = tmp_path / f"{runtime}-{len(started)}"
        folder.mkdir()
        options = {
            "data-dir": converted(voice),
            "voice": voice,
            "runtime": runtime,
            "soc": "rk3588",
            "rknn-library": double,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        server = ServerProcess(folder, *arguments, log_level="info")
        started.append(server)
        server.wait_for_log("listening on")
        return server

    yield start
    for server in started:
        server.kill()


def warnings(server: ServerProcess) -> list[str]:
    return [line for line in server.log.splitlines() if " WARNING " in line]


async def test_it_speaks_as_the_cpu_does_and_logs_one_line_for_the_request(serve):
    npu, cpu = serve("sano-hfc"), serve("sano-hfc", "onnx")
    async with connect(npu.uri) as one, connect(cpu.uri) as other:
        spoken, expected = await one.say(TEXT, "sano-hfc"), await other.say(TEXT, "sano-hfc")
    assert spoken.samples.shape == expected.samples.shape
    assert snr_db(expected.samples, spoken.samples) > 50
    npu.check_log()
    assert not warnings(npu)
    assert "librknnrt computes on 3 NPU cores" in npu.log
    assert "passed its self-test" in npu.log
    npu.stop()


@pytest.mark.parametrize(
    "fault", [{"run_rc": -1}, {"output": "zeros"}, {"output": "nan"}, {"hang": "all"}], ids=lambda fault: str(fault)
)
async def test_an_npu_that_breaks_down_costs_a_warning_and_no_word(serve, control, fault):
    server, cpu = serve("random-tiny"), serve("random-tiny", "onnx")
    async with connect(cpu.uri) as client:
        expected = (await client.say(TEXT, "random-tiny")).samples
    async with connect(server.uri) as client:
        before = await client.say(TEXT, "random-tiny")
        control.set(**fault)
        during = await client.say(TEXT, "random-tiny")
        after = await client.say(TEXT, "random-tiny")
    for spoken in (before, during, after):
        assert snr_db(expected, spoken.samples) > 50
    (warning,) = warnings(server)
    assert "the CPU computes instead" in warning
    server.check_log()
    # Hanging calls must not hold up the end either.
    assert server.stop() < 3


def contexts_left(control) -> int:
    made, freed = (
        sum(call.rc == 0 for name in names for call in control.calls(name))
        for names in (("rknn_init", "rknn_dup_context"), ("rknn_destroy",))
    )
    return made - freed


@pytest.mark.parametrize("moment", ["idle", "speaking"])
async def test_the_npu_is_freed_at_the_end(serve, control, moment):
    control.set(run_ms=300 if moment == "speaking" else 0)
    server = serve("random-tiny")
    async with connect(server.uri) as client:
        if moment == "idle":
            await client.say(TEXT, "random-tiny")
        else:
            await client.send("synthesize", {"text": LONG, "voice": {"name": "random-tiny"}})
            await client.expect("audio-start")
            await client.expect("audio-chunk")
        assert contexts_left(control) == 3
        assert server.stop() < 3
    assert contexts_left(control) == 0
    assert not [call for call in control.calls("rknn_destroy") if call.notes["while_running"] == "1"]


async def test_an_npu_that_does_not_start_costs_a_warning(serve, control):
    control.set(init_rc=-1)
    server = serve("random-tiny")
    async with connect(server.uri) as client:
        assert (await client.say(TEXT, "random-tiny")).samples.any()
    (warning,) = warnings(server)
    assert "rknn_init" in warning
    server.check_log()
    server.stop()


async def test_a_second_client_starts_while_a_long_text_is_spoken(serve, control):
    control.set(run_ms=60)
    server = serve("random-tiny")
    async with connect(server.uri) as first, connect(server.uri) as second:
        await first.say("Hello there.", "random-tiny")
        long = asyncio.create_task(first.say(LONG, "random-tiny"))
        await asyncio.sleep(0.5)
        assert not long.done()
        begin, runs = time.monotonic(), len(control.calls("rknn_run"))
        speech = await second.say("Hello there, how are you today?", "random-tiny")
        waited_s = speech.first_audio_at - begin
        assert (await long).seconds > 30
        assert not long.cancelled()
    # One window for what is running, one for its own, and the encoder; all twice over for a busy machine.
    assert runs
    assert waited_s < 4 * 0.06 + 1.0
    assert np.isfinite(speech.samples).all()
    server.check_log()
    server.stop()


async def test_without_an_npu_a_server_that_was_told_to_use_one_speaks_all_the_same(tmp_path, converted):  # noqa: F811
    folder = tmp_path / "server"
    folder.mkdir()
    missing = tmp_path / "librknnrt.so"
    server = ServerProcess(
        folder, "--runtime", "rknn", "--rknn-library", str(missing), "--data-dir", str(converted("random-tiny"))
    )
    try:
        async with connect(server.uri) as client:
            assert (await client.say("Hello there.", "random-tiny")).samples.any()
        (warning,) = warnings(server)
        assert f"{missing}" in warning
        server.check_log()
        server.stop()
    finally:
        server.kill()
