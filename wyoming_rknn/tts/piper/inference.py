"""What each operator tells about its output before a graph runs.

Follows the operators as the ONNX specification defines them (https://onnx.ai/onnx/operators/). What an operator does
that is not listed here is unknown, which is always right. Imports `onnx`: only for the child process.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.tts.piper.extents import Extent, product
from wyoming_rknn.tts.piper.facts import MOST_VALUES, WHOLE, Call, Fact, Shape, broadcast, objects, of_values

_ONE = Extent.of(1)
_BEYOND = 2**31 - 1
"""As the end of a slice: all that follows."""
_EXACT_FLOAT = 2**24
"""Whole numbers up to this are the same in float32."""


def infer(call: Call) -> list[Fact]:
    """Return what is known about each output of a node."""
    if call.node.op_type == "Split":
        return _split(call)
    rule = _RULES.get(call.node.op_type)
    fact = Fact() if rule is None else rule(call)
    if fact.values is not None and len(fact.values) > MOST_VALUES:
        fact = replace(fact, values=None)
    return [fact, *(Fact() for _ in call.node.output[1:])]


def _same(call: Call) -> Fact:
    return Fact(call.fact(0).type, call.fact(0).shape)


def _combined(call: Call) -> Fact:
    return Fact(call.fact(0).type, broadcast(call, *(call.fact(position).shape for position in range(len(call.facts)))))


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[[Call], Fact]:
    def rule(call: Call) -> Fact:
        left, right = call.fact(0), call.fact(1)
        if left.values is not None and right.values is not None and left.type in WHOLE:
            return of_values(left.type, operation(left.array, right.array))
        uniform = None
        if left.uniform == right.uniform == 1 and operation is operator.mul:
            uniform = 1.0
        return replace(_combined(call), uniform=uniform)

    return rule


def _comparison(call: Call) -> Fact:
    left, right = call.fact(0), call.fact(1)
    shape = broadcast(call, left.shape, right.shape)
    operation = call.node.op_type
    if left.values is not None and right.values is not None and left.type in WHOLE:
        pairs = np.broadcast_arrays(left.array, right.array)
        told = [_compared(operation, one - other) for one, other in zip(*(a.ravel() for a in pairs), strict=True)]
        if None not in told:
            return Fact(TensorProto.BOOL, shape, tuple(Extent.of(int(bool(answer))) for answer in told))
    if left.uniform is not None and right.uniform is not None and operation in ("Equal", "Less"):
        answer = left.uniform == right.uniform if operation == "Equal" else left.uniform < right.uniform
        return Fact(TensorProto.BOOL, shape, uniform=float(answer))
    if operation == "Less" and left.counts and left.shape is not None and right.values is not None:
        number = product(left.shape)
        if all((bound - number).at_least(0) for bound in right.values):
            return Fact(TensorProto.BOOL, shape, uniform=1.0)
    return Fact(TensorProto.BOOL, shape)


def _compared(operation: str, difference: Extent) -> bool | None:
    below = (Extent.of(0) - difference).at_least(1)
    above = difference.at_least(1)
    if operation == "Equal":
        return True if difference == Extent.of(0) else False if below or above else None
    if operation == "Less":
        return True if below else False if difference.at_least(0) else None
    return None


def _logical(call: Call) -> Fact:
    return replace(_combined(call), type=TensorProto.BOOL)


def _where(call: Call) -> Fact:
    condition, chosen, other = (call.fact(position) for position in range(3))
    shape = broadcast(call, condition.shape, chosen.shape, other.shape)
    numbers = condition.numbers
    if numbers is not None and chosen.values is not None and other.values is not None:
        flags = np.asarray(numbers, bool).reshape(condition.array.shape)
        return of_values(chosen.type, np.where(flags, chosen.array, other.array))
    return Fact(chosen.type, shape)


def _cast(call: Call) -> Fact:
    source, kind = call.fact(0), int(call.attributes["to"])
    values = source.values if source.type in WHOLE and kind != TensorProto.BOOL else None
    uniform = source.uniform
    if uniform is not None and not (float(uniform).is_integer() and abs(uniform) <= _EXACT_FLOAT):
        uniform = None
    if uniform is not None and kind == TensorProto.BOOL:
        uniform = float(uniform != 0)
    return replace(source, type=kind, values=values, uniform=uniform, counts=False)


def _clip(call: Call) -> Fact:
    least = call.fact(1).uniform
    return replace(_same(call), low=None if least is None else math.floor(least))


def _shape(call: Call) -> Fact:
    shape = call.fact(0).shape
    if shape is None:
        return Fact(TensorProto.INT64)
    return of_values(
        TensorProto.INT64, objects(shape[call.attributes.get("start", 0) : call.attributes.get("end", len(shape))])
    )


def _constant_of_shape(call: Call) -> Fact:
    value = call.attributes.get("value")
    array = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    target = call.fact(0).values
    shape = None if target is None or not all(extent.at_least(0) for extent in target) else target
    fact = Fact(kind, shape, uniform=array.item())
    if kind in WHOLE and fact.size is not None and fact.size <= MOST_VALUES:
        return replace(fact, values=(Extent.of(int(array.item())),) * fact.size)
    return fact


def _range(call: Call) -> Fact:
    start, limit, step = (call.fact(position) for position in range(3))
    kind = start.type
    if start.uniform == 0 and step.uniform == 1 and limit.values is not None and limit.values[0].at_least(0):
        return Fact(kind, (limit.values[0],), counts=True)
    return Fact(kind, (call.fresh(0),))


def _gather(call: Call) -> Fact:
    data, indices = call.fact(0), call.fact(1)
    if data.shape is None or indices.shape is None:
        return Fact(data.type)
    axis = call.attributes.get("axis", 0) % max(1, len(data.shape))
    if data.values is not None and (numbers := indices.numbers) is not None:
        wanted = np.asarray(numbers, np.int64).reshape(indices.array.shape)
        return of_values(data.type, np.take(data.array, wanted, axis))
    return Fact(data.type, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))


def _gather_nd(call: Call) -> Fact:
    data, indices = call.fact(0), call.fact(1)
    if data.shape is None or indices.shape is None or call.attributes.get("batch_dims", 0):
        return Fact(data.type)
    depth = indices.shape[-1].constant
    return Fact(data.type, None if depth is None else (*indices.shape[:-1], *data.shape[depth:]))


def _gather_elements(call: Call) -> Fact:
    return Fact(call.fact(0).type, call.fact(1).shape)


def _non_zero(call: Call) -> Fact:
    shape = call.fact(0).shape
    return Fact(TensorProto.INT64, None if shape is None else (Extent.of(len(shape)), call.fresh(1)))


def _moved(call: Call, shape: Shape | None) -> Fact:
    """Return a fact for an output with the input's elements in the same order."""
    return replace(call.fact(0), shape=shape)


