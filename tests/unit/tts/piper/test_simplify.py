"""Simplifying: each rule on a small graph, and that nothing changes where a rule does not hold."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_piper import build_voice

from wyoming_rknn.runtime.graph import Tensor
from wyoming_rknn.runtime.onnx import load
from wyoming_rknn.tts.piper.cut import cut_voice
from wyoming_rknn.tts.piper.simplify import simplify
from wyoming_rknn.tts.piper.split import read

PHONEMES = (1, 2, 3, 7, 30)


class Graph:
    """A graph in the making; takes `input` [1, phonemes], `input_lengths` [1] and `x` [1, 4, phonemes]."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def whole(self, *numbers: int, scalar: bool = False) -> str:
        return self.weight(np.array(numbers[0] if scalar else numbers, np.int64))

    def weight(self, array: Tensor) -> str:
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **given: object) -> str:
        names = [f"t{len(self.nodes)}_{position}" for position in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **given))
        return names[0]

    def phonemes(self, of: str = "x", axis: int = 2) -> str:
        """Compute the number of phonemes the way exporters write it out."""
        return self.add("Gather", self.add("Shape", of), self.whole(axis, scalar=True), axis=0)

    def vector(self, scalar: str) -> str:
        return self.add("Unsqueeze", scalar, self.whole(0))

    def embedded(self) -> str:
        table = self.weight(np.arange(40, dtype=np.float32).reshape(10, 4) - 20)
        return self.add("Transpose", self.add("Gather", table, "input"), perm=[0, 2, 1])

    def mask(self, of: str = "input", axis: int = 1) -> str:
        count = self.phonemes(of, axis)
        positions = self.add("Range", self.whole(0, scalar=True), count, self.whole(1, scalar=True))
        lengths = self.add("Unsqueeze", "input_lengths", self.whole(1))
        inside = self.add("Less", self.add("Unsqueeze", positions, self.whole(0)), lengths)
        return self.add("Cast", self.add("Unsqueeze", inside, self.whole(1)), to=TensorProto.FLOAT)

    def model(
        self, *outputs: str, kind: int = TensorProto.FLOAT, x: Sequence[int | str] = (1, 4, "n")
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "small",
            [
                helper.make_tensor_value_info("input", TensorProto.INT64, ["batch", "phonemes"]),
                helper.make_tensor_value_info("input_lengths", TensorProto.INT64, ["batch"]),
                helper.make_tensor_value_info("x", TensorProto.FLOAT, x),
            ],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def feeds(phonemes: int) -> dict[str, Tensor]:
    generator = np.random.default_rng(phonemes)
    return {
        "input": generator.integers(1, 9, (1, phonemes)),
        "input_lengths": np.array([phonemes], np.int64),
        "x": generator.standard_normal((1, 4, phonemes)).astype(np.float32),
    }


def outputs(model: onnx.ModelProto, fed: dict[str, Tensor]) -> list[Tensor]:
    taken = {value.name for value in model.graph.input}
    graph = load(model.SerializeToString(), threads=1)
    return list(graph.run({name: tensor for name, tensor in fed.items() if name in taken}).values())


def simplified(model: onnx.ModelProto) -> list[str]:
    """Simplify, check that all outputs are the same to the bit, and return the operators that remain."""
    simple = simplify(model)
    assert simple is not None
    for phonemes in PHONEMES:
        fed = feeds(phonemes)
        for one, other in zip(outputs(model, fed), outputs(simple, fed), strict=True):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return sorted(node.op_type for node in simple.graph.node)


def mask_removed(g: Graph) -> str:
    x = g.embedded()
    return g.add("Relu", g.add("Mul", g.mask(x, 2), x))


def fill_removed(g: Graph) -> str:
    padding = g.add("Equal", g.mask(), g.weight(np.float32(0)))
    return g.add("Relu", g.add("Where", padding, g.weight(np.float32(-1e4)), g.embedded()))


def mask_of_outputs_removed(g: Graph) -> str:
    # As long as the mask is, whatever number of frames the input makes of it.
    total = g.add("ReduceSum", g.add("Abs", "x"), g.whole(1, 2), keepdims=0)
    least = g.add("Clip", total, g.weight(np.float32(1)), "")
    lengths = g.add("Cast", least, to=TensorProto.INT64)
    longest = g.add("ReduceMax", lengths, keepdims=0)
    frames = g.add("Range", g.whole(0, scalar=True), longest, g.whole(1, scalar=True))
    inside = g.add("Less", g.add("Unsqueeze", frames, g.whole(0)), g.add("Unsqueeze", lengths, g.whole(1)))
    mask = g.add("Cast", inside, to=TensorProto.FLOAT)
    numbered = g.add("Cast", g.add("Unsqueeze", frames, g.whole(0)), to=TensorProto.FLOAT)
    return g.add("Relu", g.add("Mul", numbered, mask))


def batch_folded(g: Graph) -> str:
    parts = [g.vector(g.phonemes(axis=axis)) for axis in (0, 1, 2)]
    shape = g.add("Concat", parts[0], g.whole(2), g.whole(2), parts[2], axis=0)
    return g.add("Reshape", g.add("Relu", "x"), shape)


def two_lengths(g: Graph) -> str:
    # [1, 4, n] to [n, 2, 2 n] takes two lengths; n * n is one of their products.
    n = g.phonemes()
    wide = g.add("Expand", g.add("Unsqueeze", "x", g.whole(3)), g.add("Concat", g.whole(1, 1, 1), g.vector(n), axis=0))
    double = g.add("Mul", n, g.whole(2, scalar=True))
    return g.add("Reshape", wide, g.add("Concat", g.vector(n), g.whole(2), g.vector(double), axis=0))


def pads_written_out(g: Graph) -> str:
    less = g.vector(g.add("Sub", g.phonemes(), g.whole(5, scalar=True)))
    pads = g.add("Concat", g.whole(0, 0), less, less, axis=0)
    zeros = g.add("ConstantOfShape", g.add("Sub", g.whole(6), g.add("Shape", pads)), value=_zero())
    pairs = g.add("Reshape", g.add("Concat", pads, zeros, axis=0), g.whole(-1, 2))
    turned = g.add("Slice", pairs, g.whole(-1), g.whole(np.iinfo(np.int64).min), g.whole(0), g.whole(-1))
    flat = g.add("Reshape", g.add("Transpose", turned, perm=[1, 0]), g.whole(-1))
    table = g.weight(np.arange(36, dtype=np.float32).reshape(1, 9, 4))
    padded = g.add("Pad", table, g.add("Cast", flat, to=TensorProto.INT64), "", mode="constant")
    return g.add("Relu", padded)


def nothing_to_pad(g: Graph) -> str:
    return g.add("Relu", g.add("Pad", "x", g.whole(0, 0, 0, 0, 0, 0), mode="constant"))


def nothing_to_slice(g: Graph) -> str:
    full = g.add("Slice", "x", g.whole(0), g.vector(g.phonemes()), g.whole(2), g.whole(1))
    return g.add("Relu", g.add("Slice", full, g.whole(0), g.whole(2**63 - 1), g.whole(1)))


def nothing_to_expand(g: Graph) -> str:
    shape = g.add("Shape", "x")
    ones = g.add("ConstantOfShape", g.add("Shape", shape), value=_zero(1))
    unset = g.add("Equal", shape, g.add("Mul", ones, g.whole(-1)))
    return g.add("Relu", g.add("Expand", "x", g.add("Where", unset, ones, shape)))


def nothing_to_do(g: Graph) -> str:
    same = g.add("Cast", g.add("Identity", g.add("Concat", "x", axis=1)), to=TensorProto.FLOAT)
    return g.add("Relu", g.add("Transpose", g.add("Reshape", same, g.whole(0, 4, -1)), perm=[0, 1, 2]))


def same_twice(g: Graph) -> str:
    return g.add("Sub", g.add("Exp", "x"), g.add("Mul", g.add("Exp", "x"), g.weight(np.float32(0.5))))


def dead(g: Graph) -> str:
    g.add("Sigmoid", "x")
    return g.add("Relu", "x")


def constants(g: Graph) -> str:
    one = g.add("Constant", value=numpy_helper.from_array(np.float32(0.25)))
    two = g.add("Constant", value_float=0.25)
    return g.add("Mul", g.add("Mul", "x", one), two)


def _zero(number: int = 0) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([number], np.int64))


