"""Graphs on the test double of librknnrt.so, through the program's own binding."""

import ctypes
import gc
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper

from wyoming_rknn.errors import AcceleratorError, EngineError, ModelFileMissing, ModelInvalid
from wyoming_rknn.runtime import rknn
from wyoming_rknn.runtime.accelerator import AcceleratorBusy, Versions
from wyoming_rknn.runtime.rknn_library import CallFailed, RknnLibrary

LONG_S = 20.0
X = np.linspace(-3.0, 3.0, 12, dtype=np.float32).reshape(1, 3, 4)


def model(nodes, inputs, outputs):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def squares():
    """Return a graph y = x * x + x, z = x + x."""
    return model(
        [
            helper.make_node("Mul", ["x", "x"], ["xx"]),
            helper.make_node("Add", ["xx", "x"], ["y"]),
            helper.make_node("Add", ["x", "x"], ["z"]),
        ],
        [("x", TensorProto.FLOAT, X.shape)],
        [("y", TensorProto.FLOAT, X.shape), ("z", TensorProto.FLOAT, X.shape)],
    )


def expected(x):
    half = x.astype(np.float16).astype(np.float32)
    return (half * half + half).astype(np.float16).astype(np.float32)


@pytest.fixture
def alive(double):
    """Tell how many contexts are alive; none may be left at a test's end."""
    count = ctypes.CDLL(str(double)).rknn_double_contexts
    assert count() == 0
    yield count
    gc.collect()
    assert count() == 0


@pytest.fixture
def npu(double, control, alive):
    """Open the NPU with three cores; hangs end with the test."""
    control.set()
    accelerator = rknn.open_accelerator(double, 3, True)
    yield accelerator
    control.set()
    accelerator.close()
    wait_until(lambda: alive() == 0)


@pytest.fixture
def path(stand_in):
    return stand_in(squares(), custom_string="hop=256; width = 55;odd;")


@pytest.fixture
def graph(npu, path):
    return npu.load(path)


def wait_until(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def fails(graph, words, feeds=None):
    with pytest.raises(AcceleratorError) as caught:
        graph.run({"x": X} if feeds is None else feeds)
    assert words in str(caught.value)
    assert str(caught.value).startswith("model.rknn: ")


def test_a_run_gives_what_the_graph_computes_in_16_bit_floats(graph):
    assert [(spec.name, spec.shape, spec.dtype) for spec in graph.inputs] == [("x", (1, 3, 4), np.float32)]
    assert [(spec.name, spec.shape, spec.dtype) for spec in graph.outputs] == [
        ("y", (1, 3, 4), np.float32),
        ("z", (1, 3, 4), np.float32),
    ]
    outputs = graph.run({"x": X})
    assert list(outputs) == ["y", "z"]
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], expected(X))
    np.testing.assert_array_equal(outputs["z"], 2 * X.astype(np.float16).astype(np.float32))
    assert graph.usable


def test_a_later_run_leaves_earlier_outputs_alone(graph):
    kept = [graph.run({"x": X * number})["y"] for number in range(1, 7)]
    for number, output in enumerate(kept, 1):
        np.testing.assert_array_equal(output, expected(X * number))


def test_any_float_and_any_memory_layout_is_taken(graph):
    np.testing.assert_array_equal(graph.run({"x": X.astype(np.float64)})["y"], expected(X))
    np.testing.assert_array_equal(graph.run({"x": X.astype(np.float16)})["y"], expected(X))
    turned = np.asfortranarray(X)
    np.testing.assert_array_equal(graph.run({"x": turned})["y"], expected(X))


