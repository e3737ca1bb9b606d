from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_sensevoice import build_graph

from wyoming_rknn.convert.sensevoice_static import embedding_of, fix, frames_for, separate, simplify
from wyoming_rknn.errors import ConversionError
from wyoming_rknn.models.formats.sensevoice_layout import Layout
from wyoming_rknn.runtime.onnx import load

GOLDEN = Path(__file__).parents[2] / "golden" / "sensevoice"
EXPORTS = ("model", "model_dynamo", "sherpa")
LEFT = {"Add", "Conv", "Div", "LayerNormalization", "MatMul", "Mul", "Pad", "Pow", "ReduceMean", "Relu", "Reshape"}
LEFT |= {"Softmax", "Sqrt", "Sub", "Transpose"}
"""Operators that NPUs compute; no look-up, no mask, no split, nothing about lengths."""


def exported(name):
    return onnx.load(GOLDEN / f"{name}.onnx")


def run(model, feeds):
    graph = load(model.SerializeToString(), threads=1)
    return next(iter(graph.run({spec.name: feeds[spec.name].astype(spec.dtype) for spec in graph.inputs}).values()))


@pytest.mark.parametrize(("seconds", "frames"), [(1, 24), (3, 56), (5, 88), (10, 176), (20, 344), (30, 504)])
def test_a_bucket_takes_its_seconds_and_the_prompt(seconds, frames):
    assert frames_for(seconds) == frames
    assert frames % 8 == 0
    # Rows of 60 ms, the last one only begun.
    assert frames - 4 >= (100 * seconds - 2) / 6


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("frames", [24, 56])
def test_a_fixed_graph_computes_what_the_export_computes(export, frames):
    model = exported(export)
    rows = np.random.default_rng(1).normal(size=(1, frames - 4, 560)).astype(np.float32)
    names = [value.name for value in model.graph.input]
    numbers = (np.array([frames - 4]), np.array([7]), np.array([15]))
    expected = run(model, dict(zip(names, (rows, *numbers), strict=True)))

    fixed = fix(model, frames)

    onnx.checker.check_model(fixed, full_check=True)
    assert {node.op_type for node in fixed.graph.node} <= LEFT
    assert fixed.opset_import[0].version <= 19
    prompt = embedding_of(model.graph)[[7, 1, 2, 15]]
    logits = run(fixed, {"speech": np.concatenate((prompt[None], rows), 1)})
    assert logits.shape == (1, expected.shape[2], frames)
    assert np.abs(logits.transpose(0, 2, 1) - expected).max() < 1e-4
    graph = load(fixed.SerializeToString(), threads=1)
    layout = Layout.of(graph.inputs, graph.outputs)
    assert layout is not None
    assert (layout.frames, layout.capacity, layout.transposed) == (frames, frames - 4, True)
    assert not layout.has_prompt_inside and not layout.has_cmvn_inside


def test_the_export_stays_as_it_is():
    model = exported("model")
    before = model.SerializeToString(deterministic=True)
    fix(model, 24)
    assert model.SerializeToString(deterministic=True) == before


def test_the_embedding_is_found_wherever_it_lies():
    model = exported("model")
    expected = embedding_of(model.graph)
    assert expected.shape == (16, 560) and expected.dtype == np.float32
    (weight,) = [one for one in model.graph.initializer if list(one.dims) == [16, 560]]
    model.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    model.graph.initializer.remove(weight)
    assert np.array_equal(embedding_of(model.graph), expected)
    model.graph.node[0].attribute[0].t.data_type = TensorProto.FLOAT16
    with pytest.raises(ConversionError, match="no export of FunASR or sherpa-onnx in 32-bit floats"):
        embedding_of(model.graph)


@pytest.mark.parametrize("layout", ["funasr", "npu", "happyme531"])
def test_other_graphs_are_refused(layout):
    model = build_graph(layout, frames=None if layout == "funasr" else 24)
    with pytest.raises(ConversionError, match="no export of FunASR"):
        embedding_of(model.graph)
    if layout == "funasr":
        for node in model.graph.node:
            node.op_type = node.op_type.replace("Concat", "Max")
    with pytest.raises(ConversionError, match=r"take model\.onnx"):
        fix(model, 24)


def test_static_graphs_keep_their_inputs():
    model = onnx.load(GOLDEN / "rknn-3s.onnx")
    inputs = {"x": 5 + np.random.default_rng(1).normal(size=(1, 50, 560)), "prompt": np.array([3, 1, 2, 14])}
    expected, before = run(model, inputs), [value.name for value in model.graph.input]
    simplify(model)
    assert [value.name for value in model.graph.input] == before == ["x", "prompt"]
    assert {node.op_type for node in model.graph.node} - LEFT == {"Gather", "Unsqueeze", "Concat"}
    assert np.abs(run(model, inputs) - expected).max() < 1e-4


def split_graph(bias, axis, sizes, rows=(1, 6, 4)):
    random = np.random.default_rng(1)
    weights = {"w": random.normal(size=(4, 9)), "b": random.normal(size=9)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"])]
    if bias:
        nodes.append(helper.make_node("Add", ["b", "p"], ["q"]))
    source = nodes[-1].output[0]
    given = [source] if sizes is None else [source, "sizes"]
    nodes.append(helper.make_node("Split", given, ["one", "two", "three"], axis=axis))
    graph = helper.make_graph(
        nodes,
        "split",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, rows)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("one", "two", "three")],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    if sizes is not None:
        graph.initializer.append(numpy_helper.from_array(np.array(sizes), "sizes"))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def results(model):
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    return load(model.SerializeToString(), threads=1).run({"x": x})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("axis", "sizes"), [(-1, None), (2, [3, 3, 3]), (-1, [2, 3, 4])])
def test_products_are_separated_instead_of_split(bias, axis, sizes):
    model = split_graph(bias, axis, sizes)
    expected = results(model)
    separate(model.graph)
    assert {node.op_type for node in model.graph.node} == {"MatMul", "Add"} - (set() if bias else {"Add"})
    found = results(model)
    assert all(np.allclose(expected[name], found[name], atol=1e-6) for name in expected)
    assert sum(weight.dims[-1] for weight in model.graph.initializer if len(weight.dims) == 2) == 9


@pytest.mark.parametrize("reason", ["axis", "shared", "no product"])
def test_other_splits_stay(reason):
    model = split_graph(True, 1 if reason == "axis" else -1, [3, 3, 3], rows=(1, 9, 4))
    if reason == "shared":
        model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
        model.graph.node.append(helper.make_node("Relu", ["q"], ["r"]))
    if reason == "no product":
        model.graph.node[1].op_type = "Mul"
    expected = results(model)
    separate(model.graph)
    assert "Split" in [node.op_type for node in model.graph.node]
    found = results(model)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
