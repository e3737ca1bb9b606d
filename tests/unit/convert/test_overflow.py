"""The rescale changes nothing but what would overflow."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.convert import sensevoice_static
from wyoming_rknn.convert.overflow import LARGEST, SAFETY, peaks, rescale
from wyoming_rknn.runtime.onnx import load

GOLDEN = Path(__file__).parents[2] / "golden" / "sensevoice"
LIMIT = LARGEST / SAFETY
WIDTH, UNITS, TOKENS, FRAMES = 16, 32, 10, 24


class Stack:
    """Residual blocks of attention-like and feed-forward branches before LayerNorms, as SenseVoice has them."""

    def __init__(self, blocks, inflated, norm):
        self.random = np.random.default_rng(1)
        self.nodes, self.weights = [], []
        self.norm = getattr(self, norm)
        x = "x"
        for number in range(blocks):
            inner = self.norm(x)
            branch = self.add("Add", self.linear(inner, WIDTH, WIDTH), self.add("Relu", inner))
            x = self.add("Add", x, branch)
            inner = self.add("Relu", self.linear(self.norm(x), WIDTH, UNITS))
            x = self.add("Add", x, self.linear(inner, UNITS, WIDTH, inflated.get(number, 1.0)))
        self.stream = x
        # The bias first, as torch's exporter writes it.
        self.nodes.append(
            helper.make_node("Add", [self.weight(TOKENS), self.product(self.norm(x), WIDTH, TOKENS)], ["y"])
        )

    def add(self, operator, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, *shape, value=None, scale=1.0):
        value = self.random.normal(size=shape) * scale if value is None else value
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.float32), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def product(self, x, into, out, scale=1.0):
        return self.add("MatMul", x, self.weight(into, out, scale=scale))

    def linear(self, x, into, out, scale=1.0):
        return self.add("Add", self.weight(out, scale=scale), self.product(x, into, out, scale))

    def written(self, x):
        centred = self.add("Sub", x, self.add("ReduceMean", x, axes=[-1]))
        variance = self.add("ReduceMean", self.add("Pow", centred, self.weight(value=2)), axes=[-1])
        deviation = self.add("Sqrt", self.add("Add", variance, self.weight(value=1e-5)))
        return self.add("Mul", self.add("Div", centred, deviation), self.weight(WIDTH))

    def one(self, x):
        return self.add("LayerNormalization", x, self.weight(WIDTH), axis=-1)

    def model(self):
        graph = helper.make_graph(
            self.nodes,
            "stack",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, FRAMES, WIDTH])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, FRAMES, TOKENS])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FEEDS = {"x": np.random.default_rng(2).normal(size=(1, FRAMES, WIDTH)).astype(np.float32)}
NORMS = pytest.mark.parametrize("norm", ["written", "one"])


def run(model):
    (result,) = load(model.SerializeToString(), threads=1).run(FEEDS).values()
    return result


def halves(model):
    """Return what the graph computes if every tensor is a 16-bit float."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for weight in half.graph.initializer:
        values = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), weight.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    (result,) = load(half.SerializeToString(), threads=1).run({"x": FEEDS["x"].astype(np.float16)}).values()
    return result


def changed(model, before):
    """Return which tensors became smaller, by how much."""
    after = peaks(model, [FEEDS])
    return {name: before[name] / after[name] for name in after if name in before and after[name] < 0.99 * before[name]}


@NORMS
def test_the_last_layer_that_overflows(norm):
    stack = Stack(4, {3: 3000.0}, norm)
    model = stack.model()
    expected, before = run(model), peaks(model, [FEEDS])
    assert before[stack.stream] > LARGEST

    done = rescale(model, before)

    assert done.largest > LARGEST and done.beyond == ()
    assert done.divisor == 2 ** math.ceil(math.log2(done.largest / LIMIT)) > 1
    assert max(peaks(model, [FEEDS]).values()) <= LIMIT
    # A product, its bias and the sum with the stream: nothing else is touched.
    assert changed(model, before) == pytest.approx(dict.fromkeys(done.tensors, done.divisor), rel=1e-5)
    assert len(done.tensors) == 3 and stack.stream in done.tensors
    assert np.array_equal(expected.argmax(-1), run(model).argmax(-1))
    assert np.abs(expected - run(model)).max() < 1e-5
    onnx.checker.check_model(model, full_check=True)


def test_16_bits_give_nan_before_and_numbers_after():
    model = Stack(4, {3: 3000.0}, "one").model()
    expected = run(model)
    assert not np.isfinite(halves(model)).all()
    rescale(model, peaks(model, [FEEDS]))
    assert np.abs(halves(model) - expected).max() < 0.1


@NORMS
def test_a_stream_that_is_large_from_the_middle_on(norm):
    stack = Stack(5, {1: 2000.0, 2: 500.0}, norm)
    model = stack.model()
    expected, before = run(model), peaks(model, [FEEDS])

    done = rescale(model, before)

    assert done.beyond == () and stack.stream in done.tensors
    assert max(peaks(model, [FEEDS]).values()) <= LIMIT
    assert set(changed(model, before)) == set(done.tensors)
    assert np.array_equal(expected.argmax(-1), run(model).argmax(-1))
    assert np.abs(expected - run(model)).max() < 1e-4


def test_nothing_is_changed_where_nothing_overflows():
    model = Stack(3, {}, "written").model()
    before = model.SerializeToString()
    done = rescale(model, peaks(model, [FEEDS]))
    assert (done.divisor, done.tensors, done.beyond) == (1, (), ())
    assert model.SerializeToString() == before


