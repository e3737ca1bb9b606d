"""What a server process holds before and after."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

from protocol.harness.client import Client, connect
from protocol.harness.servers import ServerProcess

MEGABYTE = 1 << 20


@contextlib.contextmanager
def nothing_leaks(server: ServerProcess, megabytes: int = 10) -> Iterator[None]:
    """Assert that afterwards the process holds what it held before, but for so many megabytes."""
    before = server.resources()
    yield
    end = time.monotonic() + 15
    while True:
        server.describe()  # what is still under way before it gets its time
        after = server.resources()
        if after.descriptors <= before.descriptors and after.threads <= before.threads:
            break
        assert time.monotonic() < end, (before, after)
        time.sleep(0.1)
    assert after.rss_bytes - before.rss_bytes < megabytes * MEGABYTE, (before, after)


def warm_up(server: ServerProcess) -> None:
    """Let the server start the threads it keeps."""

    async def ask() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients: list[Client] = [await stack.enter_async_context(connect(server.uri)) for _ in range(25)]
            for client in clients:
                await client.send("synthesize", {"text": "Hello."})
                await client.send("describe")
            for client in clients:
                await client.until("info")

    asyncio.run(ask())
    held = -1
    while held != (held := server.resources().descriptors):
        time.sleep(0.1)
