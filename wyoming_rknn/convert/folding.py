"""Compute ahead what a graph of fixed shapes computes alike for every input, and drop nodes that change nothing.

Exporters write out lengths, masks and positions as nodes; the toolkit folds some of them and trips over others. With
every axis fixed all of it is constant.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from wyoming_rknn.convert.static import MAX_OPSET
from wyoming_rknn.errors import ConversionError, SpeechServerError
from wyoming_rknn.runtime import onnx as runtime

_NEWEST_IR = 8
_UNFIT = frozenset({"If", "Loop", "Scan", "NonZero", "Unique", "Compress", "RandomNormalLike", "RandomUniformLike"})
"""What makes shapes, or anything, depend on what is fed or on chance."""
_SMALL = 1024
"""Elements of weights that may tell a shape."""
_SAME = frozenset({"Identity", "Cast", "Reshape", "Expand", "Squeeze", "Unsqueeze", "Flatten", "Tile"})
_NEUTRAL = {"Mul": 1, "Div": 1, "Add": 0, "Sub": 0}
"""What numbers do nothing as second operands."""


def fold(model: onnx.ModelProto, threads: int = 1) -> None:
    """Let a graph give the same from fewer nodes; its inputs must have fixed axes only.

    Raises `ConversionError` if what it computes with depends on more than shapes.
    """
    graph = model.graph
    fixed = _fixed(graph)
    wanted = {name for node in graph.node if not fixed.issuperset(node.output) for name in node.input if name}
    made = {name for node in graph.node for name in node.output if name in fixed}
    values = _values(model, sorted(wanted & made), threads)
    kept = [node for node in graph.node if not fixed.issuperset(node.output)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    _drop_superfluous(model)
    prune(graph)
    _lower(model)


def prune(graph: onnx.GraphProto) -> None:
    """Remove nodes and weights that no output depends on. Nodes must stand in the order in which they are computed."""
    needed = {made.name for made in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    # One by one and in place: what is taken out and put in again is in memory twice until the whole graph is freed.
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]


def _fixed(graph: onnx.GraphProto) -> frozenset[str]:
    """Return all tensors that are the same whatever is fed."""
    fixed = {weight.name for weight in graph.initializer}
    for node in graph.node:
        if node.op_type in _UNFIT:
            raise ConversionError(
                f"the graph has a node {node.op_type}, so that its shapes are not known ahead; export it without"
            )
        if node.op_type in ("Shape", "Size") or fixed.issuperset(name for name in node.input if name):
            fixed.update(node.output)
    return frozenset(fixed)


def _values(model: onnx.ModelProto, names: Sequence[str], threads: int) -> dict[str, NDArray[Any]]:
    """Return what the graph computes for these tensors, whatever it is fed."""
    if not names:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    prune(probe.graph)
    needed = {name for node in probe.graph.node for name in node.input}
    inputs = [value for value in probe.graph.input if value.name in needed]
    del probe.graph.input[:]
    probe.graph.input.extend(inputs)
    content = probe.SerializeToString()
    del probe
    try:
        with contextlib.closing(runtime.load(content, threads=threads)) as graph:
            feeds = {}
            for spec in graph.inputs:
                if None in spec.shape:
                    raise ConversionError(f"the graph's input {spec.name} has an axis of no fixed length; fix it first")
                feeds[spec.name] = np.zeros([axis or 0 for axis in spec.shape], spec.dtype)
            return graph.run(feeds)
    except SpeechServerError as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"the graph cannot be run with fixed shapes: {error}; export it anew") from error


def _drop_superfluous(model: onnx.ModelProto) -> None:
    """Take out nodes that give one of their inputs unchanged, such as what applies a mask of ones."""
    graph = model.graph
    inferred = shape_inference.infer_shapes(_outline(model)).graph
    for value, found in zip(graph.output, inferred.output, strict=True):
        # It may still have spoken of free axes.
        value.CopyFrom(found)
    kinds: dict[str, int] = {weight.name: weight.data_type for weight in graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    for value in (*graph.input, *inferred.value_info, *graph.output):
        tensor = value.type.tensor_type
        kinds[value.name] = tensor.elem_type
        if all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            shapes[value.name] = tuple(axis.dim_value for axis in tensor.shape.dim)
    weights = {weight.name: weight for weight in graph.initializer}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        source = _unchanged(node, weights)
        output = node.output[0]
        alike = source is not None and output in shapes and shapes.get(source) == shapes[output]
        if alike and kinds.get(source or "") == kinds.get(output) and output not in outputs:
            same[output] = source or ""
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without the large weights, which count their hundreds of megabytes in each copy."""
    outline = onnx.ModelProto(ir_version=model.ir_version)
    outline.opset_import.extend(model.opset_import)
    graph = outline.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for weight in model.graph.initializer:
        if math.prod(weight.dims) <= _SMALL:
            graph.initializer.append(weight)
        else:
            graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    return outline


def _unchanged(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> str | None:
    """Return which input a node gives, provided that its output has the same shape and type."""
    operator, inputs = node.op_type, list[str](node.input)
    if operator in _SAME or (operator == "Concat" and len(inputs) == 1):
        return inputs[0]
    if operator not in ("Where", "Pad", "Slice", *_NEUTRAL):
        return None
    uniform = [_uniform(name, weights) for name in inputs]
    if operator == "Where" and uniform[0] is not None:
        return inputs[1] if uniform[0] else inputs[2]
    if operator in _NEUTRAL:
        if uniform[1] == _NEUTRAL[operator]:
            return inputs[0]
        return inputs[1] if operator in ("Mul", "Add") and uniform[0] == _NEUTRAL[operator] else None
    if operator == "Pad" and len(inputs) > 1 and uniform[1] == 0:
        return inputs[0]
    # Of the same shape, and not turned round.
    if operator == "Slice" and (len(inputs) < 5 or uniform[4] == 1):
        return inputs[0]
    return None


def _uniform(name: str, weights: Mapping[str, onnx.TensorProto]) -> float | None:
    """Return the number that a weight consists of."""
    if name not in weights:
        return None
    values = numpy_helper.to_array(weights[name])
    if values.size == 0 or not (values == values.flat[0]).all():
        return None
    return float(values.flat[0])


def _lower(model: onnx.ModelProto) -> None:
    """Declare an older opset where that means the same."""
    model.ir_version = min(model.ir_version, _NEWEST_IR)
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx") or opset.version <= MAX_OPSET:
            continue
        for operator in sorted({node.op_type for node in model.graph.node}):
            if onnx.defs.get_schema(operator, opset.version).since_version > MAX_OPSET:
                raise ConversionError(
                    f"the graph uses {operator} of opset {opset.version}, the toolkit reads up to {MAX_OPSET}; export"
                    f" it with opset {MAX_OPSET} or older"
                )
        opset.version = MAX_OPSET
