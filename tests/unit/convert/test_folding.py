import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.convert.folding import fold, prune
from wyoming_rknn.errors import ConversionError
from wyoming_rknn.runtime.onnx import load

X = np.arange(24, dtype=np.float32).reshape(1, 6, 4) - 10


def graph_of(nodes, weights=(), shape=(1, 6, 4), outputs=("y",), opset=14):
    graph = helper.make_graph(
        [helper.make_node(operator, given, made, **more) for operator, given, made, more in nodes],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(weights).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, x=X):
    return load(model.SerializeToString(), threads=1).run({"x": x})


def folded(*arguments, **more):
    """Return the operators that are left of a graph that gives the same as before."""
    model = graph_of(*arguments, **more)
    before = run(model)
    fold(model)
    onnx.checker.check_model(model, full_check=True)
    after = run(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    return [node.op_type for node in model.graph.node]


def test_what_depends_on_lengths_only_is_computed_ahead():
    nodes = [
        ("Shape", ["x"], ["lengths"], {}),
        ("Gather", ["lengths", "one"], ["rows"], {"axis": 0}),
        ("Range", ["zero", "rows", "one"], ["places"], {}),
        ("Cast", ["places"], ["numbers"], {"to": TensorProto.FLOAT}),
        ("Sin", ["numbers"], ["waves"], {}),
        ("Unsqueeze", ["waves", "last"], ["column"], {}),
        ("Add", ["x", "column"], ["y"], {}),
    ]
    assert folded(nodes, {"zero": 0, "one": 1, "last": [1]}) == ["Add"]


def test_lengths_of_what_is_computed_are_known_too():
    nodes = [
        ("Relu", ["x"], ["r"], {}),
        ("Shape", ["r"], ["lengths"], {}),
        ("Reshape", ["r", "flat"], ["f"], {}),
        ("Reshape", ["f", "lengths"], ["y"], {}),
    ]
    assert folded(nodes, {"flat": [24]}) == ["Relu", "Reshape", "Reshape"]


def test_masks_of_ones_and_other_nodes_that_do_nothing_go():
    nodes = [
        ("Mul", ["x", "ones"], ["a"], {}),
        ("Mul", ["one", "a"], ["b"], {}),
        ("Add", ["b", "none"], ["c"], {}),
        ("Where", ["never", "low", "c"], ["d"], {}),
        ("Pad", ["d", "edges"], ["e"], {}),
        ("Cast", ["e"], ["f"], {"to": TensorProto.FLOAT}),
        ("Reshape", ["f", "same"], ["g"], {}),
        ("Slice", ["g", "begin", "end", "rows"], ["h"], {}),
        ("Concat", ["h"], ["i"], {"axis": 1}),
        ("Relu", ["i"], ["y"], {}),
    ]
    weights = {
        "ones": np.ones((1, 6, 1), np.float32),
        "one": np.float32(1),
        "none": np.float32(0),
        "never": np.zeros((1, 6, 1), bool),
        "low": np.float32(-np.inf),
        "edges": [0] * 6,
        "same": [0, 0, -1],
        "begin": [0],
        "end": [100],
        "rows": [1],
    }
    assert folded(nodes, weights) == ["Relu"]


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        (("Mul", ["x", "w"], ["r"], {}), {"w": np.array([1, 1, 1, 2], np.float32)}),
        (("Sub", ["w", "x"], ["r"], {}), {"w": np.float32(0)}),
        (("Div", ["w", "x"], ["r"], {}), {"w": np.float32(1)}),
        (("Add", ["x", "w"], ["r"], {}), {"w": np.zeros((2, 1, 1), np.float32)}),
        (("Where", ["w", "v", "x"], ["r"], {}), {"w": np.array([True, False, False, False]), "v": np.float32(7)}),
        (("Pad", ["x", "w"], ["r"], {}), {"w": [0, 1, 0, 0, 0, 0]}),
        (("Slice", ["x", "b", "e", "a", "s"], ["r"], {}), {"b": [-1], "e": [-100], "a": [1], "s": [-1]}),
        (("Slice", ["x", "b", "e", "a"], ["r"], {}), {"b": [1], "e": [100], "a": [1]}),
        (("Transpose", ["x"], ["r"], {"perm": [0, 2, 1]}), {}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_does_something_stays(node, weights):
    assert folded([node, ("Relu", ["r"], ["y"], {})], weights) == [node[0], "Relu"]


def test_an_output_that_equals_the_input_stays_an_output():
    assert folded([("Mul", ["x", "one"], ["y"], {})], {"one": np.float32(1)}) == ["Mul"]


def test_outputs_get_fixed_shapes():
    model = graph_of([("Relu", ["x"], ["y"], {})])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows_of_old", "m", 4]))
    fold(model)
    assert [axis.dim_value for axis in model.graph.output[0].type.tensor_type.shape.dim] == [1, 6, 4]


@pytest.mark.parametrize("operator", ["NonZero", "If"])
def test_what_makes_shapes_depend_on_the_input_is_refused(operator):
    more = {}
    if operator == "If":
        branch = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["b"])], "b", [], [onnx.ValueInfoProto(name="b")]
        )
        more = {"then_branch": branch, "else_branch": branch}
    with pytest.raises(ConversionError, match=f"has a node {operator}"):
        fold(graph_of([(operator, ["x"], ["y"], more)]))


def test_free_axes_are_refused():
    nodes = [("Shape", ["x"], ["s"], {}), ("Cast", ["s"], ["n"], {"to": TensorProto.FLOAT})]
    nodes += [("ReduceMax", ["n"], ["most"], {}), ("Mul", ["x", "most"], ["y"], {})]
    with pytest.raises(ConversionError, match="input x has an axis of no fixed length"):
        fold(graph_of(nodes, shape=(1, "rows", 4)))


def test_what_cannot_be_run_is_refused():
    nodes = [("MatMul", ["a", "b"], ["p"], {}), ("Add", ["x", "p"], ["y"], {})]
    with pytest.raises(ConversionError, match=r"cannot be run with fixed shapes: .*export it anew"):
        fold(graph_of(nodes, {"a": np.ones((4, 4), np.float32), "b": np.ones((5, 4), np.float32)}))


def test_a_newer_opset_is_declared_older_if_that_means_the_same():
    model = graph_of([("Relu", ["x"], ["y"], {})], opset=21)
    fold(model)
    assert model.opset_import[0].version == 19
    with pytest.raises(ConversionError, match="uses Gelu of opset 21, the toolkit reads up to 19"):
        fold(graph_of([("Gelu", ["x"], ["y"], {})], opset=21))


def test_nodes_and_weights_that_nothing_needs_are_pruned():
    model = graph_of(
        [("Relu", ["x"], ["y"], {}), ("Mul", ["x", "w"], ["unused"], {})], {"w": np.float32(2), "v": np.float32(3)}
    )
    prune(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    assert not model.graph.initializer
