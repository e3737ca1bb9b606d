import asyncio
import errno
import json
import logging
import socket

import pytest
from protocol.harness.client import eventually
from wyoming.event import Event

from wyoming_rknn.errors import Cancelled
from wyoming_rknn.server.connection import Connection, ConnectionLimits, Disconnected
from wyoming_rknn.server.framing import FrameLimits, encode

LOST = TimeoutError(errno.ETIMEDOUT, "Connection timed out")


class Endless:
    """A request that is never answered."""

    def __init__(self):
        self.cancelled = asyncio.Event()

    async def run(self):
        await self.cancelled.wait()
        raise Cancelled

    def cancel(self):
        self.cancelled.set()


class Family:
    """Takes `ask` as an endless request and notes all other events."""

    def __init__(self, connection):
        self.connection = connection
        self.requests = []
        self.seen = []

    async def handle(self, event):
        if event.type == "ask":
            self.requests.append(Endless())
            self.connection.request(self.requests[-1])
        self.seen.append(event.type)
        return True

    def starved(self):
        return False

    def cancel(self, reason=None):
        pass


class Peer:
    """A connection that is served, and the client's end of it."""

    def __init__(self, connection, family, reader, client):
        self.connection, self.family, self.reader, self.client = connection, family, reader, client
        self.task = asyncio.create_task(connection.run())

    async def send(self, *events):
        await asyncio.get_running_loop().sock_sendall(self.client, b"".join(encode(event) for event in events))

    async def takes(self, *types):
        await eventually(lambda: self.family.seen[-len(types) :] == list(types))


@pytest.fixture
async def serve():
    peers = []

    async def serve(**limits):
        server_end, client = socket.socketpair()
        # Small, so that what is not read is soon unsent.
        server_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=server_end)
        families = []

        def make(connection):
            families.append(Family(connection))
            return families

        connection = Connection(reader, writer, ConnectionLimits(**limits), "client 1", make)
        peers.append(Peer(connection, families[0], reader, client))
        return peers[-1]

    yield serve
    for peer in peers:
        peer.client.close()
        peer.task.cancel()
        await asyncio.wait((peer.task,))


async def test_a_peer_that_the_kernel_gives_up_is_lost_and_not_idle(serve):
    peer = await serve()
    await peer.send(Event("ask"))
    await peer.takes("ask")
    reads, read = [], peer.reader.read

    async def counted(size):
        reads.append(size)
        assert len(reads) < 100, "it reads on and on, and the event loop stands still"
        return await read(size)

    peer.reader.read = counted
    # Wakes the reader, as the transport does that tells it of an error.
    peer.reader.set_exception(LOST)
    async with asyncio.timeout(10):
        await peer.task
    assert peer.family.requests[0].cancelled.is_set()
    assert len(reads) < 3


async def test_a_peer_lost_while_it_is_written_to_did_not_stall(serve, caplog):
    peer = await serve()
    peer.reader.set_exception(LOST)
    with pytest.raises(Disconnected):
        await peer.connection.send(Event("audio-chunk"))
    async with asyncio.timeout(10):
        await peer.task
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_pings_do_not_wait_for_a_slow_reader(serve):
    limit = 65536
    peer = await serve(buffered_bytes=limit, write_s=20.0)
    sending = asyncio.create_task(peer.connection.send(Event("audio-chunk", payload=bytes(4 * limit))))
    await asyncio.sleep(0)
    await peer.send(Event("ping"), Event("text"))
    await peer.takes("text")
    assert not sending.done()
    sending.cancel()


async def test_pongs_do_not_pile_up_for_a_slow_reader(serve):
    limit = 65536
    peer = await serve(buffered_bytes=limit)
    text = 1000 * "x"
    for _ in range(20):
        await peer.send(*(50 * [Event("ping", {"text": text})]), Event("text"))
    await peer.takes(*(20 * ["text"]))
    # A million bytes were asked for.
    assert peer.connection._writer.transport.get_write_buffer_size() < limit + 65536 + 2000


async def test_what_was_taken_in_is_not_lost_with_the_idle_time(serve):
    peer = await serve(frames=FrameLimits(idle_s=0.05))
    await peer.send(Event("ask"))
    await asyncio.sleep(0.3)
    assert not peer.task.done()
    await peer.send(Event("ping", {"text": "there"}))
    async with asyncio.timeout(10):
        answer = await asyncio.get_running_loop().sock_recv(peer.client, 65536)
    assert json.loads(answer.partition(b"\n")[0])["type"] == "pong"
