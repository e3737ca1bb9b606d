"""What can be told about the tensors of a graph before it runs: shapes, whole numbers, tensors of one value.

Imports `onnx`: only for the child process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from wyoming_rknn.tts.piper.extents import VALUE, Extent, product

Shape: TypeAlias = tuple[Extent, ...]

_ONE = Extent.of(1)
MOST_VALUES = 256
"""Elements of a tensor beyond which they are not followed."""

WHOLE = frozenset((TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL))
"""Types of which values are computed with."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known about a tensor; whatever is `None` is not."""

    type: int = TensorProto.UNDEFINED
    shape: Shape | None = None
    values: tuple[Extent, ...] | None = None
    """The elements in order; only for tensors of a fixed shape."""
    uniform: float | None = None
    """What every element is."""
    counts: bool = False
    """The elements are 0, 1, 2 and so on."""
    low: int | None = None
    """What no element is less than."""

    @property
    def size(self) -> int | None:
        """Return the number of elements if it is fixed."""
        return None if self.shape is None else product(self.shape).constant

    @property
    def lengths(self) -> list[int]:
        """Return the shape of a tensor whose shape is fixed."""
        return [extent.constant or 0 for extent in self.shape or ()]

    @property
    def array(self) -> NDArray[Any]:
        """Return the values in their shape."""
        return objects(self.values or ()).reshape(self.lengths)

    @property
    def numbers(self) -> list[int] | None:
        """Return the values if all are constants."""
        if self.values is None:
            return None
        known = [extent.constant for extent in self.values]
        return None if None in known else [number for number in known if number is not None]


@dataclass(frozen=True, slots=True)
class Call:
    """A node with what is known about its inputs."""

    node: onnx.NodeProto
    facts: Sequence[Fact | None]
    attributes: Mapping[str, Any]

    def fact(self, position: int) -> Fact:
        """Return what is known about an input; nothing about one that is left out."""
        return (self.facts[position] if position < len(self.facts) else None) or Fact()

    def given(self, position: int) -> bool:
        """Tell whether an input is there."""
        return position < len(self.facts) and self.facts[position] is not None

    def fresh(self, axis: int) -> Extent:
        """Return the unknown length of an axis of the output."""
        return Extent.unknown(self.node.output[0], axis, 0)


def of_array(array: NDArray[Any]) -> Fact:
    """Return what is known about a constant."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    values = None
    if kind in WHOLE and array.size <= MOST_VALUES:
        values = tuple(Extent.of(int(number)) for number in array.ravel())
    uniform = array.item() if array.size == 1 and kind not in (TensorProto.STRING, TensorProto.UNDEFINED) else None
    return Fact(kind, tuple(map(Extent.of, array.shape)), values, uniform)


def opaque(call: Call, fact: Fact) -> Fact:
    """Give a whole number that is computed from other than lengths a name, so that lengths can depend on it."""
    if fact.type != TensorProto.INT64 or fact.size != 1 or fact.values is not None:
        return fact
    return replace(fact, values=(Extent.unknown(call.node.output[0], VALUE, fact.low),))


def broadcast(call: Call, *shapes: Shape | None) -> Shape | None:
    """Return the shape that several combine to."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    columns = list(zip_longest(*(reversed(shape) for shape in known), fillvalue=_ONE))[::-1]
    result = []
    for axis, column in enumerate(columns):
        wide = {extent for extent in column if extent != _ONE}
        fixed = {extent for extent in wide if extent.constant is not None}
        # An unknown length beside a fixed one other than 1 can only be 1 or the same.
        chosen = fixed or wide or {_ONE}
        result.append(next(iter(chosen)) if len(chosen) == 1 else call.fresh(axis))
    return tuple(result)


def objects(items: Sequence[Extent]) -> NDArray[Any]:
    """Return an array [len(items)] with which numpy can compute."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def of_values(kind: int, array: Any) -> Fact:  # noqa: ANN401 - numpy gives bare objects for arrays without axes
    """Return what is known about a tensor with known values."""
    whole = np.asarray(array, object)
    return Fact(kind, tuple(map(Extent.of, whole.shape)), tuple(whole.ravel().tolist()))