_LENGTH = ["Gather", "Shape"]


@pytest.mark.parametrize(
    ("build", "remaining"),
    [
        (mask_removed, ["Gather", "Relu", "Transpose"]),
        (fill_removed, ["Gather", "Relu", "Transpose"]),
        (
            mask_of_outputs_removed,
            ["Abs", "ReduceSum", "Clip", "Cast", "Reshape", "Range", "Unsqueeze", "Cast", "Relu"],
        ),
        (batch_folded, ["Relu", "Reshape"]),
        (two_lengths, ["Add", "Add", "Expand", *_LENGTH, "Mul", "Mul", "Reshape", "Unsqueeze"]),
        (pads_written_out, ["Add", "Gather", "Mul", "Pad", "Relu", "Shape"]),
        (nothing_to_pad, ["Relu"]),
        (nothing_to_slice, ["Relu"]),
        (nothing_to_expand, ["Relu"]),
        (nothing_to_do, ["Relu"]),
        (same_twice, ["Exp", "Mul", "Sub"]),
        (dead, ["Relu"]),
        (constants, ["Mul", "Mul"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_rule(build: Callable[[Graph], str], remaining: list[str]) -> None:
    graph = Graph()
    assert simplified(graph.model(build(graph))) == sorted(remaining)


def test_what_a_mask_widens_keeps_it() -> None:
    graph = Graph()
    wide = graph.add("Mul", graph.weight(np.float32(3)), graph.mask())
    assert "Mul" in simplified(graph.model(graph.add("Relu", wide)))


def test_other_numbers_than_ones_are_multiplied() -> None:
    graph = Graph()
    half = graph.add("ConstantOfShape", graph.add("Shape", "x"), value=numpy_helper.from_array(np.float32([0.5])))
    model = graph.model(graph.add("Mul", "x", half))
    simplified(model)
    simple = simplify(model)
    assert simple is not None
    assert (simple.graph.node[-1].op_type, simple.graph.node[-1].input[0]) == ("Mul", "x")


def test_a_part_of_an_axis_is_sliced() -> None:
    graph = Graph()
    less = graph.vector(graph.add("Sub", graph.phonemes(), graph.whole(1, scalar=True)))
    part = graph.add("Slice", "x", graph.whole(0), less, graph.whole(2))
    turned = graph.add("Slice", "x", graph.whole(-1), graph.whole(-(2**63)), graph.whole(1), graph.whole(-1))
    assert simplified(graph.model(part, turned)).count("Slice") == 2


def test_lengths_that_depend_on_values_stay_apart() -> None:
    # As many elements are above zero as the input says: neither all nor those of another mask.
    graph = Graph()
    zero = graph.weight(np.float32(0))
    found = [
        graph.add("Transpose", graph.add("NonZero", graph.add(operator, "x", zero)), perm=[1, 0])
        for operator in ("Greater", "Less", "Greater")
    ]
    values = [graph.add("GatherND", "x", places) for places in found]
    cut = [
        graph.add("Slice", values[0], graph.whole(0), graph.vector(graph.phonemes(of=places, axis=0)), graph.whole(0))
        for places in found
    ]
    operators = simplified(graph.model(*cut))
    assert operators.count("NonZero") == 2
    assert operators.count("Slice") == 1


def test_noise_is_drawn_as_often_as_before() -> None:
    graph = Graph()
    drawn = [graph.add("RandomNormalLike", "x") for _ in range(2)]
    simple = simplify(graph.model(graph.add("Sub", *drawn)))
    assert simple is not None
    assert [node.op_type for node in simple.graph.node].count("RandomNormalLike") == 2
    (difference,) = outputs(simple, feeds(7))
    assert np.abs(difference).max() > 0


def test_outputs_keep_their_names_even_if_they_are_constants_or_inputs() -> None:
    graph = Graph()
    model = graph.model(
        graph.add("Identity", "x"), graph.add("Mul", graph.add("Cast", graph.mask(), to=1), graph.mask())
    )
    assert simplified(model)
    simple = simplify(model)
    assert simple is not None
    assert [value.name for value in simple.graph.output] == [value.name for value in model.graph.output]


def test_inner_graphs_are_left_alone() -> None:
    graph = Graph()
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    )
    chosen = graph.add("If", graph.weight(np.array(True)), then_branch=branch, else_branch=branch)
    assert simplify(graph.model(chosen)) is None


def test_the_model_given_is_not_changed() -> None:
    model = build_voice()
    before = model.SerializeToString(deterministic=True)
    assert simplify(model) is not None
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["random-tiny", "random-tiny-2speakers"])
def test_encoder_of_an_exported_voice(voices: Callable[[str], Path], name: str) -> None:
    encoder = cut_voice(read(voices(name))).encoder
    assert encoder is not None
    simple = simplify(encoder)
    assert simple is not None
    assert len(simple.graph.node) < len(encoder.graph.node) / 3
    assert "Where" not in {node.op_type for node in simple.graph.node}
    before, after = (load(model.SerializeToString(), threads=1) for model in (encoder, simple))
    for phonemes in (1, 2, 3, 4, 5, 6, 90):
        fed = {
            "input": feeds(phonemes)["input"],
            "input_lengths": np.array([phonemes]),
            "scales": np.array([0, 1.2, 0], np.float32),
        }
        for speaker in (0, 1) if "2speakers" in name else (None,):
            if speaker is not None:
                fed["sid"] = np.array([speaker])
            given = after.run(fed)
            for output, tensor in before.run(fed).items():
                np.testing.assert_array_equal(tensor, given[output])


def test_a_slice_beyond_the_end_and_one_that_may_be_are_as_long_as_what_is_there() -> None:
    graph = Graph()
    beyond = graph.vector(graph.add("Add", graph.phonemes(), graph.whole(3, scalar=True)))
    lengths = [
        graph.add("Shape", graph.add("Slice", "x", graph.whole(0), end, graph.whole(2)))
        for end in (beyond, graph.whole(5))
    ]
    assert "Slice" in simplified(graph.model(*lengths, kind=TensorProto.INT64))


def test_a_mask_that_leaves_something_out_is_kept() -> None:
    graph = Graph()
    count = graph.phonemes()
    positions = graph.add("Range", graph.whole(0, scalar=True), count, graph.whole(1, scalar=True))
    inside = graph.add("Less", positions, graph.add("Sub", count, graph.whole(1, scalar=True)))
    fewer = graph.add("Less", graph.vector(count), graph.whole(3))
    chosen = graph.add("Where", fewer, graph.whole(1), graph.whole(2))
    model = graph.model(graph.add("Cast", inside, to=1), graph.add("Cast", chosen, to=1))
    assert simplified(model).count("Less") == 2


def test_two_unknown_lengths_of_which_one_stays_in_place() -> None:
    graph = Graph()
    n = graph.vector(graph.phonemes())
    wide = graph.add(
        "Expand", graph.add("Unsqueeze", "x", graph.whole(3)), graph.add("Concat", graph.whole(1, 1, 1), n, axis=0)
    )
    model = graph.model(graph.add("Reshape", wide, graph.add("Concat", graph.whole(2, 2), n, n, axis=0)))
    simplified(model)
    simple = simplify(model)
    assert simple is not None
    weights = {weight.name: numpy_helper.to_array(weight).tolist() for weight in simple.graph.initializer}
    assert weights[simple.graph.node[-1].input[1]] == [2, 2, 0, 0]
