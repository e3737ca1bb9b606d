"""Conformance item 13 and the goodbye of item 11: real announcements, seen by a real browser on a network of our own.

Two network namespaces, joined by a virtual cable, stand for the server's machine and another one.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "zeroconf_peers"
WAIT_S = 15.0


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _may_make_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"wr-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    _ip("netns", "del", name)
    return True


class Peer:
    """A program in a namespace, with its output as it comes."""

    def __init__(self, namespace: str, script: str) -> None:
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-W", "error", str(PEERS / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors: list[str] = []
        self._events: list[dict] = []
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin = self._process.stdin
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._lines.put)),
            threading.Thread(target=self._read, args=(self._process.stderr, self._errors.append)),
        ]
        for reader in self._readers:
            reader.start()

    def say(self, text: str) -> None:
        self._stdin.write(text + "\n")
        self._stdin.flush()

    def line(self, timeout_s: float = WAIT_S) -> str:
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            pytest.fail(f"nothing was printed for {timeout_s} s; stderr:\n{self.errors}")

    def event(self, change: str, name: str) -> dict:
        """Wait for a browser's event; others are kept for later calls."""
        end = time.monotonic() + WAIT_S
        while True:
            for index, event in enumerate(self._events):
                if event["change"] == change and event["name"] == name:
                    return self._events.pop(index)
            self._events.append(json.loads(self.line(max(0.0, end - time.monotonic()))))

    def has_not_seen(self, change: str) -> None:
        """Check that no such event is among those that came so far."""
        while not self._lines.empty():
            self._events.append(json.loads(self._lines.get()))
        assert change not in [event["change"] for event in self._events]

    def nothing_for(self, seconds: float) -> None:
        with pytest.raises(queue.Empty):
            pytest.fail(f"unexpected: {self._lines.get(timeout=seconds)}")

    @property
    def errors(self) -> str:
        return "".join(self._errors)

    def wait_for_error(self, text: str) -> None:
        end = time.monotonic() + WAIT_S
        while text not in self.errors:
            assert time.monotonic() < end, f"{text!r} not logged; stderr:\n{self.errors}"
            time.sleep(0.02)

    def stop(self) -> None:
        self._stdin.close()
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()
        assert self._process.stdout and self._process.stderr
        self._process.stdout.close()
        self._process.stderr.close()

    @staticmethod
    def _read(stream: Iterator[str], put: Callable[[str], object]) -> None:
        for line in stream:
            put(line)