def test_integers_are_fed_as_the_graph_takes_them(npu, stand_in):
    nodes = [helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT), helper.make_node("Add", ["x", "f"], ["y"])]
    inputs = [("x", TensorProto.FLOAT, [1, 4]), ("n", TensorProto.INT32, [4])]
    graph = npu.load(stand_in(model(nodes, inputs, [("y", TensorProto.FLOAT, [1, 4])])))
    assert [spec.dtype for spec in graph.inputs] == [np.float32, np.int32]
    x = np.zeros((1, 4), np.float32)
    for dtype in (np.int32, np.int64, np.int8):
        np.testing.assert_array_equal(graph.run({"x": x, "n": np.arange(4, dtype=dtype)})["y"], [[0, 1, 2, 3]])
    with pytest.raises(EngineError, match="'n' has numbers that int32 cannot hold"):
        graph.run({"x": x, "n": np.full(4, 1 << 40)})
    with pytest.raises(EngineError, match="'n' is float32, not int32"):
        graph.run({"x": x, "n": x[0]})


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "takes x, not nothing"),
        ({"x": X, "w": X}, "takes x, not w, x"),
        ({"x": X[..., :3]}, r"input 'x' has shape \(1, 3, 3\), not \(1, 3, 4\)"),
        ({"x": X.astype(np.complex64)}, "input 'x' is complex64, not float32"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(graph, feeds, words):
    with pytest.raises(EngineError, match=f"model.rknn:? .*{words}|model.rknn {words}"):
        graph.run(feeds)


@pytest.mark.parametrize("number", [65505.0, -1e9, np.inf, np.nan])
def test_numbers_beyond_16_bit_floats_are_refused(graph, number):
    x = X.copy()
    x[0, 1, 2] = number
    fails(graph, f"input 'x' holds {abs(number):g}, which 16-bit floats cannot (65504 at most)", {"x": x})


def test_the_converters_notes_are_read(graph):
    assert graph.metadata == {"hop": "256", "width": "55"}


def test_a_query_that_fails_is_named(npu, path, control):
    control.set(query_rc=-5)
    with pytest.raises(AcceleratorError, match=r"model\.rknn: rknn_query returned -5 \(RKNN_ERR_PARAM_INVALID\)"):
        npu.load(path)


class OddLibrary(RknnLibrary):
    """The double as another version of the library might be."""

    oddity = ""

    def custom_string(self, context):
        if self.oddity == "no notes":
            raise CallFailed("rknn_query", -5)
        return super().custom_string(context)

    def input_output_number(self, context):
        return (0, 70000) if self.oddity == "counts" else super().input_output_number(context)

    def tensor_attr(self, context, index, *, output):
        attr = super().tensor_attr(context, index, output=output)
        if self.oddity == "layout":
            # Four bytes more in front of all else.
            ctypes.memmove(ctypes.addressof(attr) + 4, bytes(attr)[:-4], ctypes.sizeof(attr) - 4)
        if self.oddity == "size":
            attr.n_elems += 1
        return attr


def test_a_library_without_notes_gives_none(double, path, alive):
    library = OddLibrary(double)
    library.oddity = "no notes"
    npu = rknn.RknnAccelerator(library, 3, True)
    assert npu.load(path).metadata == {}
    npu.close()


@pytest.mark.parametrize("oddity", ["counts", "layout", "size"])
def test_a_library_with_another_interface_is_refused(double, path, alive, oddity):
    library = OddLibrary(double)
    library.oddity = oddity
    npu = rknn.RknnAccelerator(library, 3, True)
    with pytest.raises(AcceleratorError, match="another librknnrt than this program knows; update one of them"):
        npu.load(path)
    assert alive() == 0
    npu.close()


def test_versions_are_told_once(double, npu, path, control, caplog):
    caplog.set_level(logging.INFO)
    assert npu.versions == Versions("", "")
    control.set(version="1.5.2_(double)", driver="0.8.8")
    npu.load(path)
    npu.load(path)
    assert npu.versions == Versions("1.5.2_(double)", "0.8.8")
    assert npu.library == double
    assert [record.getMessage() for record in caplog.records] == [
        "the NPU is driven by librknnrt 1.5.2_(double), driver 0.8.8"
    ]


def test_the_library_version_is_read_in_the_file_before_there_is_a_context(double, tmp_path):
    copy = tmp_path / "librknnrt.so"
    shutil.copy(double, copy)
    with copy.open("ab") as file:
        file.write(b"\0librknnrt version: 9.8.7 (abc@2025-04-09T09:09:27)\0more")
    accelerator = rknn.open_accelerator(copy, 1, False)
    assert accelerator.versions == Versions("9.8.7 (abc@2025-04-09T09:09:27)", "")
    accelerator.close()


def test_the_library_is_found_where_the_linker_is_told_to_look(double, tmp_path, monkeypatch):
    shutil.copy(double, tmp_path / "librknnrt.so")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    accelerator = rknn.open_accelerator(None, 1, False)
    assert accelerator.library == tmp_path / "librknnrt.so"
    accelerator.close()


def test_the_library_is_found_by_the_linker(double, tmp_path):
    shutil.copy(double, tmp_path / "librknnrt.so")
    code = "from wyoming_rknn.runtime.rknn_library import open_library; print(open_library(None, {}, []).path)"
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'librknnrt.so'}\n"


