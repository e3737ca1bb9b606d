"""What the service manager is told."""

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wyoming_rknn.server.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


async def test_a_message_has_one_assignment_per_line(manager):
    await Notifier.from_environment(environment(manager)).send("READY=1", "STATUS=listening\non tcp://127.0.0.1:10800")
    assert manager.recv(4096) == b"READY=1\nSTATUS=listening on tcp://127.0.0.1:10800"


async def test_an_abstract_socket(caplog):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"wyoming-rknn-test-{os.getpid()}"
        listener.bind(f"\0{name}")
        listener.settimeout(5)
        await Notifier.from_environment({"NOTIFY_SOCKET": f"@{name}"}).send("READY=1")
        assert listener.recv(4096) == b"READY=1"
    assert not caplog.records


@pytest.mark.parametrize(
    "variables", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000000"}], ids=["none", "empty", "watchdog alone"]
)
async def test_silence_without_a_service_manager(variables, caplog):
    notifier = Notifier.from_environment(variables)
    assert notifier == Notifier()
    await notifier.send("READY=1")
    await asyncio.wait_for(notifier.keep_alive(), 5)
    assert not caplog.records


async def test_another_kind_of_socket_is_named_and_left_alone(caplog):
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000000"})
    assert notifier == Notifier()
    assert "vsock:2:1234" in caplog.text


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_this_process_s(variables, watchdog_s):
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/run/notify", **variables}).watchdog_s == watchdog_s


async def test_the_watchdog_hears_of_the_loop_twice_per_period_and_no_more_once_it_hangs(manager):
    notifier = Notifier.from_environment(environment(manager, WATCHDOG_USEC="800000"))
    alive = asyncio.create_task(notifier.keep_alive())
    begin = time.monotonic()
    heard = [await asyncio.to_thread(manager.recv, 4096) for _ in range(4)]
    assert heard == [b"WATCHDOG=1"] * 4
    # Three halves of it take 1.2 s, three whole ones would be too late.
    assert 1.1 < time.monotonic() - begin < 2.4
    manager.setblocking(False)
    time.sleep(0.5)  # noqa: ASYNC251 - the loop hangs
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
    alive.cancel()


async def test_a_manager_that_is_gone_is_told_nothing_and_nobody_suffers(manager, tmp_path, caplog):
    notifier = Notifier.from_environment(environment(manager))
    (tmp_path / "notify").unlink()
    await notifier.send("STOPPING=1")
    assert "cannot tell the service manager STOPPING=1: No such file or directory" in caplog.text
    await Notifier("/" + "x" * 200).send("READY=1")
    assert "READY=1: AF_UNIX path too long" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_a_message_waits_for_room(manager):
    notifier = Notifier.from_environment(environment(manager))
    fill(manager)
    drain = threading.Timer(0.2, lambda: [manager.recv(4096) for _ in range(10)])
    drain.start()
    await notifier.send("READY=1")
    drain.join()
    manager.setblocking(False)
    messages = []
    while not messages or messages[-1] != b"READY=1":
        messages.append(manager.recv(4096))


async def test_a_manager_that_takes_nothing_holds_up_nobody_for_long(manager, caplog):
    fill(manager)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.05)

    counting = asyncio.create_task(count())
    await asyncio.wait_for(Notifier.from_environment(environment(manager)).send("READY=1"), 5)
    counting.cancel()
    assert turns > 5
    assert "it takes no messages" in caplog.text


def fill(manager: socket.socket) -> None:
    """Leave no room for another message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect(manager.getsockname())
        with pytest.raises(BlockingIOError):
            while True:
                sender.send(b"x")
