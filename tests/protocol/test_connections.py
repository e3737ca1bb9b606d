"""Conformance items 9 and 10: many connections, rude connections, and what they leave behind."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable

from protocol.harness.blocking import dial
from protocol.harness.client import eventually, frame
from protocol.harness.fake_engine import Script
from protocol.harness.leaks import nothing_leaks, warm_up
from protocol.harness.log import Log
from protocol.harness.malformed import LENGTHS, MALFORMED
from protocol.harness.servers import ServerProcess, serving

MEGABYTE = 1 << 20


def _connect_and_close(server: ServerProcess) -> None:
    dial(server.uri).close()


def _connect_and_reset(server: ServerProcess) -> None:
    with dial(server.uri) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _describe_and_close(server: ServerProcess) -> None:
    with dial(server.uri) as connection:
        connection.sendall(b'{ "type": "describe" }\n')


def _ask_and_reset(server: ServerProcess) -> None:
    with dial(server.uri) as connection:
        connection.sendall(frame("synthesize", {"text": "Hello."}))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


RUDE = {_connect_and_close: 1000, _connect_and_reset: 1000, _describe_and_close: 1000, _ask_and_reset: 300}


def test_c09_a_thousand_rude_clients_of_each_kind_leave_nothing_behind(launch: Callable[..., ServerProcess]):
    server = launch(script=Script())
    warm_up(server)
    for rude, times in RUDE.items():
        with nothing_leaks(server):
            for count in range(times):
                rude(server)
                if count % 20 == 0:
                    server.describe()  # not to be refused as too many at once
    server.stop()
    server.check_log()
    assert " WARNING " not in server.log


def test_c09_malformed_frames_of_every_kind_leave_nothing_behind(launch: Callable[..., ServerProcess]):
    server = launch(script=Script())
    warm_up(server)
    lengths = [f'{{"type":"x","{key}":{n}}}\n'.encode() for n in LENGTHS for key in ("data_length", "payload_length")]
    frames = [*MALFORMED.values(), *lengths]
    repeats = 10
    with nothing_leaks(server):
        for data in frames * repeats:
            with dial(server.uri) as connection, contextlib.suppress(ConnectionError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                with connection.makefile("rb") as answer:
                    assert b'"error"' in answer.readline()
    server.stop()
    server.check_log()
    assert server.log.count(" WARNING ") == len(frames) * repeats


def test_c09_an_announced_giant_is_never_buffered(launch: Callable[..., ServerProcess]):
    server = launch(script=Script())
    warm_up(server)
    for key in ("payload_length", "data_length"):
        with nothing_leaks(server), dial(server.uri) as connection:
            peak = server.resources().rss_bytes + 2 * MEGABYTE
            with contextlib.suppress(ConnectionError):
                connection.sendall(f'{{"type":"audio-chunk","{key}":200000000}}\n'.encode())
                for _ in range(200):
                    connection.sendall(bytes(MEGABYTE))
                    assert server.resources().rss_bytes < peak
    # In the limit each, but all unfinished.
    with nothing_leaks(server), contextlib.ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(dial(server.uri))
            connection.sendall(b'{"type":"audio-chunk","payload_length":1048576}\n' + bytes(MEGABYTE // 2))
    server.stop()
    server.check_log()


def test_c09_stalled_readers_leave_nothing_behind(launch: Callable[..., ServerProcess]):
    server = launch("--write-timeout", "0.5", script=Script())
    warm_up(server)
    host, _, port = server.uri.removeprefix("tcp://").rpartition(":")
    with nothing_leaks(server):
        for round_ in range(2):
            with contextlib.ExitStack() as stack:
                for _ in range(4):
                    connection = stack.enter_context(socket.socket())
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    connection.connect((host, int(port)))
                    connection.sendall(frame("synthesize", {"text": "x" * 10000}))
                server.wait_for_log("it read nothing for", 4 * (round_ + 1))
    server.stop()
    server.check_log()
    assert server.log.count(" WARNING ") == 8


async def test_c09_rude_clients_leave_no_tasks_behind(log: Log):
    # That no task stays is checked by `serving`.
    async with serving() as server:
        for _ in range(50):
            async with server.connect() as client:
                pass
            async with server.connect() as client:
                client.reset()
            async with server.connect() as client:
                await client.write(b'{"type":"describe"}\n')
            async with server.connect() as client:
                await client.send("synthesize", {"text": "Hello."})
                client.reset()
            async with server.connect() as client:
                await client.send("synthesize-start")
                await client.send("synthesize-chunk", {"text": "Hello. And"})
        async with server.connect() as client:
            await client.describe()
    log.check()


async def test_c10_two_hundred_idle_clients_do_not_matter():
    async with (
        serving(script=Script(window_s=0.5, window_samples=22050)) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(200):
            await stack.enter_async_context(server.connect())
        busy = await stack.enter_async_context(server.connect())
        await busy.send("synthesize", {"text": "x" * 1000})
        await busy.expect("audio-start")
        took = []
        for _ in range(20):
            begin = time.monotonic()
            async with server.connect() as client:
                await client.describe()
            took.append(time.monotonic() - begin)
        assert sorted(took)[-2] < 0.25, took


async def test_c10_one_client_too_many_is_refused_and_the_others_stay(log: Log):
    async with serving(max_connections=3) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.connect()) for _ in range(3)]
        for client in clients:
            await client.describe()
        async with server.connect() as refused:
            await refused.expect_error("busy")
            await refused.expect_end()
        async with server.connect() as refused:
            with contextlib.suppress(ConnectionError):
                await refused.write(b'{"type":"describe"}\n')
            await refused.expect_error("busy")
        for client in clients:
            await client.describe()
        await clients[0].close()
        log.check(warnings=2)

        async def is_served() -> bool:
            async with server.connect() as client:
                await client.send("describe")
                event = await client.receive()
                return event is not None and event.type == "info"

        async with asyncio.timeout(10):
            while not await is_served():
                pass
    log.check(warnings=len(log.warnings))


async def test_c10_more_requests_than_may_be_worked_on_are_refused(log: Log):
    async with serving(max_requests=2, script=Script(window_s=0.1)) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.connect()) for _ in range(3)]
        for client in clients[:2]:
            await client.send("synthesize", {"text": "x" * 50})
            await client.expect("audio-start")
        await clients[2].send("synthesize", {"text": "x"})
        await clients[2].expect_error("busy")
        await clients[2].expect_end()
        for client in clients[:2]:
            await client.until("audio-stop")
        await eventually(lambda: len(log.infos) == 3)
        async with server.connect() as client:
            await client.say("x")
    log.check(warnings=1)


async def test_c10_streams_without_text_keep_nobody_from_being_served(log: Log):
    async with serving(max_requests=2) as server, contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(server.connect()) for _ in range(4)]
        for client in silent:
            await client.send("synthesize-start")
            await client.send("synthesize-chunk", {"text": ""})
        async with server.connect() as client:
            await client.describe()
            await client.say("x")
        # Whoever has something to say gets its turn.
        for client in silent:
            await client.send("synthesize-chunk", {"text": "x"})
            await client.send("synthesize-stop")
            await client.hear(streaming=True)
    log.check()
