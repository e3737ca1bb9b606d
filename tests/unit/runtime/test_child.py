"""Child processes, and what is left of them."""

import sys
import threading
import time
from pathlib import Path

import pytest

from wyoming_rknn.runtime.child import Child, ending

LONG_S = 20.0
ECHO = ("base64", ["-e"])
"""A module that answers once its input has ended."""


def held():
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


class Heard:
    def __init__(self):
        self.received = b""
        self.ended = []

    def hear(self, received):
        self.received += received

    def wait(self):
        end = time.monotonic() + LONG_S
        while not self.ended:
            assert time.monotonic() < end
            time.sleep(0.005)


@pytest.fixture
def heard():
    before = held()
    yield Heard()
    assert held() == before


def test_what_a_child_writes_is_heard_and_then_its_end(heard):
    child = Child(*ECHO, heard.hear, heard.ended.append)
    assert child.is_alive
    assert child.write([b"ab", memoryview(b"c")], LONG_S)
    child.close(LONG_S)
    assert (heard.received, heard.ended) == (b"YWJj\n", ["ended with exit code 0"])
    assert not child.is_alive
    assert not child.write([b"d"], LONG_S)
    child.kill()
    child.close()


def test_one_that_does_not_end_by_itself_is_ended(heard):
    child = Child("http.server", ["--bind", "127.0.0.1", "0"], heard.hear, heard.ended.append)
    child.close()
    assert heard.ended == ["was ended by signal 9, perhaps for want of memory"]


def test_one_that_ended_takes_nothing(heard):
    child = Child("no_such_module", [], heard.hear, heard.ended.append)
    heard.wait()
    assert heard.ended == ["ended with exit code 1"]
    assert not child.is_alive
    assert not child.write([b"x"], LONG_S)
    child.close()


def test_one_that_does_not_read_is_not_waited_for(heard):
    child = Child("http.server", ["--bind", "127.0.0.1", "0"], heard.hear, heard.ended.append)
    assert not child.write([bytes(1 << 20)], 0.05)
    child.close()


def test_one_that_cannot_be_started_leaves_nothing(heard, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        Child(*ECHO, heard.hear, heard.ended.append)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-11, "was ended by signal 11"),
        (-9, "was ended by signal 9, perhaps for want of memory"),
    ],
)
def test_an_end_is_told(code, words):
    assert ending(code) == words