def test_contexts_are_duplicated_before_anything_else_and_then_tied_to_cores(graph, control):
    names = [call.name for call in control.calls()]
    assert names[:6] == ["rknn_init", *["rknn_dup_context"] * 2, *["rknn_set_core_mask"] * 3]
    assert set(names[6:]) == {"rknn_query"}
    assert [context.core for context in graph.contexts] == [0, 1, 2]


def test_without_core_masks_none_is_set(double, control, path, alive):
    control.set(soc="rk3566")
    npu = rknn.open_accelerator(double, 1, False)
    with pytest.raises(ModelInvalid):
        npu.load(path)
    control.set()
    graph = npu.load(path)
    np.testing.assert_array_equal(graph.run({"x": X})["y"], expected(X))
    assert {call.name for call in control.calls()}.isdisjoint({"rknn_set_core_mask", "rknn_dup_context"})
    npu.close()


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (-1, AcceleratorError, "rknn_init returned -1 (RKNN_ERR_FAIL): `wyoming-rknn doctor` shows"),
        (-3, AcceleratorError, "-3 (RKNN_ERR_DEVICE_UNAVAILABLE): the NPU's driver is missing or may not be opened"),
        (-4, AcceleratorError, "-4 (RKNN_ERR_MALLOC_FAIL): the NPU is out of memory"),
        (-6, ModelInvalid, "-6 (RKNN_ERR_MODEL_INVALID): the file is broken, or made by a toolkit newer"),
        (-10, AcceleratorError, "-10 (RKNN_ERR_DEVICE_UNMATCH): library and kernel driver do not go together"),
        (-13, ModelInvalid, "-13 (RKNN_ERR_TARGET_PLATFORM_UNMATCH): the file was made for another SoC"),
        (-99, AcceleratorError, "-99 (an error unknown to rknn_api.h)"),
    ],
)
def test_a_failing_init_is_named(npu, path, control, code, error, words):
    control.set(init_rc=code)
    with pytest.raises(error) as caught:
        npu.load(path)
    assert type(caught.value) is error
    assert str(caught.value).startswith("the NPU cannot load model.rknn: ")
    assert words in str(caught.value)


def test_a_file_that_is_not_there_or_broken(npu, tmp_path, path):
    with pytest.raises(ModelFileMissing):
        npu.load(tmp_path / "none.rknn")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelInvalid, match="RKNN_ERR_MODEL_INVALID"):
        npu.load(path)


def test_a_model_for_another_soc(npu, stand_in):
    with pytest.raises(ModelInvalid, match="made for another SoC"):
        npu.load(stand_in(squares(), target="rk3576"))


