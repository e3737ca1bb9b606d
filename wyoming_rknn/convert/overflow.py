"""Keep a graph's numbers within 16-bit floats by a rescale that changes nothing else.

Residual streams grow from block to block; in SenseVoice the last feed-forward layer of the encoder exceeds 65504, the
largest 16-bit float, and NaN comes out (published for RK3588; the toolkit's simulator shows it, too). A LayerNorm gives
the same for x and x / K, but for its epsilon. So where a stream ends in LayerNorms only, the layers that add to it are
divided by K from the first sum on that would be too large: their weights and biases, and once the stream itself. K is a
power of two, so no number but the smallest loses a bit.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.convert.folding import prune
from wyoming_rknn.runtime import onnx as runtime
from wyoming_rknn.runtime.graph import Tensor

LARGEST = 65504.0
"""Of 16-bit floats."""
SAFETY = 4.0
"""Other voices than the measured ones may be this much louder inside the graph."""
_MEASURED = frozenset({"Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Conv", "Relu", "Sum"})
_PEAK = "~peak"


@dataclass(frozen=True, slots=True)
class Rescaled:
    """What was done to a graph."""

    divisor: int
    """The largest K; 1 if nothing had to be done."""
    tensors: tuple[str, ...]
    """What is smaller by K than before."""
    largest: float
    """The largest number of all before."""
    beyond: tuple[str, ...]
    """What comes too near to the largest 16-bit float and cannot be rescaled."""


def peaks(model: onnx.ModelProto, feeds: Iterable[Mapping[str, Tensor]], threads: int = 1) -> dict[str, float]:
    """Return the largest absolute value of what each layer gives for all feeds.

    What happens inside a LayerNorm is left out: the NPU computes it as one. Raises `ModelInvalid`, `EngineError`.
    """
    wiring = _Wiring(model.graph)
    names = [
        name
        for node in model.graph.node
        if node.op_type in _MEASURED
        for name in node.output
        if name not in wiring.inside_norms
    ]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in names:
        # As one number each: the tensors of a real model together take gigabytes.
        probe.graph.node.append(helper.make_node("Abs", [name], [f"{name}~absolute"]))
        probe.graph.node.append(helper.make_node("ReduceMax", [f"{name}~absolute"], [f"{name}{_PEAK}"], keepdims=0))
        probe.graph.output.append(helper.make_tensor_value_info(f"{name}{_PEAK}", TensorProto.FLOAT, []))
    content = probe.SerializeToString()
    del probe
    found = dict.fromkeys(names, 0.0)
    with contextlib.closing(runtime.load(content, threads=threads)) as graph:
        for fed in feeds:
            results = graph.run(fed)
            for name in names:
                found[name] = max(found[name], float(results[f"{name}{_PEAK}"]))
    return found


def rescale(model: onnx.ModelProto, measured: Mapping[str, float]) -> Rescaled:
    """Change a graph so that what was measured is at most a quarter of what 16-bit floats hold, where that can be."""
    limit = LARGEST / SAFETY
    done: dict[str, int] = {}
    beyond: list[str] = []
    for name, peak in measured.items():
        if peak <= limit or name in done:
            continue
        plan = _Plan(_Wiring(model.graph), frozenset(key for key, value in measured.items() if value > limit))
        if not plan.demand(name):
            beyond.append(name)
            continue
        worst = max(measured.get(tensor, 0.0) for tensor in plan.streams)
        divisor = 2 ** math.ceil(math.log2(worst / limit))
        plan.apply(model.graph, divisor)
        done |= dict.fromkeys(plan.streams, divisor)
    prune(model.graph)
    return Rescaled(max(done.values(), default=1), tuple(done), max(measured.values(), default=0.0), tuple(beyond))


class _Wiring:
    """Who makes and who takes what, and where the LayerNorms are."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.takers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.takers.setdefault(name, []).append(node)
        self.norms: set[int] = set()
        """Ids of nodes that take a LayerNorm's input."""
        self.inside_norms: set[str] = set()
        for node in graph.node:
            if node.op_type == "LayerNormalization":
                self.norms.add(id(node))
            elif node.op_type == "Div":
                self._note_norm(node)

    def _note_norm(self, quotient: onnx.NodeProto) -> None:
        """Note a LayerNorm written as (x - mean) / sqrt(mean((x - mean)^2) + epsilon)."""
        centred = self.makers.get(quotient.input[0])
        chain: list[onnx.NodeProto] = []
        name = quotient.input[1]
        for operators in (("Sqrt",), ("Add",), ("ReduceMean",), ("Pow", "Mul")):
            node = self.makers.get(name)
            if node is None or node.op_type not in operators:
                return
            chain.append(node)
            name = next((given for given in node.input if given not in self.weights), "")
        if centred is None or centred.op_type != "Sub" or name != centred.output[0]:
            return
        mean = self.makers.get(centred.input[1])
        if mean is None or mean.op_type != "ReduceMean" or mean.input[0] != centred.input[0]:
            return
        self.norms |= {id(centred), id(mean)}
        self.inside_norms |= {name for node in (centred, mean, *chain) for name in node.output}