def test_what_happens_inside_a_layer_norm_does_not_count():
    model = Stack(2, {1: 60.0}, "written").model()
    squares = [node.output[0] for node in model.graph.node if node.op_type == "Pow"]
    model.graph.output.append(helper.make_tensor_value_info(squares[-1], TensorProto.FLOAT, None))
    assert load(model.SerializeToString(), threads=1).run(FEEDS)[squares[-1]].max() > LARGEST
    del model.graph.output[-1]
    assert max(peaks(model, [FEEDS]).values()) < LIMIT


def test_the_largest_of_all_feeds_counts():
    model = Stack(1, {}, "one").model()
    louder = {"x": 100 * FEEDS["x"]}
    first, second, both = (peaks(model, feeds) for feeds in ([FEEDS], [louder], [FEEDS, louder]))
    assert both == {name: max(first[name], second[name]) for name in first} == second | first | both


@pytest.mark.parametrize("taker", ["Softmax", "Relu", "Transpose", "output"])
def test_what_cannot_be_rescaled_is_named_and_left_alone(taker):
    stack = Stack(1, {}, "one")
    large = stack.linear("x", WIDTH, TOKENS, 1e5)
    model = stack.model()
    model.graph.output[0].name = large if taker == "output" else "z"
    if taker != "output":
        model.graph.node.append(helper.make_node(taker, [large], ["z"]))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    expected = run(model)
    done = rescale(model, peaks(model, [FEEDS]))
    assert large in done.beyond and done.divisor == 1
    assert np.array_equal(run(model), expected)


def ending_in(stack, x):
    """Return the graph if a tensor is all that its last norm takes."""
    product = stack.product(stack.norm(x), WIDTH, TOKENS)
    stack.nodes.append(helper.make_node("Identity", [product], ["y"]))
    return stack.model()


def rescaled(model):
    """Rescale and check that the result is the same; returns what was done."""
    expected = run(model)
    done = rescale(model, peaks(model, [FEEDS]))
    assert done.divisor > 1 and done.beyond == ()
    assert max(peaks(model, [FEEDS]).values()) <= LIMIT
    assert np.abs(expected - run(model)).max() < 1e-4
    return done


def bare():
    stack = Stack(0, {}, "one")
    stack.nodes.clear()
    return stack


def test_two_streams_that_are_both_too_large_meet():
    stack = bare()
    one, two = (stack.linear("x", WIDTH, WIDTH, 1e5) for _ in range(2))
    # So that it is not the sum's alone.
    kept = stack.norm(two)
    total = stack.add("Add", one, two)
    done = rescaled(ending_in(stack, stack.add("Add", stack.norm(total), kept)))
    assert {one, two, total} <= set(done.tensors)


def test_a_layer_that_others_take_is_divided_behind_it():
    stack = bare()
    shared = stack.linear("x", WIDTH, WIDTH)
    total = stack.add("Add", shared, stack.linear("x", WIDTH, WIDTH, 1e5))
    inner = stack.add("Add", stack.norm(total), stack.add("Relu", shared))
    done = rescaled(ending_in(stack, inner))
    assert total in done.tensors and shared not in done.tensors


def test_what_becomes_smaller_with_others_is_not_divided_again():
    stack = bare()
    large = stack.product("x", WIDTH, WIDTH, 2500.0)
    weight = numpy_helper.to_array(stack.weights[-1])
    opposite = stack.weight(value=-weight + 700 * stack.random.normal(size=weight.shape))
    against = stack.add("MatMul", "x", opposite)
    # Not large by itself, though it is a sum with something large, and then part of another one.
    middling = stack.add("Add", large, against)
    total = stack.add("Add", middling, large)
    model = ending_in(stack, total)
    measured = peaks(model, [FEEDS])
    assert measured[middling] < LIMIT < min(measured[large], measured[total])
    assert {large, middling, total} <= set(rescaled(model).tensors)


def test_a_weight_that_another_layer_uses_stays_as_it_is_there():
    stack = Stack(2, {1: 3000.0}, "one")
    model = stack.model()
    inflated = [node for node in model.graph.node if node.op_type == "MatMul" and node.output[0] != "y"][-2]
    hidden = [node.output[0] for node in model.graph.node if node.op_type == "Relu"][1]
    model.graph.node.append(helper.make_node("MatMul", [hidden, inflated.input[1]], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    before = load(model.SerializeToString(), threads=1).run(FEEDS)
    measured = peaks(model, [FEEDS])
    measured.pop("z")
    assert rescale(model, measured).divisor > 1
    after = load(model.SerializeToString(), threads=1).run(FEEDS)
    assert np.array_equal(before["z"], after["z"])
    assert np.abs(before["y"] - after["y"]).max() < 1e-5


@pytest.mark.parametrize("export", ["model", "model_dynamo", "sherpa"])
def test_the_encoder_of_an_export(export):
    """Whatever the exporter makes of LayerNorms, sums and biases."""
    exported = onnx.load(GOLDEN / f"{export}.onnx")
    model = sensevoice_static.fix(exported, 24)
    feeds = {"speech": np.random.default_rng(3).normal(size=(1, 24, 560)).astype(np.float32)}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    weights = {weight.name: weight for weight in model.graph.initializer}
    # Of each encoder the last product before its norm is that of w_2: the only one that becomes narrower.
    narrowing = [n for n in products if n.input[1] in weights and weights[n.input[1]].dims[0] == 24]
    weight = weights[narrowing[0].input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(20_000), weight.name))

    def result():
        return next(iter(load(model.SerializeToString(), threads=1).run(feeds).values()))

    expected, before = result(), peaks(model, [feeds])
    done = rescale(model, before)
    assert done.largest > LARGEST and done.divisor >= 8 and len(done.tensors) == 3 and done.beyond == ()
    assert max(peaks(model, [feeds]).values()) <= LIMIT
    assert np.array_equal(expected.argmax(1), result().argmax(1))
    assert np.abs(expected - result()).max() < 1e-3
