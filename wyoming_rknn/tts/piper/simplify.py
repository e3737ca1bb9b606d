"""Take out of a part of a voice what only computes with shapes, without changing a bit of what it gives.

Exporters write out every length that a layer needs as a chain of nodes of its own. With one sentence per run nearly all
of them are constants or follow from a few unknown lengths, masks are all ones, and many nodes do nothing. ONNX Runtime
does not see it and spends most of its time for a short sentence on them. Imports `onnx`: only for the child process.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.tts.piper.extents import VALUE, Extent, Unknown
from wyoming_rknn.tts.piper.facts import Call, Fact, of_array, opaque
from wyoming_rknn.tts.piper.inference import infer
from wyoming_rknn.tts.piper.surgery import attributes, is_random, subgraphs

_IDS = "input"
_LENGTHS = "input_lengths"
_SCALES = "scales"
_MOST_FILLED = 1024


def simplify(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return a part that gives the same from fewer nodes, for one sentence per run; `None` if it holds inner graphs.

    `input_lengths` is taken to be the number of phoneme ids, as it is with one sentence.
    """
    custom = any(opset.domain not in ("", "ai.onnx") for opset in model.opset_import)
    if custom or model.functions or any(next(subgraphs(node), None) is not None for node in model.graph.node):
        return None
    rewriting = _Rewriting(model)
    for node in model.graph.node:
        rewriting.take(node)
    return rewriting.finish()


