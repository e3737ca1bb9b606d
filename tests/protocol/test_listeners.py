"""Conformance item 12: tcp, unix and stdio."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from protocol.harness.client import PATIENCE_S, Event, connect, frame, inline
from protocol.harness.fake_engine import ALTO, Script, audio
from protocol.harness.servers import ServerProcess, serving

SCRIPT = Script(window_s=0.01, chatter="careless library\n")


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")


async def _check(uri: str) -> None:
    async with connect(uri) as client:
        await client.describe()
        assert (await client.say("Hello.")).samples.tolist() == audio("Hello.", ALTO).tolist()


def _port(uri: str) -> str:
    return uri.rpartition(":")[2]


@pytest.mark.parametrize(
    ("uri", "hosts"),
    [
        ("tcp://127.0.0.1:0", ["127.0.0.1"]),
        ("tcp://0.0.0.0:0", ["127.0.0.1"]),
        pytest.param("tcp://[::1]:0", ["[::1]"], marks=needs_ipv6),
        pytest.param("tcp://[::]:0", ["127.0.0.1", "[::1]", "localhost"], marks=needs_ipv6),
        pytest.param("tcp://:0", ["127.0.0.1", "[::1]"], marks=needs_ipv6),
        ("tcp://localhost:0", ["127.0.0.1", "localhost"]),
    ],
)
async def test_c12_tcp(uri, hosts):
    async with serving(uri=uri) as server:
        assert _port(server.uri) != "0"
        for host in hosts:
            await _check(f"tcp://{host}:{_port(server.uri)}")


async def test_c12_one_address_only_is_not_reached_by_another():
    async with serving(uri="tcp://127.0.0.1:0") as server:
        with pytest.raises(OSError):
            async with connect(f"tcp://127.0.0.2:{_port(server.uri)}"):
                pass


async def test_c12_unix(tmp_path: Path):
    async with serving(uri=f"unix://{tmp_path}/socket") as server:
        assert server.uri == f"unix://{tmp_path}/socket"
        await _check(server.uri)
    assert not (tmp_path / "socket").exists()


async def test_c12_a_socket_left_behind_is_replaced(tmp_path: Path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    async with serving(uri=f"unix://{path}") as server:
        await _check(server.uri)


def test_c12_several_addresses_at_once(launch: Callable[..., ServerProcess], tmp_path: Path):
    wanted = ("tcp://127.0.0.1:0", "tcp://localhost:0", f"unix://{tmp_path}/socket")
    server = launch("--tts-uri", "tcp://127.0.0.1:0", script=SCRIPT, uris=wanted)
    server.wait_for_log("listening on", 4)
    assert len(set(server.uris)) == 4

    async def check() -> None:
        for uri in server.uris:
            await _check(uri)

    asyncio.run(check())
    server.stop()
    server.check_log()


REQUESTS = inline("describe") + frame("synthesize", {"text": "Hello."}) + inline("ping", {"text": "x"})


def _check_output(output: bytes) -> None:
    """Assert that these are the answers to REQUESTS and not a byte else."""
    events: list[Event] = []
    while output:
        line, _, output = output.partition(b"\n")
        header = json.loads(line)
        data, output = output[: header.get("data_length", 0)], output[header.get("data_length", 0) :]
        payload, output = output[: header.get("payload_length", 0)], output[header.get("payload_length", 0) :]
        events.append(Event(header["type"], json.loads(data or b"{}"), payload))
    types = [event.type for event in events if event.type != "pong"]
    assert types == ["info", "audio-start", *["audio-chunk"] * (len(types) - 3), "audio-stop"]
    assert len(types) == len(events) - 1
    assert b"".join(event.payload for event in events) == audio("Hello.", ALTO).tobytes()


@pytest.mark.parametrize("output", ["pipe", "file"])
@pytest.mark.parametrize("source", ["pipe", "file"])
def test_c12_stdio(source: str, output: str, launch: Callable[..., ServerProcess], tmp_path: Path):
    (tmp_path / "requests").write_bytes(REQUESTS)
    with contextlib.ExitStack() as stack:
        requests = stack.enter_context((tmp_path / "requests").open("rb"))
        answers = stack.enter_context((tmp_path / "answers").open("wb"))
        server = launch(
            script=SCRIPT,
            uris=("stdio://",),
            stdin=requests if source == "file" else subprocess.PIPE,
            stdout=answers if output == "file" else subprocess.PIPE,
        )
        produced, _ = server.process.communicate(REQUESTS if source == "pipe" else None, PATIENCE_S)
    assert server.process.returncode == 0, server.log
    _check_output((tmp_path / "answers").read_bytes() if output == "file" else produced)
    server.check_log()


def test_c12_stdio_converses(launch: Callable[..., ServerProcess]):
    server = launch(script=SCRIPT, uris=("stdio://",), stdin=subprocess.PIPE)
    assert server.process.stdin and server.process.stdout
    for text in ("one", "two"):
        server.process.stdin.write(inline("ping", {"text": text}))
        server.process.stdin.flush()
        header = json.loads(server.process.stdout.readline())
        assert header["type"] == "pong"
        assert json.loads(server.process.stdout.read(header["data_length"])) == {"text": text}
    server.stop()
    server.check_log()


def test_c12_stdio_beside_tcp(launch: Callable[..., ServerProcess]):
    server = launch(script=SCRIPT, uris=("stdio://", "tcp://127.0.0.1:0"), stdin=subprocess.PIPE)
    assert server.process.stdin and server.process.stdout
    server.describe()
    server.process.stdin.write(inline("ping", {"text": "x"}))
    server.process.stdin.close()
    assert b'"pong"' in server.process.stdout.readline()
    # The end of one client is not the end of the service.
    server.describe()
    server.stop()
    server.check_log()


def test_c12_stdio_whose_reader_goes_away(launch: Callable[..., ServerProcess]):
    server = launch(script=SCRIPT, uris=("stdio://",), stdin=subprocess.PIPE)
    assert server.process.stdin and server.process.stdout
    server.process.stdin.write(frame("synthesize", {"text": "x" * 10000}))
    server.process.stdin.flush()
    assert server.process.stdout.read(10)
    server.process.stdout.close()
    server.process.stdin.close()
    assert server.process.wait(PATIENCE_S) == 0, server.log
    server.check_log()


def _refused(launch: Callable[..., ServerProcess], uri: str) -> str:
    """Return the one line with which the server refuses to start."""
    server = launch(uris=(uri,), log_level="info")
    assert server.process.wait(PATIENCE_S) in (1, 2)
    (line,) = server.log.splitlines()
    return line


def test_c12_a_port_in_use(launch: Callable[..., ServerProcess], tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert re.search(f"cannot listen on {re.escape(uri)}: .*in use.*--uri", _refused(launch, uri))
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(f"{tmp_path}/socket")
        taken.listen()
        assert "in use" in _refused(launch, f"unix://{tmp_path}/socket")
        assert (tmp_path / "socket").is_socket()


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:1", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "unix://", "127.0.0.1:10800", "tcp://[::1:5"],
)
def test_c12_an_address_that_is_none(uri: str, launch: Callable[..., ServerProcess]):
    assert "Traceback" not in (line := _refused(launch, uri))
    assert uri in line