def _unsqueeze(call: Call) -> Fact:
    source, axes = call.fact(0), _axes(call, 1)
    if source.shape is None or axes is None:
        return Fact(source.type)
    shape = list(source.shape)
    for axis in sorted(axis % (len(shape) + len(axes)) for axis in axes):
        shape.insert(axis, _ONE)
    return _moved(call, tuple(shape))


def _squeeze(call: Call) -> Fact:
    source, axes = call.fact(0), _axes(call, 1)
    if source.shape is None or axes is None:
        return Fact(source.type)
    gone = {axis % len(source.shape) for axis in axes}
    return _moved(call, tuple(extent for axis, extent in enumerate(source.shape) if axis not in gone))


def _axes(call: Call, position: int) -> list[int] | None:
    if call.given(position):
        return call.fact(position).numbers
    axes = call.attributes.get("axes")
    return None if axes is None else list(axes)


def _transpose(call: Call) -> Fact:
    source = call.fact(0)
    if source.shape is None:
        return Fact(source.type)
    order = list(call.attributes.get("perm", range(len(source.shape))[::-1]))
    if source.values is not None:
        return of_values(source.type, source.array.transpose(order))
    return Fact(source.type, tuple(source.shape[axis] for axis in order), uniform=source.uniform)


def _reshape(call: Call) -> Fact:
    source, target = call.fact(0), call.fact(1).values
    if target is None or source.shape is None or call.attributes.get("allowzero", 0):
        rank = call.fact(1).size
        return Fact(source.type, None if rank is None else tuple(map(call.fresh, range(rank))))
    shape: list[Extent | None] = []
    for axis, extent in enumerate(target):
        if extent == Extent.of(0):
            shape.append(source.shape[axis])
        else:
            shape.append(None if extent == Extent.of(-1) else extent)
    rest = list(source.shape)
    others = [extent for extent in shape if extent is not None]
    for extent in list(others):
        if extent in rest:
            rest.remove(extent)
            others.remove(extent)
    divisor = product(others).constant
    missing = None if divisor is None else product(rest).divided(divisor)
    filled = [
        extent if extent is not None else missing if missing is not None else call.fresh(axis)
        for axis, extent in enumerate(shape)
    ]
    return _moved(call, tuple(filled))