class Network:
    """The server's namespace, another one, and the programs in them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        tag = f"{os.getpid() % 100000}-{time.monotonic_ns() % 1000000}"
        self.server, self.other = f"wr-server-{tag}", f"wr-other-{tag}"
        for name in (self.server, self.other):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")

    def connect(self) -> None:
        _ip("-n", self.server, "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", self.other)
        for name, last in ((self.server, 1), (self.other, 2)):
            _ip("-n", name, "link", "set", "lan0", "up")
            _ip("-n", name, "address", "add", f"10.77.0.{last}/24", "dev", "lan0")
            _ip("-n", name, "-6", "address", "add", f"fd77::{last}/64", "dev", "lan0", "nodad")
            _ip("-n", name, "route", "add", "224.0.0.0/4", "dev", "lan0")

    def browser(self) -> Peer:
        return self._peer(self.other, "browse.py")

    def announcer(self, *announcements: Sequence[object], on: str = "", check_interval_s: float = 0.2) -> Peer:
        announcer = self._peer(on or self.server, "announce.py")
        announcer.say(json.dumps({"announcements": announcements, "check_interval_s": check_interval_s}))
        return announcer

    def _peer(self, namespace: str, script: str) -> Peer:
        peer = Peer(namespace, script)
        self._stack.callback(peer.stop)
        return peer


def close(announcer: Peer) -> dict:
    """Close an announcer and check that it left nothing behind."""
    announcer.say("close")
    report = json.loads(announcer.line())
    announcer.stop()
    assert report["close_s"] < 3
    assert report["tasks"] == report["threads"] == []
    assert "Traceback" not in announcer.errors and "Warning:" not in announcer.errors, announcer.errors
    assert "Task was destroyed" not in announcer.errors, announcer.errors
    return report


@pytest.fixture(scope="module")
def _namespaces() -> None:
    if not _may_make_namespaces():
        pytest.skip("network namespaces need root and the program ip")


@pytest.fixture
def network(_namespaces: None) -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(stack)


def test_c13_real_addresses_and_the_right_port_per_service(network: Network) -> None:
    network.connect()
    # What must not be announced: container networks, link-local addresses, and those that are about to go.
    _ip("-n", network.server, "link", "add", "docker0", "type", "veth", "peer", "name", "veth1234")
    for name in ("docker0", "veth1234"):
        _ip("-n", network.server, "link", "set", name, "up")
    _ip("-n", network.server, "address", "add", "172.17.0.1/16", "dev", "docker0")
    _ip("-n", network.server, "address", "add", "169.254.7.7/16", "dev", "lan0")
    _ip("-n", network.server, "address", "add", "fd77::de/64", "dev", "lan0", "preferred_lft", "0", "nodad")
    browser = network.browser()
    announcer = network.announcer(["rknn-1a2b", 10800, "::"], ["rknn-1a2b-tts", 10200, "0.0.0.0"])

    both = browser.event("added", "rknn-1a2b")
    assert both["port"] == 10800
    assert both["addresses"] == ["10.77.0.1", "fd77::1"]
    tts = browser.event("added", "rknn-1a2b-tts")
    assert tts["port"] == 10200
    assert tts["addresses"] == ["10.77.0.1"]
    assert both["server"] == "rknn-1a2b.local."
    assert tts["server"] == "rknn-1a2b-tts.local."
    assert sorted(close(announcer)["names"]) == ["rknn-1a2b", "rknn-1a2b-tts"]


def test_c13_only_the_bound_address(network: Network) -> None:
    network.connect()
    _ip("-n", network.server, "address", "add", "10.77.1.1/24", "dev", "lan0")
    browser = network.browser()
    announcer = network.announcer(["one", 1, "10.77.1.1"], ["none", 2, "127.0.0.1"], ["name", 3, "localhost"])
    assert browser.event("added", "one")["addresses"] == ["10.77.1.1"]
    browser.nothing_for(0.5)
    close(announcer)
    assert announcer.errors.count("has no address on a network") == 2


def test_c13_collisions_rename(network: Network) -> None:
    network.connect()
    browser = network.browser()
    first = network.announcer(["here", 1, ""], ["there", 2, ""])
    assert browser.event("added", "here")["port"] == 1
    assert browser.event("added", "there")["port"] == 2
    # On the same machine and on another one.
    here, there = network.announcer(["here", 3, ""]), network.announcer(["there", 4, ""], on=network.other)
    for name, port, address in (("here-2", 3, "10.77.0.1"), ("there-2", 4, "10.77.0.2")):
        event = browser.event("added", name)
        assert (event["port"], event["addresses"][0], event["server"]) == (port, address, f"{name}.local.")
    # Announced anew, a service keeps the name by which it is known.
    _ip("-n", network.server, "address", "add", "10.77.0.9/24", "dev", "lan0")
    while "10.77.0.9" not in browser.event("updated", "here-2")["addresses"]:
        pass
    browser.has_not_seen("removed")
    assert close(here)["names"] == ["here-2"]
    assert close(there)["names"] == ["there-2"]
    assert close(first)["names"] == ["here", "there"]
    assert [announcer.errors.count("is taken on this network") for announcer in (first, here, there)] == [0, 1, 1]


def test_c13_address_change_is_announced(network: Network) -> None:
    network.connect()
    browser = network.browser()
    announcer = network.announcer(["rknn", 10800, "0.0.0.0"], ["local", 1, "127.0.0.1"])
    assert browser.event("added", "rknn")["addresses"] == ["10.77.0.1"]

    # Receivers keep a record that is younger than a second, whatever is announced next (RFC 6762, section 10.2).
    time.sleep(1.3)
    # In networks of their own: the system removes a network's other addresses along with its first.
    _ip("-n", network.other, "address", "add", "10.77.1.2/24", "dev", "lan0")
    _ip("-n", network.server, "address", "add", "10.77.1.7/24", "dev", "lan0")
    _ip("-n", network.server, "address", "del", "10.77.0.1/24", "dev", "lan0")
    # Never a goodbye in between: Home Assistant would take the service for gone.
    event = json.loads(browser.line())
    assert (event["change"], event["addresses"][0]) == ("updated", "10.77.1.7")
    # And they drop what is no longer announced a second later.
    end = time.monotonic() + WAIT_S
    while event["addresses"] != ["10.77.1.7"]:
        assert time.monotonic() < end, event
        time.sleep(0.1)
        browser.say("rknn")
        event = browser.event("current", "rknn")
    assert close(announcer)["names"] == ["rknn"]
    assert announcer.errors.count("has no address on a network") == 1


def test_c13_announced_once_an_address_appears(network: Network) -> None:
    network.connect()
    _ip("-n", network.server, "address", "flush", "dev", "lan0")
    browser = network.browser()
    announcer = network.announcer(["rknn", 10800, "0.0.0.0"])
    announcer.wait_for_error("has no address on a network")
    browser.nothing_for(0.5)
    _ip("-n", network.server, "address", "add", "10.77.0.8/24", "dev", "lan0")
    assert browser.event("added", "rknn")["addresses"] == ["10.77.0.8"]
    close(announcer)
    assert announcer.errors.count("has no address on a network") == 1


def test_c13_nothing_but_loopback(network: Network) -> None:
    announcer = network.announcer(["rknn", 10800, "0.0.0.0"], check_interval_s=0.05)
    announcer.wait_for_error("has no address on a network")
    time.sleep(0.3)
    assert close(announcer)["names"] == []
    assert len(announcer.errors.splitlines()) == 1


def test_c13_multicast_forbidden_is_one_warning(network: Network) -> None:
    network.connect()
    limit = "/proc/sys/net/ipv4/igmp_max_memberships"
    in_server = ["ip", "netns", "exec", network.server, "sh", "-c"]
    if subprocess.run([*in_server, f"echo 0 > {limit}"], capture_output=True, check=False).returncode:
        pytest.skip("the multicast limits of a namespace cannot be set here")
    browser = network.browser()
    announcer = network.announcer(["rknn", 10800, "0.0.0.0"], check_interval_s=0.05)
    announcer.wait_for_error("--no-zeroconf")
    time.sleep(0.3)
    subprocess.run([*in_server, f"echo 20 > {limit}"], check=True)
    assert browser.event("added", "rknn")["addresses"] == ["10.77.0.1"]
    close(announcer)
    assert announcer.errors.count("WARNING") == 1


def test_c11_goodbye_on_exit(network: Network) -> None:
    network.connect()
    browser = network.browser()
    announcer = network.announcer(["rknn", 10800, ""], ["rknn-asr", 10300, ""])
    browser.event("added", "rknn")
    browser.event("added", "rknn-asr")
    close(announcer)
    browser.event("removed", "rknn")
    browser.event("removed", "rknn-asr")


def test_c11_closing_while_it_still_probes(network: Network) -> None:
    network.connect()
    announcer = network.announcer(["rknn", 10800, ""])
    time.sleep(0.6)
    close(announcer)