def test_without_duplicates_one_context_serves_on_any_core(npu, path, control, caplog, alive):
    caplog.set_level(logging.INFO)
    control.set(dup_rc=-1)
    graph = npu.load(path)
    assert alive() == 1
    assert "model.rknn runs on 1 of 3 cores: rknn_dup_context returned -1" in caplog.text
    assert not control.calls("rknn_set_core_mask")
    with ThreadPoolExecutor(4) as pool:
        for output in pool.map(lambda _: graph.run({"x": X})["y"], range(8)):
            np.testing.assert_array_equal(output, expected(X))


def test_without_masks_contexts_run_on_whatever_core_is_idle(npu, path, control, caplog):
    caplog.set_level(logging.DEBUG, "wyoming_rknn.runtime.rknn")
    control.set(core_mask_rc=-1)
    graph = npu.load(path)
    assert caplog.text.count("contexts are not tied to cores of the NPU") == 1
    assert [context.core for context in graph.contexts] == [None] * 3
    np.testing.assert_array_equal(graph.run({"x": X})["y"], expected(X))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("inputs_rc", "rknn_inputs_set returned -8 (RKNN_ERR_INPUT_INVALID)"),
        ("run_rc", "rknn_run returned -8"),
        ("outputs_rc", "rknn_outputs_get returned -8"),
        ("release_rc", "rknn_outputs_release returned -8"),
    ],
)
def test_a_failing_run_is_an_error_and_the_next_one_is_right(graph, control, setting, words):
    graph.run({"x": X})
    control.set(**{setting: -8})
    for _ in range(4):
        fails(graph, words)
    control.set()
    for number in range(1, 4):
        np.testing.assert_array_equal(graph.run({"x": X * number})["y"], expected(X * number))
    assert graph.usable


@pytest.mark.parametrize(
    ("output", "words"),
    [("zeros", "the NPU gave zeros only"), ("nan", "holds NaN or infinity"), ("inf", "holds NaN or infinity")],
)
def test_what_cannot_be_right_is_an_error(graph, control, output, words):
    control.set(output=output)
    fails(graph, words)
    control.set()
    np.testing.assert_array_equal(graph.run({"x": X})["y"], expected(X))


def test_whoever_checks_for_itself_gets_nan_and_infinity(npu, path, control):
    graph = npu.load(path, check_finite=False)
    control.set(output="nan")
    assert np.isnan(graph.run({"x": X})["y"]).all()
    control.set(output="zeros")
    fails(graph, "zeros only")


def test_a_run_that_hangs_is_given_up_and_the_other_cores_go_on(npu, path, control, alive, caplog):
    caplog.set_level(logging.INFO)
    graph = npu.load(path, timeout_s=0.3)
    graph.run({"x": X})
    control.set(hang=0)
    fails(graph, "the NPU did not answer within 0.3 s")
    hung = graph.contexts[0]
    assert hung.retired and hung.busy and not hung.released
    assert graph.usable
    with ThreadPoolExecutor(4) as pool:
        for output in pool.map(lambda _: graph.run({"x": X})["y"], range(20)):
            np.testing.assert_array_equal(output, expected(X))
    other = npu.load(path)
    np.testing.assert_array_equal(other.run({"x": X})["y"], expected(X))
    control.set()
    wait_until(lambda: not hung.busy)
    assert "core 0 of the NPU answered after" in caplog.text
    runs = len(control.calls("rknn_run"))
    for _ in range(6):
        graph.run({"x": X})
        other.run({"x": X})
    used = {call.notes["ctx"] for call in control.calls("rknn_run")[runs:]}
    assert str(hung.handle) not in used
    assert str(other.contexts[0].handle) in used
    graph.close()
    other.close()
    assert alive() == 0