def _expand(call: Call) -> Fact:
    source, target = call.fact(0), call.fact(1).values
    shape = broadcast(call, source.shape, target)
    spread = Fact(source.type, shape, uniform=source.uniform)
    if source.values is not None and spread.size is not None:
        return of_values(source.type, np.broadcast_to(source.array, spread.lengths))
    return spread


def _concat(call: Call) -> Fact:
    facts = [call.fact(position) for position in range(len(call.facts))]
    shapes = [fact.shape for fact in facts if fact.shape is not None]
    if len(shapes) != len(facts):
        return Fact(facts[0].type)
    axis = call.attributes["axis"] % len(shapes[0])
    if all(fact.values is not None for fact in facts):
        return of_values(facts[0].type, np.concatenate([fact.array for fact in facts], axis))
    total = sum((shape[axis] for shape in shapes), Extent.of(0))
    return Fact(facts[0].type, (*shapes[0][:axis], total, *shapes[0][axis + 1 :]))


def _split(call: Call) -> list[Fact]:
    source = call.fact(0)
    sizes = call.fact(1).numbers if call.given(1) else call.attributes.get("split")
    if source.shape is None or sizes is None:
        return [Fact(source.type) for _ in call.node.output]
    axis = call.attributes.get("axis", 0) % len(source.shape)
    return [Fact(source.type, (*source.shape[:axis], Extent.of(size), *source.shape[axis + 1 :])) for size in sizes]


def _slice(call: Call) -> Fact:
    source, starts, ends = (call.fact(position) for position in range(3))
    axes = _axes(call, 3) if call.given(3) else list(range(len(starts.values or ())))
    steps = call.fact(4).numbers if call.given(4) else [1] * len(axes or ())
    if source.shape is None or starts.values is None or ends.values is None or axes is None or steps is None:
        return Fact(source.type, None if source.shape is None else tuple(map(call.fresh, range(len(source.shape)))))
    if source.values is not None and starts.numbers is not None and ends.numbers is not None:
        picked = [slice(None)] * len(source.shape)
        for axis, begin, end, step in zip(axes, starts.numbers, ends.numbers, steps, strict=True):
            picked[axis] = slice(begin, end, step)
        return of_values(source.type, source.array[tuple(picked)])
    shape = list(source.shape)
    for axis, start, stop, step in zip(axes, starts.values, ends.values, steps, strict=True):
        first, last = _within(start, source.shape[axis]), _within(stop, source.shape[axis])
        length = None if step != 1 or first is None or last is None else last - first
        told = length is not None and length.at_least(0)
        shape[axis] = length if told and length is not None else call.fresh(axis % len(shape))
    return Fact(source.type, tuple(shape), uniform=source.uniform)


