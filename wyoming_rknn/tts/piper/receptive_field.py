"""How many frames around a frame a convolutional graph looks at, from its structure alone.

The positions that one frame of output needs are followed backwards through every layer as intervals; what a layer
looks at follows from its kernel, stride, dilation and padding. Imports `onnx`: only for the child process.
"""

from dataclasses import dataclass, field

import onnx

from wyoming_rknn.errors import GraphNotSplittable
from wyoming_rknn.tts.piper.surgery import Wiring, attributes

# Far from both ends, so that no interval becomes negative.
_PROBE_FRAME = 1 << 20
_INT_MAX_SLICE_END = (1 << 31) - 1

_POINTWISE = frozenset(
    (
        "Abs",
        "Add",
        "Cast",
        "Ceil",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "Identity",
        "LeakyRelu",
        "Log",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Pow",
        "PRelu",
        "Reciprocal",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
        "Sub",
        "Tanh",
        "Where",
    )
)


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What a graph needs around the frames it is to give, and how many samples it makes of each."""

    left_frames: int
    right_frames: int
    hop: int
    """Output positions per input frame."""

    @property
    def context_frames(self) -> int:
        """Return the larger side."""
        return max(self.left_frames, self.right_frames)


def analyse(wiring: Wiring, latents: str, output: str) -> ReceptiveField:
    """Return the receptive field of `output` in frames of `latents`, float32 [1, channels, frames].

    With that many frames of true context per side, every value inside the graph that a kept sample depends on is
    inside the window. Raises `GraphNotSplittable` if a layer is not understood.
    """
    dependent = wiring.downstream(latents)
    if output not in dependent:
        raise GraphNotSplittable("the speech does not depend on the latents")
    needed = sorted(wiring.upstream([output], stop=[latents]))
    axes = _Axes(wiring, dependent, {latents: _Axis(rank=3, rate=1)})
    for position in needed:
        axes.follow(wiring.nodes[position])
    hop = axes.known[output].rate
    intervals = {output: (_PROBE_FRAME * hop, (_PROBE_FRAME + 1) * hop - 1)}
    first = last = _PROBE_FRAME
    for position in reversed(needed):
        node = wiring.nodes[position]
        outputs = [intervals[name] for name in node.output if name in intervals]
        if not outputs or node.op_type in ("Shape", "Size"):
            continue
        interval = _looked_at(wiring, node, min(low for low, _ in outputs), max(high for _, high in outputs))
        for name in node.input:
            if name not in axes.known:
                continue
            low, high = intervals.get(name, interval)
            intervals[name] = (min(low, interval[0]), max(high, interval[1]))
            rate = axes.known[name].rate
            first = min(first, intervals[name][0] // rate)
            last = max(last, intervals[name][1] // rate)
    return ReceptiveField(_PROBE_FRAME - first, last - _PROBE_FRAME, hop)


@dataclass(frozen=True, slots=True)
class _Axis:
    """A tensor whose last axis is time."""

    rank: int
    rate: int
    """Positions per input frame."""


@dataclass(slots=True)
class _Axes:
    """Checks forwards that time stays the last axis and that every layer keeps it whole."""

    wiring: Wiring
    dependent: frozenset[str]
    known: dict[str, _Axis] = field(default_factory=dict)

    def follow(self, node: onnx.NodeProto) -> None:
        inputs = [self.known[name] for name in node.input if name in self.known]
        if not inputs or node.op_type in ("Shape", "Size"):
            return
        if any(name in self.dependent and name not in self.known for name in node.input):
            raise _unknown(node, "takes what is not understood")
        rank, rate = max(axis.rank for axis in inputs), inputs[0].rate
        if any(axis.rate != rate for axis in inputs):
            raise _unknown(node, "joins signals of different rates")
        match node.op_type:
            case "Conv":
                self._check_conv(node, rank)
            case "ConvTranspose":
                rate *= self._check_upsampling(node, rank)
            case "Slice":
                self._check_slice(node, rank)
            case "Split" | "Concat" | "Softmax":
                default = -1 if node.op_type == "Softmax" else 0
                if attributes(node).get("axis", default) in (-1, rank - 1):
                    raise _unknown(node, "works along time")
            case "Unsqueeze":
                rank = self._unsqueezed(node, rank)
            case "Squeeze":
                rank = self._squeezed(node, rank)
            case operation if operation not in _POINTWISE:
                raise _unknown(node, "is not a layer that can be cut in time")
        for name in node.output:
            if name:
                self.known[name] = _Axis(rank, rate)

    def _check_conv(self, node: onnx.NodeProto, rank: int) -> None:
        kernel, stride, dilation, begin, end = _geometry(self.wiring, node)
        if rank != 3 or stride != 1 or begin + end != (kernel - 1) * dilation:
            raise _unknown(node, "changes the length of the signal")

    def _check_upsampling(self, node: onnx.NodeProto, rank: int) -> int:
        kernel, stride, dilation, begin, end = _geometry(self.wiring, node)
        extra = attributes(node).get("output_padding", [0])[0]
        if rank != 3 or (kernel - 1) * dilation + 1 + extra - begin - end != stride:
            raise _unknown(node, "does not make a whole number of samples per frame")
        return stride

    def _check_slice(self, node: onnx.NodeProto, rank: int) -> None:
        values = [self.wiring.value(name) if name else None for name in node.input[1:]]
        if len(values) < 2 or any(value is None for value in values[:2]):
            raise _unknown(node, "cuts at a place that is computed")
        starts, ends = ([int(index) for index in value.ravel()] for value in values[:2] if value is not None)
        axes = range(len(starts)) if len(values) < 3 else self._whole_numbers(node, 3)
        steps = [1] * len(starts) if len(values) < 4 else self._whole_numbers(node, 4)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if axis % rank == rank - 1 and (start != 0 or end < _INT_MAX_SLICE_END or step != 1):
                raise _unknown(node, "cuts along time")

    def _unsqueezed(self, node: onnx.NodeProto, rank: int) -> int:
        axes = self._axes(node)
        made = rank + len(axes)
        if any(axis % made == made - 1 for axis in axes):
            raise _unknown(node, "moves time from the last axis")
        return made

    def _squeezed(self, node: onnx.NodeProto, rank: int) -> int:
        axes = self._axes(node)
        if not axes or any(axis % rank == rank - 1 for axis in axes):
            raise _unknown(node, "moves time from the last axis")
        return rank - len(axes)

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        if len(node.input) > 1 and node.input[1]:
            return self._whole_numbers(node, 1)
        return [int(axis) for axis in attributes(node).get("axes", [])]

    def _whole_numbers(self, node: onnx.NodeProto, position: int) -> list[int]:
        value = self.wiring.value(node.input[position]) if position < len(node.input) else None
        if value is None:
            raise _unknown(node, "depends on numbers that are computed")
        return [int(number) for number in value.ravel()]


def _looked_at(wiring: Wiring, node: onnx.NodeProto, low: int, high: int) -> tuple[int, int]:
    """Return which input positions the output positions low..high need."""
    if node.op_type == "Conv":
        kernel, _, dilation, begin, _ = _geometry(wiring, node)
        return low - begin, high - begin + (kernel - 1) * dilation
    if node.op_type == "ConvTranspose":
        # Input i reaches outputs i * stride - begin + k * dilation for k in 0 .. kernel - 1.
        kernel, stride, dilation, begin, _ = _geometry(wiring, node)
        return -((-(low + begin - (kernel - 1) * dilation)) // stride), (high + begin) // stride
    return low, high


def _geometry(wiring: Wiring, node: onnx.NodeProto) -> tuple[int, int, int, int, int]:
    """Return kernel, stride, dilation and the padding before and after of a one-dimensional convolution."""
    shape = wiring.shape(node.input[1])
    settings = attributes(node)
    if shape is None or len(shape) != 3 or settings.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise _unknown(node, "is not a plain one-dimensional convolution")
    begin, end = settings.get("pads", [0, 0])
    return shape[2], settings.get("strides", [1])[0], settings.get("dilations", [1])[0], begin, end


def _unknown(node: onnx.NodeProto, reason: str) -> GraphNotSplittable:
    return GraphNotSplittable(f"{node.op_type} node {node.name or node.output[0]!r} {reason}")