def test_a_graph_that_hangs_everywhere_is_refused_at_once(npu, path, control):
    graph = npu.load(path, timeout_s=0.1)
    control.set(hang="all")
    for _ in range(3):
        assert graph.usable
        fails(graph, "did not answer within 0.1 s")
    assert not graph.usable
    slow = npu.load(path, timeout_s=LONG_S)
    begin = time.monotonic()
    fails(graph, "does not answer on any core that this graph was loaded for")
    fails(slow, "does not answer on any core")
    assert time.monotonic() - begin < LONG_S / 2
    graph.close()
    control.set()
    wait_until(lambda: not any(context.busy for context in graph.contexts))
    np.testing.assert_array_equal(slow.run({"x": X})["y"], expected(X))


def test_a_run_that_finds_no_core_free_is_no_failure_of_the_graph(npu, path, control):
    control.set(run_ms=300)
    graph = npu.load(path, timeout_s=LONG_S, cores=1)
    impatient = npu.load(path, timeout_s=0.05)
    with ThreadPoolExecutor(3) as pool:
        others = npu.load(path, timeout_s=LONG_S)
        running = [pool.submit(others.run, {"x": X}) for _ in range(3)]
        wait_until(lambda: all(context.busy for context in others.contexts))
        with pytest.raises(AcceleratorBusy, match=r"model\.rknn: no core of the NPU was free within 0\.05 s"):
            impatient.run({"x": X})
        for run in running:
            run.result(LONG_S)
    assert impatient.usable
    np.testing.assert_array_equal(graph.run({"x": X})["y"], expected(X))


def test_a_graph_for_fewer_cores_has_fewer_duplicates_and_runs_on_any(npu, path, control, alive):
    assert npu.shares_weights is True
    graph = npu.load(path, cores=1)
    assert alive() == 1
    assert {call.name for call in control.calls()}.isdisjoint({"rknn_set_core_mask", "rknn_dup_context"})
    assert [context.core for context in graph.contexts] == [None]
    np.testing.assert_array_equal(graph.run({"x": X})["y"], expected(X))
    assert [len(npu.load(path, cores=count).contexts) for count in (2, 3, 9)] == [2, 3, 3]


@pytest.mark.parametrize("call", ["init", "dup_context", "tensor_attr", "set_core_mask"])
def test_loading_that_hangs_is_given_up_and_freed_when_it_comes_back(double, path, alive, call):
    gate, names = threading.Event(), []

    class Hanging(RknnLibrary):
        pass

    def hang(self, *arguments, **options):
        names.append(threading.current_thread().name)
        assert gate.wait(LONG_S)
        return getattr(RknnLibrary, call)(self, *arguments, **options)

    setattr(Hanging, call, hang)
    npu = rknn.RknnAccelerator(Hanging(double), 3, True, load_timeout_s=0.2)
    with pytest.raises(AcceleratorError) as caught:
        npu.load(path)
    assert str(caught.value) == npu.load_failure
    assert npu.load_failure == (
        "the NPU did not load model.rknn within 0.2 s; reboot the board, and update librknnrt and the NPU driver if"
        " that does not help"
    )
    gate.set()
    wait_until(lambda: not any(thread.name in names for thread in threading.enumerate()))
    assert names[0] == "npu loading model.rknn"
    assert alive() == 0
    npu.load(path).close()
    assert npu.load_failure == ""
    npu.close()


def test_a_load_failure_is_the_npus_and_not_the_files(npu, path, control):
    control.set(init_rc=-6)
    with pytest.raises(ModelInvalid):
        npu.load(path)
    assert npu.load_failure == ""
    control.set(init_rc=-3)
    with pytest.raises(AcceleratorError):
        npu.load(path)
    assert "RKNN_ERR_DEVICE_UNAVAILABLE" in npu.load_failure
    control.set()
    npu.load(path)
    assert npu.load_failure == ""


