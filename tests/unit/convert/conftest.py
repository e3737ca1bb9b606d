"""The vendor's toolkit as a double, in the Python that runs the tests."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.convert.environment import Environment
from wyoming_rknn.convert.toolkit import BuildRequest, VendorToolkit

HERE = Path(__file__).parent


@pytest.fixture
def toolkit(tmp_path):
    """Return what drives the double of the vendor's toolkit."""
    paths = (HERE / "toolkit_double", HERE.parents[1])
    return VendorToolkit(Environment(Path(sys.executable), paths, "2.5.0"), tmp_path / "logs")


@pytest.fixture
def faults(monkeypatch):
    """Return a function that gives the double faults."""
    return lambda *names: monkeypatch.setenv("TOOLKIT_DOUBLE", " ".join(names))


@pytest.fixture
def request_for(tmp_path):
    """Return a function that makes a request for a graph of two inputs, y = 3 b + a and z = b."""

    def make(**changes):
        graph = tmp_path / "graph.onnx"
        onnx.save(two_inputs(), graph)
        inputs = {"b": np.array([[[1, 2, 4]]], np.float32), "a": np.array([[[5, 6, 8]]], np.float32)}
        options = {"name": "tiny decoder", "graph": graph, "target": "rk3588", "inputs": inputs}
        return BuildRequest(**{**options, "out": tmp_path / "tiny.rknn", "timeout_s": 60.0, **changes})

    return make


def two_inputs():
    """Return a graph with the inputs a and b, of which one name also has a weight."""
    declared = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("a", [1, 1, 3]), ("b", [1, 1, 3]), ("three", []))
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 3]) for name in ("y", "z")]
    nodes = [
        helper.make_node("Mul", ["b", "three"], ["t"]),
        helper.make_node("Add", ["t", "a"], ["y"]),
        helper.make_node("Identity", ["b"], ["z"]),
    ]
    weights = [numpy_helper.from_array(np.array(3, np.float32), "three")]
    graph = helper.make_graph(nodes, "two", declared, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
