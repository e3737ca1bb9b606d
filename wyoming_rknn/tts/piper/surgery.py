"""Read and cut ONNX graphs by their structure, never by node names.

Imports `onnx`, so only the child process that splits voices may load it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from wyoming_rknn.errors import GraphNotSplittable

_RENAMED_SUFFIX = "~inner"


@dataclass(frozen=True)
class Wiring:
    """Who makes and who takes each tensor of a graph. Assumes topological order, which ONNX prescribes."""

    model: onnx.ModelProto

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """Return all nodes, makers before takers."""
        return tuple(self.model.graph.node)

    @cached_property
    def makers(self) -> Mapping[str, int]:
        """Return the position of the node that makes each tensor; weights and graph inputs have none."""
        return {name: position for position, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def takers(self) -> Mapping[str, tuple[int, ...]]:
        """Return the positions of the nodes that take each tensor."""
        takers: dict[str, list[int]] = {}
        for position, node in enumerate(self.nodes):
            for name in set(node_inputs(node)):
                takers.setdefault(name, []).append(position)
        return {name: tuple(positions) for name, positions in takers.items()}

    @cached_property
    def weights(self) -> Mapping[str, onnx.TensorProto]:
        """Return the initializers by name."""
        return {weight.name: weight for weight in self.model.graph.initializer}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of what the graph must be fed."""
        return tuple(value.name for value in self.model.graph.input if value.name not in self.weights)

    @cached_property
    def constants(self) -> frozenset[str]:
        """Return all tensors that depend on no graph input and on no chance."""
        fixed = set(self.weights)
        for node in self.nodes:
            if not is_random(node) and fixed.issuperset(node_inputs(node)):
                fixed.update(node.output)
        return frozenset(fixed)

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        """Return the node that makes `tensor`."""
        position = self.makers.get(tensor)
        return None if position is None else self.nodes[position]

    def shape(self, weight: str) -> tuple[int, ...] | None:
        """Return the shape of a weight."""
        while (node := self.maker(weight)) is not None and node.op_type == "Identity":
            weight = node.input[0]
        if weight in self.weights:
            return tuple(self.weights[weight].dims)
        value = self.value(weight)
        return None if value is None else value.shape

    def value(self, tensor: str) -> NDArray[Any] | None:
        """Return a tensor's value if it is constant, computing it if need be."""
        while (node := self.maker(tensor)) is not None and node.op_type == "Identity":
            tensor = node.input[0]
        if tensor in self.weights:
            return numpy_helper.to_array(self.weights[tensor])
        if node is None or tensor not in self.constants:
            return None
        if node.op_type == "Constant" and len(node.attribute) == 1:
            content = helper.get_attribute_value(node.attribute[0])
            return numpy_helper.to_array(content) if isinstance(content, onnx.TensorProto) else np.asarray(content)
        # Exporters that fold nothing compute weight norms and slice limits within the graph.
        (computed,) = ReferenceEvaluator(extract(self, {}, {tensor: "value"})).run(None, {})
        return np.asarray(computed)

    def upstream(self, tensors: Iterable[str], stop: Iterable[str] = ()) -> frozenset[int]:
        """Return the positions of all nodes that `tensors` depend on, not going beyond `stop`."""
        found: set[int] = set()
        stops = frozenset(stop)
        pending = [name for name in tensors if name not in stops]
        while pending:
            position = self.makers.get(pending.pop())
            if position is not None and position not in found:
                found.add(position)
                pending.extend(name for name in node_inputs(self.nodes[position]) if name not in stops)
        return frozenset(found)

    def downstream(self, tensor: str) -> frozenset[str]:
        """Return all tensors whose values depend on `tensor`, itself included; shapes do not count."""
        found = {tensor}
        pending = list(self.takers.get(tensor, ()))
        seen: set[int] = set()
        while pending:
            position = pending.pop()
            if position in seen or self.nodes[position].op_type in ("Shape", "Size"):
                continue
            seen.add(position)
            for name in self.nodes[position].output:
                found.add(name)
                pending.extend(self.takers.get(name, ()))
        return frozenset(found)

    def leaves(self, positions: Iterable[int]) -> frozenset[str]:
        """Return what a set of nodes takes from outside, weights excepted."""
        inside = set(positions)
        made = {name for position in inside for name in self.nodes[position].output}
        taken = {name for position in inside for name in node_inputs(self.nodes[position])}
        return frozenset(taken - made - set(self.weights))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def is_random(node: onnx.NodeProto) -> bool:
    """Tell whether a node draws numbers."""
    return node.op_type.startswith("Random") or node.op_type in ("Multinomial", "Bernoulli")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Return the graphs within a node (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def node_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Return all tensors that a node takes, those its subgraphs take from around them included."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {weight.name for weight in graph.initializer}
        own.update(name for inner in graph.node for name in inner.output)
        yield from (name for inner in graph.node for name in node_inputs(inner) if name not in own)


def extract(
    wiring: Wiring,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    ones: Iterable[str] = (),
) -> onnx.ModelProto:
    """Copy the part of a graph that computes `outputs` from `inputs`.

    Both map tensors to the names they get; axes are free except that `inputs` keep theirs where the graph declares
    them. Tensors in `ones` become the constant 1 with shape [1, 1, 1]. Raises `GraphNotSplittable` if the part needs
    anything else.
    """
    constants = frozenset(ones)
    positions = sorted(wiring.upstream(outputs, stop={*inputs, *constants}))
    surplus = wiring.leaves(positions) - set(inputs) - constants
    if surplus:
        raise GraphNotSplittable(f"a part of the voice would also need {', '.join(sorted(surplus))}")
    names = _fresh_names(wiring, positions, {**inputs, **outputs})
    model = onnx.ModelProto(ir_version=wiring.model.ir_version, producer_name=wiring.model.producer_name)
    model.opset_import.extend(wiring.model.opset_import)
    model.functions.extend(wiring.model.functions)
    graph = model.graph
    graph.name = "piper"
    taken: set[str] = set()
    for position in positions:
        node = graph.node.add()
        node.CopyFrom(wiring.nodes[position])
        taken.update(node_inputs(node))
        _rename(node, names)
    for name in sorted(taken & set(wiring.weights)):
        graph.initializer.add().CopyFrom(wiring.weights[name])
    for name in sorted(constants & taken):
        graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 1), np.float32), names.get(name, name)))
    declared = {value.name: value for value in (*wiring.model.graph.input, *wiring.model.graph.output)}
    for values, chosen in ((graph.input, inputs), (graph.output, outputs)):
        for tensor, name in chosen.items():
            if tensor in declared:
                value = values.add()
                value.CopyFrom(declared[tensor])
                value.name = name
            else:
                values.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model


def set_shape(model: onnx.ModelProto, tensor: str, shape: Iterable[int | str]) -> None:
    """Declare the shape of an input or output; strings name free axes."""
    for value in (*model.graph.input, *model.graph.output):
        if value.name == tensor:
            elem_type = value.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
            value.CopyFrom(helper.make_tensor_value_info(tensor, elem_type, list(shape)))


def _fresh_names(wiring: Wiring, positions: Iterable[int], chosen: Mapping[str, str]) -> dict[str, str]:
    used = {name for position in positions for name in (*wiring.nodes[position].output,)} | set(wiring.weights)
    names = {name: name + _RENAMED_SUFFIX for name in set(chosen.values()) & used if chosen.get(name) != name}
    return {**names, **chosen}


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for tensors in (node.input, node.output):
        for position, name in enumerate(tensors):
            if name in names:
                tensors[position] = names[name]
    for graph in subgraphs(node):
        own = {name for inner in graph.node for name in inner.output}
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            _rename(inner, outer)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)
