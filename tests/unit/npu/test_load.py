"""Graphs that are watched while they work."""

import logging

import numpy as np
import pytest
from tiny_rknn import write_rknn

from wyoming_rknn.errors import AcceleratorError
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.npu.load import FAILURES, REST_S, WatchedGraph, run_timeout_s
from wyoming_rknn.runtime.accelerator import RUN_TIMEOUT_S, AcceleratorBusy

FEEDS = {"x": np.zeros(1, np.float32)}


class Graph:
    """Does what it is told."""

    inputs = outputs = ()
    metadata: dict[str, str] = {}  # noqa: RUF012
    usable = True

    def __init__(self, clock):
        self.clock = clock
        self.error = None
        self.takes_s = 0.1

    def run(self, feeds, cancellation=None):
        self.clock.now += self.takes_s
        if self.error is not None:
            raise self.error
        return feeds

    def close(self):
        pass


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def graph(clock):
    return Graph(clock)


@pytest.fixture
def watched(graph, clock):
    return WatchedGraph(graph, clock=clock)


def fail(watched, times=1):
    for _ in range(times):
        watched._clock.now += 1
        with pytest.raises(AcceleratorError):
            watched.run(FEEDS)


def levels(caplog):
    return [record.levelname for record in caplog.records]


def test_several_failures_in_a_row_are_enough_for_a_while(graph, watched, clock):
    graph.error = AcceleratorError("no")
    fail(watched, FAILURES - 1)
    assert watched.usable
    fail(watched)
    assert not watched.usable
    graph.error = None
    with pytest.raises(AcceleratorError, match="is not run there for a while"):
        watched.run(FEEDS)
    clock.now += REST_S
    assert watched.usable
    assert watched.run(FEEDS) == FEEDS


def test_a_success_forgives_what_was_before(graph, watched):
    for _ in range(3):
        graph.error = AcceleratorError("no")
        fail(watched, FAILURES - 1)
        graph.error = None
        watched.run(FEEDS)
    assert watched.usable


def test_each_rest_is_twice_as_long_as_the_last_until_it_works(graph, watched, clock, caplog):
    caplog.set_level(logging.INFO)
    graph.error = AcceleratorError("no")
    fail(watched, FAILURES)
    rests = []
    for _ in range(8):
        begin = clock.now
        while not watched.usable:
            clock.now += 1
        rests.append(round((clock.now - begin) / REST_S, 1))
        fail(watched)
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60]
    graph.error = None
    clock.now += 60 * REST_S
    watched.run(FEEDS)
    assert caplog.records[-1].getMessage() == "the NPU computes again"
    graph.error = AcceleratorError("no")
    fail(watched, FAILURES)
    clock.now += REST_S
    assert watched.usable


def test_what_fails_on_all_cores_at_once_is_one_failure(graph, watched, clock):
    begun_s = clock.now
    graph.error = AcceleratorError("no")
    fail(watched)
    # Two more that began with it, and many that fail at once.
    for _ in range(2):
        watched._note_failure(graph.error, begun_s)
    graph.takes_s = 0.0
    for _ in range(10):
        with pytest.raises(AcceleratorError):
            watched.run(FEEDS)
        clock.now += 0.04
    fail(watched, FAILURES - 2)
    assert watched.usable
    fail(watched)
    assert not watched.usable


def test_an_npu_with_much_to_do_is_no_failure_of_the_graph(graph, watched, caplog):
    graph.error = AcceleratorBusy("much to do")
    fail(watched, 2 * FAILURES)
    assert watched.usable
    assert not caplog.records


def test_one_warning_an_hour(graph, watched, clock, caplog):
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        graph.error = AcceleratorError("it hangs")
        fail(watched)
        graph.error = None
        watched.run(FEEDS)
    assert levels(caplog) == ["WARNING", "DEBUG", "DEBUG"]
    assert caplog.records[0].getMessage().startswith("it hangs; the CPU computes instead.")
    clock.now += 3601
    graph.error = AcceleratorError("it hangs")
    fail(watched)
    assert levels(caplog)[-1] == "WARNING"


def test_what_hangs_everywhere_is_not_usable(graph, watched):
    graph.usable = False
    assert not watched.usable


@pytest.mark.parametrize(("rows", "timeout_s"), [(50, 2.0), (83, 2.49), (333, 9.99)])
def test_many_seconds_of_features_may_take_longer(tmp_path, rows, timeout_s):
    out = {"out": (1, 14080)}
    speech = write_rknn(tmp_path / "speech.rknn", {"speech": (1, rows, 560)}, out)
    decoder = write_rknn(tmp_path / "decoder.rknn", {"z": (1, 192, 55)}, out)
    assert run_timeout_s(RknnFile.read(speech)) == pytest.approx(timeout_s)
    assert run_timeout_s(RknnFile.read(decoder)) == RUN_TIMEOUT_S
