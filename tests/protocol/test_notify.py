"""A server that a service manager started."""

import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest
from protocol.harness.fake_engine import Script
from protocol.harness.servers import ServerProcess


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0wyoming-rknn-test-{os.getpid()}")
        listener.settimeout(30)
        yield listener


@pytest.fixture
def managed(launch: Callable[..., ServerProcess], manager: socket.socket) -> Callable[..., ServerProcess]:
    def start(*options: str, **variables: str) -> ServerProcess:
        address = "@" + manager.getsockname()[1:].decode()
        return launch(*options, script=Script(), environment={"NOTIFY_SOCKET": address, **variables})

    return start


def test_the_service_manager_hears_when_the_server_is_ready_and_when_it_ends(managed, manager):
    server = managed()
    ready, status = manager.recv(4096).decode().split("\n")
    assert ready == "READY=1"
    # Whoever waits for it may connect.
    server.describe()
    assert status == f"STATUS=listening on {server.uri}"
    assert server.stop() < 3
    assert manager.recv(4096).decode().split("\n")[0] == "STOPPING=1"
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
    server.check_log()


def test_the_watchdog_is_fed_until_the_server_hangs(managed, manager):
    server = managed(WATCHDOG_USEC="600000")
    assert manager.recv(4096).startswith(b"READY=1")
    assert [manager.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    server.process.send_signal(signal.SIGSTOP)
    manager.settimeout(1.5)
    with pytest.raises(TimeoutError):
        for _ in range(3):
            manager.recv(4096)
    server.process.send_signal(signal.SIGCONT)
    manager.settimeout(30)
    assert manager.recv(4096) == b"WATCHDOG=1"
    server.stop()
    server.check_log()


def test_a_server_that_cannot_listen_never_was_ready(managed, manager):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = managed("--asr-uri", f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        assert server.process.wait(30) == 2
    manager.setblocking(False)
    assert manager.recv(4096).startswith(b"STOPPING=1")


def test_the_server_serves_and_ends_though_its_service_manager_is_deaf(managed, manager):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect(manager.getsockname())
        with pytest.raises(BlockingIOError):
            while True:
                sender.send(b"x")
    server = managed()
    server.describe()
    assert server.stop() < 3
    assert "cannot tell the service manager STOPPING=1: it takes no messages" in server.log
