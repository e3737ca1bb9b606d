"""Graphs through rknn-toolkit-lite2 itself, on the test double: only where both are, as script/test-arm64 sees to."""

import ctypes
import gc
import importlib.util
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from wyoming_rknn.errors import AcceleratorError, ModelInvalid
from wyoming_rknn.runtime import rknn_lite

LIBRARY = Path("/usr/lib/librknnrt.so")
"""The only place where the package looks for it."""
SLOW_S = 60.0
"""For a run under emulation."""
X = np.linspace(-3.0, 3.0, 12, dtype=np.float32).reshape(1, 3, 4)

if importlib.util.find_spec("rknnlite") is None or not LIBRARY.exists():
    pytest.skip(f"rknn-toolkit-lite2 and the test double at {LIBRARY} are needed", allow_module_level=True)


@pytest.fixture
def alive():
    try:
        count = ctypes.CDLL(str(LIBRARY)).rknn_double_contexts
    except AttributeError:
        pytest.skip(f"{LIBRARY} is a real one, which refuses stand-in models")
    assert count() == 0
    yield count
    gc.collect()
    assert count() == 0


@pytest.fixture
def npu(control, alive):
    control.set()
    accelerator = rknn_lite.open_accelerator(3)
    yield accelerator
    control.set()
    accelerator.close()


@pytest.fixture
def path(stand_in):
    """Return a model y = x * x + n."""
    nodes = [
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "x"], ["xx"]),
        helper.make_node("Add", ["xx", "f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape),
            helper.make_tensor_value_info("n", TensorProto.INT32, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, X.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return stand_in(model.SerializeToString())


def feeds(scale=1):
    return {"x": X * scale, "n": np.arange(4, dtype=np.int32)}


def expected(scale=1):
    half = (X * scale).astype(np.float16).astype(np.float32)
    return (half * half + np.arange(4, dtype=np.float32)).astype(np.float16).astype(np.float32)


def test_runs_on_every_core_give_what_the_graph_computes(npu, path, capfd):
    graph = npu.load(path, timeout_s=SLOW_S)
    assert [(spec.name, spec.shape, spec.dtype) for spec in graph.inputs] == [
        ("x", (1, 3, 4), np.float32),
        ("n", (4,), np.int32),
    ]
    assert npu.versions.library == "2.3.2 (double)"
    assert npu.versions.driver == "0.9.8"
    assert [context.core for context in graph.contexts] == [0, 1, 2]
    with ThreadPoolExecutor(6) as pool:
        for scale, outputs in enumerate(pool.map(lambda scale: graph.run(feeds(scale)), range(1, 25)), 1):
            np.testing.assert_array_equal(outputs["y"], expected(scale))
    assert logging.getLevelName(logging.INFO) == "INFO"
    assert capfd.readouterr() == ("", "")


def test_contexts_are_freed(npu, path, alive):
    graph = npu.load(path)
    assert alive() == 3
    graph.close()
    assert alive() == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"run_rc": -1}, "gave the outputs of the run before"),
        ({"inputs_rc": -8}, "RKNN_ERR_INPUT_INVALID"),
        ({"outputs_rc": -1}, "RKNN_ERR_FAIL"),
        ({"output": "zeros"}, "zeros only"),
        ({"output": "nan"}, "NaN or infinity"),
    ],
)
def test_a_failing_run_is_an_error_and_the_next_one_is_right(npu, path, control, fault, words):
    graph = npu.load(path, timeout_s=SLOW_S)
    graph.run(feeds())
    control.set(**fault)
    with pytest.raises(AcceleratorError, match=words):
        graph.run(feeds(2))
    control.set()
    np.testing.assert_array_equal(graph.run(feeds(3))["y"], expected(3))


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (-1, AcceleratorError, "RKNN_ERR_FAIL"),
        (-6, ModelInvalid, "the file is broken"),
        (-13, ModelInvalid, "the file was made for another SoC"),
    ],
)
def test_a_failing_init_is_named(npu, path, control, code, error, words):
    control.set(init_rc=code)
    with pytest.raises(error, match=words):
        npu.load(path)


def test_a_run_that_hangs_is_given_up(npu, path, control, alive):
    graph = npu.load(path, timeout_s=2.0)
    graph.run(feeds())
    control.set(hang=0)
    with pytest.raises(AcceleratorError, match="did not answer"):
        graph.run(feeds())
    np.testing.assert_array_equal(graph.run(feeds(2))["y"], expected(2))
    control.set()
