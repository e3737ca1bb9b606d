"""Which runtimes are chosen, and on which CPU cores their threads stay."""

import logging
import os
import shutil
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from npu import stand_in, stand_in_lite
from npu.building import build
from onnx import TensorProto, helper

from wyoming_rknn.errors import UsageError
from wyoming_rknn.runtime import onnx
from wyoming_rknn.runtime.board import Board, DeviceNode
from wyoming_rknn.runtime.runtimes import Runtimes
from wyoming_rknn.runtime.scheduler import CPU, LLM, NPU
from wyoming_rknn.settings import Settings

ROCK_5B = Board(soc="rk3588", npu_cores=3, has_core_masks=True)
OWN = os.sched_getaffinity(0)
X = np.ones((1, 4), np.float32)
NO_SOC = "no Rockchip SoC with an NPU is found"


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("no test double of librknnrt.so: there is no gcc to build it")
    return build(tmp_path_factory.mktemp("double"))


@pytest.fixture
def lite(tmp_path, monkeypatch):
    with stand_in_lite.installed(tmp_path / "site", monkeypatch):
        yield


@pytest.fixture
def no_lite(monkeypatch):
    for name in ("rknnlite", "rknnlite.api"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def open_on(monkeypatch):
    """Return a function that opens what settings choose on a board; all of it is closed at the test's end."""
    opened = []

    def open_on(board, **settings):
        monkeypatch.setattr(Board, "read", classmethod(lambda cls, soc=None: board))
        opened.append(Runtimes.of(Settings(**settings)))
        return opened[-1]

    yield open_on
    for runtimes in opened:
        runtimes.close()


def chosen(runtimes):
    return runtimes.accelerator and runtimes.accelerator.name


def model(tmp_path):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "graph",
        [value("x", TensorProto.FLOAT, X.shape)],
        [value("y", TensorProto.FLOAT, X.shape)],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return stand_in.write(tmp_path / "model.rknn", content)


def reported(runtimes, caplog):
    caplog.set_level(logging.INFO, "wyoming_rknn.runtime.runtimes")
    caplog.clear()
    runtimes.report()
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_librknnrt_comes_first(open_on, double, lite):
    runtimes = open_on(ROCK_5B, rknn_library=double)
    assert (chosen(runtimes), runtimes.refusals) == ("rknn", ())
    assert runtimes.devices == {CPU: 1, LLM: 1, NPU: 3}


def test_the_package_comes_second(open_on, tmp_path, lite, caplog):
    runtimes = open_on(ROCK_5B, rknn_library=tmp_path / "gone.so")
    assert (chosen(runtimes), len(runtimes.refusals)) == ("rknn-lite", 1)
    refused, computing = reported(runtimes, caplog)
    assert refused == ("INFO", runtimes.refusals[0])
    assert runtimes.refusals[0].startswith(f"librknnrt is not used: {tmp_path / 'gone.so'} does not exist; install")
    assert computing[1].startswith("rknn-toolkit-lite2 computes on 3 NPU cores")


def test_the_cpu_comes_last_and_each_refusal_is_a_line(open_on, tmp_path, no_lite, caplog):
    runtimes = open_on(ROCK_5B, rknn_library=tmp_path / "gone.so")
    assert chosen(runtimes) is None
    first, second = reported(runtimes, caplog)
    assert (first[0], second[0]) == ("INFO", "INFO")
    assert first[1].startswith("librknnrt is not used: ")
    assert second[1].startswith("rknn-toolkit-lite2 is not used: rknn-toolkit-lite2 ")
    assert runtimes.devices == {CPU: 1, LLM: 1}


def test_a_package_without_its_library_is_not_chosen(open_on, tmp_path, lite, monkeypatch):
    monkeypatch.setattr("wyoming_rknn.runtime.rknn_lite.LIBRARY", tmp_path / "librknnrt.so")
    runtimes = open_on(ROCK_5B, rknn_library=tmp_path / "gone.so")
    assert chosen(runtimes) is None
    assert f"takes no library but {tmp_path / 'librknnrt.so'}, which does not exist" in runtimes.refusals[1]


def test_what_is_named_is_taken_or_nothing(open_on, double, tmp_path, lite, caplog):
    assert chosen(open_on(ROCK_5B, runtime="rknn", rknn_library=double)) == "rknn"
    assert chosen(open_on(ROCK_5B, runtime="rknn-lite", rknn_library=double)) == "rknn-lite"
    runtimes = open_on(ROCK_5B, runtime="rknn", rknn_library=tmp_path / "gone.so")
    assert chosen(runtimes) is None
    (line,) = reported(runtimes, caplog)
    assert line == ("WARNING", runtimes.refusals[0])
    assert line[1].startswith("librknnrt is not used: ")


def test_a_package_that_is_named_and_missing_is_a_warning(open_on, double, no_lite, caplog):
    runtimes = open_on(ROCK_5B, runtime="rknn-lite", rknn_library=double)
    assert chosen(runtimes) is None
    ((level, text),) = reported(runtimes, caplog)
    assert level == "WARNING"
    assert text.startswith("rknn-toolkit-lite2 is not used: ")


def test_onnx_looks_for_no_npu(open_on, double, lite, caplog):
    runtimes = open_on(ROCK_5B, runtime="onnx", rknn_library=double)
    assert (chosen(runtimes), runtimes.refusals, runtimes.devices) == (None, (), {CPU: 1, LLM: 1})
    assert reported(runtimes, caplog) == []


def test_where_no_chip_is_known_nothing_is_opened_unless_it_is_named(open_on, double, lite, caplog):
    runtimes = open_on(Board(), rknn_library=double)
    assert chosen(runtimes) is None
    lines = reported(runtimes, caplog)
    assert [level for level, _ in lines] == ["INFO", "INFO"]
    assert [text.partition(" is not used: ")[0] for _, text in lines] == ["librknnrt", "rknn-toolkit-lite2"]
    assert all(NO_SOC in text for _, text in lines)
    named = open_on(Board(), runtime="rknn", rknn_library=double)
    assert (chosen(named), named.devices) == ("rknn", {CPU: 1, LLM: 1, NPU: 1})


@pytest.mark.parametrize(
    ("devices", "doubt"), [((), True), ((DeviceNode("/dev/rknpu", False, "is not there"),), True),
                           ((DeviceNode("/dev/rknpu"),), False)]
)  # fmt: skip
def test_without_a_device_it_is_not_claimed_that_the_npu_computes(open_on, double, caplog, devices, doubt):
    runtimes = open_on(replace(ROCK_5B, devices=devices), rknn_library=double)
    ((level, text),) = reported(runtimes, caplog)
    assert level == "INFO"
    assert (text == "librknnrt computes on 3 NPU cores") is not doubt
    assert text.startswith("librknnrt computes on 3 NPU cores")
    assert ("`wyoming-rknn doctor`" in text) is doubt


def test_the_soc_is_the_npus(open_on, double):
    assert open_on(ROCK_5B, rknn_library=double).npu_soc == "rk3588"
    assert open_on(ROCK_5B, runtime="onnx").npu_soc is None
    assert open_on(Board(), runtime="rknn", rknn_library=double).npu_soc is None


@pytest.mark.parametrize(
    ("board", "masks"),
    [(ROCK_5B, [0, 1, 2]), (replace(ROCK_5B, npu_cores=2), [0, 1]), (Board(soc="rk3588", npu_cores=1), [None])],
)
def test_graphs_use_the_boards_cores(open_on, double, tmp_path, board, masks):
    runtimes = open_on(board, rknn_library=double)
    assert runtimes.devices == {CPU: 1, LLM: 1, NPU: len(masks)}
    assert [context.core for context in runtimes.accelerator.load(model(tmp_path)).contexts] == masks


def test_closing_lets_go_of_the_npu(open_on, double, tmp_path):
    runtimes = open_on(ROCK_5B, rknn_library=double)
    graph = runtimes.accelerator.load(model(tmp_path))
    runtimes.close()
    assert not graph.usable
    open_on(ROCK_5B, runtime="onnx").close()


needs_two_cores = pytest.mark.skipif(len(OWN) < 2, reason="a thread cannot be seen to stay on one core of one")


def affinities(scheduler, device):
    """Return the CPU cores of the thread that computes for a device."""
    stream = scheduler.stream()
    return stream.submit(lambda: os.sched_getaffinity(0), at_s=0.0, device=device).result(20)


def of_core_threads(before):
    """Return the CPU cores of each of an NPU's core threads that were not there before."""
    threads = [thread for thread in threading.enumerate() if thread not in before and "npu core" in thread.name]
    return [os.sched_getaffinity(thread.native_id) for thread in threads]


@needs_two_cores
def test_threads_of_the_scheduler_stay_on_the_cores_that_compute(open_on, double):
    one = max(OWN)
    for affinity, cpus in ((str(one), {one}), ("none", OWN)):
        scheduler = open_on(ROCK_5B, rknn_library=double, cpu_affinity=affinity).scheduler()
        assert [affinities(scheduler, device) for device in (CPU, NPU)] == [cpus, cpus]
        scheduler.close()
    assert os.sched_getaffinity(0) == OWN


@needs_two_cores
@pytest.mark.parametrize("runtime", ["rknn", "rknn-lite"])
def test_threads_that_run_the_library_do_so_too_whoever_runs_first(
    open_on, double, lite, tmp_path, monkeypatch, runtime
):
    one, before = max(OWN), set(threading.enumerate())
    runtimes = open_on(ROCK_5B, runtime=runtime, rknn_library=double, cpu_affinity=str(one))
    while_loading = []
    load = runtimes.accelerator._open
    monkeypatch.setattr(
        runtimes.accelerator, "_open", lambda *words: (while_loading.append(os.sched_getaffinity(0)), load(*words))[1]
    )
    graph = runtimes.accelerator.load(model(tmp_path))
    # Not from a thread of the scheduler but from one that may use all: so does the self-test of a first start.
    feeds = {"x": X} if runtime == "rknn" else {"x": np.ones((1, 2, 4), np.float32), "n": np.ones(2, np.int32)}
    assert graph.run(feeds)["y"].any()
    assert of_core_threads(before) == [{one}]
    assert while_loading == [{one}]
    assert os.sched_getaffinity(0) == OWN


def test_a_machine_that_forbids_affinity_computes_all_the_same(open_on, double, tmp_path, monkeypatch):
    def forbidden(pid, cpus):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    runtimes = open_on(ROCK_5B, rknn_library=double, cpu_affinity=str(max(OWN)))
    assert runtimes.accelerator.load(model(tmp_path)).run({"x": X})["y"].any()
    scheduler = runtimes.scheduler()
    assert affinities(scheduler, CPU) == OWN
    scheduler.close()


@pytest.mark.parametrize(
    ("settings", "threads", "cpus"),
    [
        ({}, 4, (4, 5, 6, 7)),
        ({"cpu_affinity": "none"}, 4, ()),
        ({"cpu_affinity": "5"}, 1, (5,)),
        ({"cpu_affinity": "0,4-5"}, 3, (0, 4, 5)),
        ({"cpu_affinity": "0-6"}, 4, (0, 1, 2, 3, 4, 5, 6)),
        ({"threads": 2}, 2, (4, 5, 6, 7)),
        ({"cpu_affinity": "5", "threads": 6}, 6, (5,)),
    ],
)
def test_threads_follow_the_cores_unless_they_are_set(open_on, monkeypatch, settings, threads, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    runtimes = open_on(replace(ROCK_5B, big_cpus=(4, 5, 6, 7)), runtime="onnx", **settings)
    assert (runtimes.threads, runtimes.cpus) == (threads, cpus)
    monkeypatch.setattr(onnx, "load", lambda model, **options: (model, options))
    assert runtimes.load(b"graph") == (b"graph", {"threads": threads, "cpus": cpus})


def test_a_process_of_two_cores_has_two_threads(open_on, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 6})
    assert open_on(ROCK_5B, runtime="onnx").threads == 2
    found = open_on(replace(ROCK_5B, big_cpus=(4, 5, 6, 7)), runtime="onnx")
    assert (found.threads, found.cpus) == (1, (6,))


def test_cores_that_there_are_not_are_refused(open_on):
    with pytest.raises(UsageError, match="--cpu-affinity 8000 names cores that this process cannot use"):
        open_on(ROCK_5B, cpu_affinity="8000")