@dataclass(slots=True)
class _Rewriting:
    """A graph that is written anew, node by node."""

    model: onnx.ModelProto
    facts: dict[str, Fact] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    """Tensors that equal another one."""
    pending: dict[str, Fact] = field(default_factory=dict)
    """Tensors that are made from what is known about them once a node wants them."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    made: dict[Any, str] = field(default_factory=dict)
    """Tensors by how they are computed."""
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        for weight in graph.initializer:
            self._hold(weight.name, weight)
        for value in graph.input:
            if value.name not in self.weights:
                self.facts[value.name] = _input_fact(value)

    def take(self, node: onnx.NodeProto) -> None:
        """Write a node, or learn what makes it superfluous."""
        if node.op_type == "Constant":
            self._take_constant(node)
            return
        names = [self.same.get(name, name) for name in node.input]
        call = Call(node, [self.facts.get(name, Fact()) if name else None for name in names], attributes(node))
        facts = infer(call)
        if len(node.output) == 1 and not is_random(node):
            (output,), (fact,) = node.output, facts
            if _can_be_made(fact, output):
                self.facts[output] = self.pending[output] = fact
                return
            if (equal := _superfluous(call, fact)) is not None:
                self.same[output] = names[equal]
                return
            facts = [opaque(call, fact)]
        self._write(node, names, call, facts)

    def finish(self) -> onnx.ModelProto:
        """Return the graph with what its outputs need."""
        for value in self.model.graph.output:
            if (source := self._tensor(self.same.get(value.name, value.name))) != value.name:
                self.nodes.append(helper.make_node("Identity", [source], [value.name]))
        wanted = {value.name for value in self.model.graph.output}
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        result = onnx.ModelProto(ir_version=self.model.ir_version, producer_name=self.model.producer_name)
        result.opset_import.extend(self.model.opset_import)
        graph = result.graph
        graph.name = self.model.graph.name
        graph.input.extend(self.model.graph.input)
        graph.output.extend(self.model.graph.output)
        graph.initializer.extend(weight for name, weight in self.weights.items() if name in wanted)
        graph.node.extend(reversed(kept))
        return result

    def _take_constant(self, node: onnx.NodeProto) -> None:
        (attribute,) = node.attribute
        content = helper.get_attribute_value(attribute)
        if not isinstance(content, onnx.TensorProto):
            kind = np.float32 if attribute.name.startswith("value_float") else np.int64
            content = numpy_helper.from_array(np.asarray(content, kind))
        held = onnx.TensorProto()
        held.CopyFrom(content)
        held.name = node.output[0]
        self._hold(held.name, held)

    def _hold(self, name: str, weight: onnx.TensorProto) -> None:
        array = numpy_helper.to_array(weight)
        key = ("weight", array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key in self.made:
            self.same[name] = self.made[key]
            return
        self.made[key] = name
        self.weights[name] = weight
        self.facts[name] = of_array(array)

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"constant~{len(self.weights)}"
        self._hold(name, numpy_helper.from_array(array, name))
        return self.same.pop(name, name)

    def _write(self, node: onnx.NodeProto, names: Sequence[str], call: Call, facts: Sequence[Fact]) -> None:
        written = onnx.NodeProto()
        written.CopyFrom(node)
        written.input[:] = [self._tensor(name) for name in names]
        while written.input and not written.input[-1]:
            # ONNX Runtime joins padding with the convolution behind it only if nothing is left out.
            written.input.pop()
        if node.op_type == "Reshape" and (target := _reshape_target(call, facts[0])) is not None:
            written.input[1] = self._constant(target)
        key = _key(written)
        if not is_random(node) and key in self.made:
            self.same[node.output[0]] = self.made[key]
            return
        if len(node.output) == 1:
            self.made[key] = node.output[0]
        self.nodes.append(written)
        self.facts.update(zip(node.output, facts, strict=True))

    def _tensor(self, name: str) -> str:
        """Return the name of a tensor that is written."""
        fact = self.pending.get(name)
        if fact is None:
            return name
        if fact.values is not None:
            return self._values(fact)
        assert fact.shape is not None and fact.uniform is not None
        kind = helper.tensor_dtype_to_np_dtype(fact.type)
        if fact.size is not None and fact.size <= _MOST_FILLED:
            return self._constant(np.full(fact.lengths, fact.uniform, kind))
        shape = Fact(TensorProto.INT64, (Extent.of(len(fact.shape)),), fact.shape)
        value = numpy_helper.from_array(np.full(1, fact.uniform, kind))
        return self._node("ConstantOfShape", [self._values(shape)], value=value)

    def _values(self, fact: Fact) -> str:
        """Return a tensor of whole numbers, computed from as few nodes as can be."""
        kind = helper.tensor_dtype_to_np_dtype(fact.type)
        shape = fact.lengths
        values = fact.values or ()
        if (numbers := fact.numbers) is not None:
            return self._constant(np.asarray(numbers, np.int64).reshape(shape).astype(kind))
        tensor = ""
        products = sorted({product for extent in values for product, _ in extent.terms if product}, key=repr)
        for product in products:
            factors = np.array([extent.coefficients.get(product, 0) for extent in values], np.int64)
            tensor = self._sum(tensor, self._scaled(self._product(product), factors))
        rest = np.array([extent.coefficients.get((), 0) for extent in values], np.int64)
        if rest.any():
            tensor = self._sum(tensor, self._constant(rest))
        if len(shape) != 1:
            tensor = self._node("Reshape", [tensor, self._constant(np.array(shape, np.int64))])
        return tensor if fact.type == TensorProto.INT64 else self._node("Cast", [tensor], to=fact.type)

    def _sum(self, left: str, right: str) -> str:
        return self._node("Add", [left, right]) if left else right

    def _scaled(self, tensor: str, factors: NDArray[np.int64]) -> str:
        return tensor if factors.tolist() == [1] else self._node("Mul", [tensor, self._constant(factors)])

    def _product(self, unknowns: Iterable[Unknown]) -> str:
        tensor = ""
        for unknown in unknowns:
            number = self._number(unknown)
            tensor = self._node("Mul", [tensor, number]) if tensor else number
        return tensor

    def _number(self, unknown: Unknown) -> str:
        """Return an unknown as an int64 tensor [1]."""
        if unknown.axis == VALUE:
            if self.facts[unknown.tensor].shape == (Extent.of(1),):
                return unknown.tensor
            return self._node("Reshape", [unknown.tensor, self._constant(np.array([1], np.int64))])
        lengths = self._node("Shape", [unknown.tensor])
        return self._node("Gather", [lengths, self._constant(np.array([unknown.axis], np.int64))], axis=0)

    def _node(self, operator: str, inputs: Sequence[str], **given: Any) -> str:  # noqa: ANN401 - of ONNX attributes
        name = f"{operator}~{len(self.nodes)}"
        node = helper.make_node(operator, inputs, [name], name=name, **given)
        key = _key(node)
        if key not in self.made:
            self.made[key] = name
            self.nodes.append(node)
        return self.made[key]


def _key(node: onnx.NodeProto) -> Any:  # noqa: ANN401 - any hashable
    given = tuple(sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute))
    return node.op_type, tuple(node.input), given, len(node.output)


def _input_fact(value: onnx.ValueInfoProto) -> Fact:
    """Return what is known about an input of the graph: one sentence, of at least one phoneme or frame."""
    tensor = value.type.tensor_type
    ids = Extent.unknown(_IDS, 1, 1)
    if value.name == _LENGTHS:
        return Fact(tensor.elem_type, (Extent.of(1),), (ids,))
    if not tensor.HasField("shape"):
        return Fact(tensor.elem_type)
    shape = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value"):
            shape.append(Extent.of(dim.dim_value))
        else:
            alone = axis == 0 and value.name != _SCALES
            shape.append(Extent.of(1) if alone else Extent.unknown(value.name, axis, 1))
    return Fact(tensor.elem_type, tuple(shape))


def _can_be_made(fact: Fact, tensor: str) -> bool:
    """Tell whether a tensor can be made from what is known about it."""
    if fact.type == TensorProto.UNDEFINED or fact.shape is None:
        return False
    extents = fact.values
    if extents is None:
        extents = fact.shape if fact.uniform is not None else None
    return extents is not None and all(unknown.tensor != tensor for extent in extents for unknown in extent.unknowns)


def _superfluous(call: Call, fact: Fact) -> int | None:
    """Return the position of the input that a node gives unchanged."""
    operator = call.node.op_type
    source = call.fact(0)
    if operator == "Identity" or (operator == "Concat" and len(call.node.input) == 1):
        return 0
    unchanged = fact.shape is not None and fact.shape == source.shape
    if operator == "Cast":
        return 0 if source.type == fact.type != TensorProto.UNDEFINED else None
    if operator in ("Reshape", "Expand", "Squeeze", "Unsqueeze"):
        return 0 if unchanged else None
    if operator == "Transpose":
        order = list(call.attributes.get("perm", ()))
        return 0 if order and order == sorted(order) else None
    if operator == "Pad":
        return 0 if (pads := call.fact(1).numbers) is not None and not any(pads) else None
    if operator == "Slice":
        # As many elements as there are, in steps of 1, are all of them.
        return 0 if unchanged and (not call.given(4) or set(call.fact(4).numbers or [0]) == {1}) else None
    if operator == "Mul":
        for one, other in ((0, 1), (1, 0)):
            if call.fact(one).uniform == 1 and fact.shape is not None and fact.shape == call.fact(other).shape:
                return other
    if operator == "Where" and (chosen := call.fact(0).uniform) is not None:
        taken = 1 if chosen else 2
        return taken if fact.shape is not None and fact.shape == call.fact(taken).shape else None
    return None


def _reshape_target(call: Call, fact: Fact) -> NDArray[np.int64] | None:
    """Return a constant that means the same as the shape that a Reshape computes."""
    source, target = call.fact(0).shape, call.fact(1).values
    if source is None or target is None or fact.shape is None or call.attributes.get("allowzero", 0):
        return None
    numbers: list[int] = []
    for axis, extent in enumerate(fact.shape):
        if extent.constant is not None:
            numbers.append(extent.constant)
        elif target[axis].constant == -1:
            numbers.append(-1)
        elif axis < len(source) and source[axis] == extent:
            numbers.append(0)
        else:
            numbers.append(-1)
    fits = numbers.count(-1) <= 1 and all(extent.constant != 0 for extent in fact.shape)
    return np.array(numbers, np.int64) if fits else None