@dataclass(slots=True)
class _Plan:
    """Which tensors must become smaller together, and how."""

    wiring: _Wiring
    large: frozenset[str]
    streams: dict[str, None] = field(default_factory=dict)
    """Tensors that become smaller, in the order found."""
    weights: dict[tuple[int, int], onnx.NodeProto] = field(default_factory=dict)
    """Nodes with the place of the weight to divide, by id and place."""
    divided: dict[tuple[int, int], onnx.NodeProto] = field(default_factory=dict)
    """Nodes with the place of an input that is divided right before them."""

    def demand(self, name: str) -> bool:
        """Plan for a tensor to be smaller; False if what takes or makes it does not allow that."""
        pending = [name]
        while pending:
            tensor = pending.pop()
            if tensor in self.streams:
                continue
            self.streams[tensor] = None
            further = self._further(tensor)
            if further is None:
                return False
            pending += further
        return True

    def apply(self, graph: onnx.GraphProto, divisor: int) -> None:
        """Carry it out."""
        for (_, place), node in self.weights.items():
            values = numpy_helper.to_array(self.wiring.weights[node.input[place]]) / np.float32(divisor)
            name = f"{node.output[0]}~weight{place}"
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
            node.input[place] = name
        factor = f"{next(iter(self.streams))}~factor"
        graph.initializer.append(helper.make_tensor(factor, TensorProto.FLOAT, [], [1 / divisor]))
        before = {}
        for (_, place), node in self.divided.items():
            if node.input[place] in self.streams:
                continue
            smaller = f"{node.output[0]}~input{place}"
            before[id(node), place] = helper.make_node("Mul", [node.input[place], factor], [smaller], name=smaller)
            node.input[place] = smaller
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            nodes += [made for (key, _), made in before.items() if key == id(node)]
            nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)

    def _further(self, tensor: str) -> Sequence[str] | None:
        """Return what else must become smaller with a tensor; `None` if it cannot."""
        node = self.wiring.makers.get(tensor)
        if node is None or tensor in self.wiring.outputs:
            return None
        further = []
        for taker in self.wiring.takers.get(tensor, ()):
            if id(taker) in self.wiring.norms and taker.input[0] == tensor:
                continue
            if taker.op_type not in ("Add", "Identity"):
                return None
            further.append(taker.output[0])
        if node.op_type == "Identity":
            return [*further, node.input[0]]
        if node.op_type == "MatMul":
            if node.input[1] not in self.wiring.weights:
                return None
            self.weights[id(node), 1] = node
            return further
        if node.op_type != "Add":
            return None
        for place, name in enumerate(node.input):
            if name in self.wiring.weights:
                self.weights[id(node), place] = node
            elif name in self.large or self._is_own(name):
                further.append(name)
            else:
                self.divided[id(node), place] = node
        return further

    def _is_own(self, name: str) -> bool:
        """Tell whether a tensor is a linear layer's, taken by nobody else."""
        node = self.wiring.makers.get(name)
        if node is None or len(self.wiring.takers[name]) != 1 or name in self.wiring.outputs:
            return False
        if node.op_type == "MatMul":
            return node.input[1] in self.wiring.weights
        return node.op_type == "Add" and any(given in self.wiring.weights for given in node.input)