def _within(limit: Extent, length: Extent) -> Extent | None:
    """Return a limit of a slice, counted from the begin of an axis."""
    if limit.constant is not None and limit.constant >= _BEYOND:
        return length
    if limit.constant is not None and limit.constant < 0:
        limit = limit + length
    if not limit.at_least(0):
        return None
    if (limit - length).at_least(0):
        return length
    return limit if (length - limit).at_least(0) else None


def _pad(call: Call) -> Fact:
    source, pads = call.fact(0), call.fact(1).values
    if source.shape is None or pads is None or call.given(3):
        return Fact(source.type)
    rank = len(source.shape)
    return Fact(source.type, tuple(pads[axis] + extent + pads[axis + rank] for axis, extent in enumerate(source.shape)))


def _conv(call: Call) -> Fact:
    source, weight = call.fact(0), call.fact(1)
    if source.shape is None or weight.shape is None:
        return Fact(source.type)
    rank = len(source.shape) - 2
    strides = call.attributes.get("strides", [1] * rank)
    dilations = call.attributes.get("dilations", [1] * rank)
    pads = call.attributes.get("pads", [0] * 2 * rank)
    lengths = []
    for axis in range(rank):
        kernel = weight.shape[axis + 2].constant
        if strides[axis] != 1 or kernel is None or call.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            lengths.append(call.fresh(axis + 2))
            continue
        change = pads[axis] + pads[axis + rank] - dilations[axis] * (kernel - 1)
        lengths.append(source.shape[axis + 2] + Extent.of(change))
    return Fact(source.type, (source.shape[0], weight.shape[0], *lengths))


def _mat_mul(call: Call) -> Fact:
    left, right = call.fact(0), call.fact(1)
    if left.shape is None or right.shape is None or min(len(left.shape), len(right.shape)) < 2:
        return Fact(left.type)
    outer = broadcast(call, left.shape[:-2], right.shape[:-2])
    return Fact(left.type, None if outer is None else (*outer, left.shape[-2], right.shape[-1]))


def _reduce(call: Call) -> Fact:
    source = call.fact(0)
    if source.shape is None:
        return Fact(source.type)
    rank = len(source.shape)
    axes = _axes(call, 1)
    if (call.given(1) and axes is None) or call.attributes.get("noop_with_empty_axes", 0):
        return Fact(source.type)
    gone = set(range(rank)) if not axes else {axis % rank for axis in axes}
    if call.attributes.get("keepdims", 1):
        shape = tuple(_ONE if axis in gone else extent for axis, extent in enumerate(source.shape))
    else:
        shape = tuple(extent for axis, extent in enumerate(source.shape) if axis not in gone)
    # The largest, the least or the sum of one element is that element.
    return Fact(source.type, shape, source.values if source.size == 1 and source.type in WHOLE else None)


_SAME_SHAPE = (
    *("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Round"),
    *("Sigmoid", "Sin", "Softplus", "Sqrt", "Tanh", "CumSum", "Softmax", "LogSoftmax", "ScatterND", "ScatterElements"),
)

_RULES: Mapping[str, Callable[[Call], Fact]] = {
    **dict.fromkeys(_SAME_SHAPE, _same),
    **dict.fromkeys(("Div", "Pow", "Max", "Min", "PRelu"), _combined),
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"), _comparison),
    **dict.fromkeys(("And", "Or", "Not", "Xor"), _logical),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceSum"), _reduce),
    "ReduceMean": lambda call: replace(_reduce(call), values=None),
    "Add": _arithmetic(operator.add),
    "Sub": _arithmetic(operator.sub),
    "Mul": _arithmetic(operator.mul),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": lambda call: call.fact(0),
    "MatMul": _mat_mul,
    "NonZero": _non_zero,
    "Pad": _pad,
    "RandomNormalLike": lambda call: replace(_same(call), type=call.attributes.get("dtype", call.fact(0).type)),
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