def test_three_cores_compute_at_once(npu, path, control):
    control.set(run_ms=60)
    graph = npu.load(path)
    begin = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: graph.run({"x": X}), range(12)))
    assert time.monotonic() - begin < 0.9 * 12 * 0.06
    runs = control.calls("rknn_run")
    assert {call.notes["cores"] for call in runs} == {"0x1", "0x2", "0x4"}
    begins = sorted(float(call.notes["begin_ms"]) for call in runs)
    assert begins[2] - begins[0] < 60


def test_many_threads_and_graphs_get_their_own_results(npu, path, stand_in):
    other = stand_in(squares(), name="other.rknn")
    graphs = [npu.load(path), npu.load(other), npu.load(path)]

    def work(number):
        x = X * (1 + number % 37)
        np.testing.assert_array_equal(graphs[number % len(graphs)].run({"x": x})["y"], expected(x))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))


def test_contexts_are_freed_once_however_a_graph_ends(npu, path, control, alive):
    closed = npu.load(path)
    assert alive() == 3
    control.set(run_rc=-1)
    fails(closed, "rknn_run returned -1")
    closed.close()
    closed.close()
    assert alive() == 0
    with pytest.raises(EngineError, match="was closed and cannot run"):
        closed.run({"x": X})
    forgotten = npu.load(path)
    fails(forgotten, "rknn_run returned -1")
    del forgotten
    gc.collect()
    assert alive() == 0
    left = npu.load(path)
    npu.close()
    npu.close()
    assert alive() == 0
    assert not left.usable
    assert all(call.rc == 0 for call in control.calls("rknn_destroy"))
    assert len(control.calls("rknn_destroy")) == 9


@pytest.mark.parametrize("whole_npu", [False, True])
def test_closing_waits_for_a_run_that_has_begun(npu, path, control, alive, whole_npu):
    control.set(run_ms=300)
    graph = npu.load(path)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(graph.run, {"x": X})
        wait_until(lambda: any(context.busy for context in graph.contexts))
        (npu if whole_npu else graph).close()
        assert alive() == 0
        np.testing.assert_array_equal(running.result(LONG_S)["y"], expected(X))
    assert all(call.notes["while_running"] == "0" for call in control.calls("rknn_destroy"))


def test_who_waits_for_a_graph_that_is_closed_is_told_so(npu, path, control):
    control.set(dup_rc=-1, run_ms=300)
    graph = npu.load(path)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(graph.run, {"x": X})
        wait_until(lambda: graph.contexts[0].busy)
        waiting = pool.submit(graph.run, {"x": X})
        wait_until(lambda: npu._cores._waiting)
        graph.close()
        running.result(LONG_S)
        with pytest.raises(EngineError, match="was closed and cannot run"):
            waiting.result(LONG_S)


SCRIPT = """
import sys, threading
from pathlib import Path
import numpy as np
from wyoming_rknn.errors import AcceleratorError
from wyoming_rknn.runtime import rknn

npu = rknn.open_accelerator(Path(sys.argv[1]), 3, True)
graph = npu.load(Path(sys.argv[2]), timeout_s=0.3)
x = np.ones((1, 3, 4), np.float32)
for _ in range(int(sys.argv[3])):
    try:
        graph.run({"x": x})
    except AcceleratorError as error:
        print(error)
print("the end", flush=True)
"""


def ending(double, path, runs):
    """Run a program that leaves a graph behind; returns what it printed."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(double), str(path), str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_contexts_left_behind_are_freed_when_the_process_ends(double, path, control):
    control.set()
    assert ending(double, path, 2) == "the end\n"
    assert [call.rc for call in control.calls("rknn_destroy")] == [0, 0, 0]


@pytest.mark.parametrize(("hang", "runs", "freed"), [("0", 2, 2), ("all", 4, 0)])
def test_a_process_ends_while_a_call_hangs(double, path, control, hang, runs, freed):
    control.set(hang=hang)
    printed = ending(double, path, runs)
    assert "did not answer within 0.3 s" in printed
    assert printed.endswith("the end\n")
    assert len(control.calls("rknn_destroy")) == freed
