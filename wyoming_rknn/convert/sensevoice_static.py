"""SenseVoice for an NPU: from the graph that FunASR or sherpa-onnx export to one of fixed length.

`speech` float32 [1, frames, 560] -> logits [1, vocabulary, frames], the layout that happyme531 publishes. The first
four rows are the prompt's (language, event, emotion, text norm), which whoever feeds the graph takes from the
embedding, and CMVN is applied before. So nothing is left that NPUs leave to the CPU: the look-up of the prompt would
be, and so would be, with 25 055 tokens, the transposition that puts the vocabulary last. 16 bits hold normalised rows
best, and these can be made smaller where 16-bit floats overflow all the same. Nothing is masked: all rows are valid, as
in all graphs that are published for NPUs.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.convert.folding import fold, prune
from wyoming_rknn.errors import ConversionError
from wyoming_rknn.models.formats.sensevoice_layout import FEATURE_SIZE, PROMPT_ROWS

INPUT = "speech"
_EMBEDDING_SHAPE = (16, FEATURE_SIZE)
_INPUTS = 4
_FRAMES_STEP = 8
"""Of 16-bit floats the NPU holds eight side by side; in other lengths it leaves transpositions to the CPU."""
_ROWS_PER_S = 100 / 6
_UNUSED = "not_needed"
_ALONE = "speech_alone"
_NO_EXPORT = (
    "the graph is no export of FunASR or sherpa-onnx in 32-bit floats: speech, speech_lengths, language, textnorm -> "
    "logits; take model.onnx of SenseVoiceSmall as one of the two publishes it"
)


@dataclass(frozen=True, slots=True)
class _Ends:
    speech: str
    lengths: str
    logits: str
    joined: str
    """What the encoder takes: speech behind its prompt."""


def frames_for(seconds: float) -> int:
    """Return how many rows a bucket has that takes so much speech and its prompt."""
    rows = int(seconds * _ROWS_PER_S + 0.5) + PROMPT_ROWS
    return -(-rows // _FRAMES_STEP) * _FRAMES_STEP


def embedding_of(graph: onnx.GraphProto) -> NDArray[np.float32]:
    """Return the rows of which a prompt consists, float32 [16, 560]. Raises `ConversionError`."""
    weights = list(graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            weights.append(node.attribute[0].t)
    found = [weight for weight in weights if tuple(weight.dims) == _EMBEDDING_SHAPE]
    if len(found) != 1 or found[0].data_type != TensorProto.FLOAT:
        raise ConversionError(_NO_EXPORT)
    return np.array(numpy_helper.to_array(found[0]), np.float32)


def fix(model: onnx.ModelProto, frames: int) -> onnx.ModelProto:
    """Return an exported graph for `frames` rows, of which the first four are the prompt.

    Raises `ConversionError` if it is no export of SenseVoice.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    cut(changed.graph, frames)
    transpose(changed.graph)
    simplify(changed)
    return changed


def simplify(model: onnx.ModelProto) -> None:
    """Leave nothing in a graph of fixed length but what depends on its input. Raises `ConversionError`."""
    fold(model)
    separate(model.graph)


def cut(graph: onnx.GraphProto, frames: int) -> None:
    """Feed speech with its prompt, fix the number of frames, and remove what is not needed for the logits any more."""
    ends = _ends(graph)
    for node in graph.node:
        for place, name in enumerate(node.output):
            node.output[place] = _UNUSED if name == ends.joined else name
        for place, name in enumerate(node.input):
            node.input[place] = {ends.joined: INPUT, ends.speech: _ALONE}.get(name, name)
    # Some exporters ask for the length of the speech alone; what nobody asks for is removed below.
    bounds = {"prompt_rows": [PROMPT_ROWS], "all_rows": [frames], "axis_of_rows": [1]}
    graph.initializer.extend(helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in bounds.items())
    graph.node.insert(0, helper.make_node("Slice", [INPUT, *bounds], [_ALONE]))
    kind = next(given.type.tensor_type.elem_type for given in graph.input if given.name == ends.lengths)
    graph.initializer.append(helper.make_tensor(ends.lengths, kind, [1], [frames - PROMPT_ROWS]))
    logits = next(made for made in graph.output if made.name == ends.logits)
    vocabulary = logits.type.tensor_type.shape.dim[2].dim_value
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, frames, FEATURE_SIZE]))
    graph.output.append(helper.make_tensor_value_info(ends.logits, TensorProto.FLOAT, [1, frames, vocabulary]))
    prune(graph)


def transpose(graph: onnx.GraphProto) -> None:
    """Put the vocabulary before the frames."""
    logits = graph.output[0]
    _, frames, vocabulary = (axis.dim_value for axis in logits.type.tensor_type.shape.dim)
    turned = f"{logits.name}_transposed"
    graph.node.append(helper.make_node("Transpose", [logits.name], [turned], perm=[0, 2, 1]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(turned, TensorProto.FLOAT, [1, vocabulary, frames]))


def _ends(graph: onnx.GraphProto) -> _Ends:
    speech = next((given.name for given in graph.input if len(given.type.tensor_type.shape.dim) == 3), None)
    lengths = next((given.name for given in graph.input if "len" in given.name.lower()), None)
    logits = next((made.name for made in graph.output if len(made.type.tensor_type.shape.dim) == 3), None)
    if speech is None or lengths is None or logits is None or len(graph.input) != _INPUTS:
        raise ConversionError(_NO_EXPORT)
    # The text norm is put before the speech, and before that the rest of the prompt, at once or one by one.
    joined = speech
    while (
        node := next((node for node in graph.node if node.op_type == "Concat" and joined in node.input), None)
    ) is not None:
        joined = node.output[0]
    if joined == speech:
        raise ConversionError(_NO_EXPORT)
    return _Ends(speech, lengths, logits, joined)


def separate(graph: onnx.GraphProto) -> None:
    """Compute query, key and value each by a product of its own instead of splitting that of all three.

    The toolkit turns such a split into a Gather over the rows, if it does not fail with it.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    takers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            takers[name] = takers.get(name, 0) + 1
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += _separated(node, makers, takers, weights, graph) if node.op_type == "Split" else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    prune(graph)


def _separated(
    split: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    takers: dict[str, int],
    weights: dict[str, onnx.TensorProto],
    graph: onnx.GraphProto,
) -> list[onnx.NodeProto]:
    """Return what a split is replaced by; itself if it is no split of a product with a weight."""
    bias = None
    source = makers.get(split.input[0])
    if source is not None and source.op_type == "Add" and takers[source.output[0]] == 1:
        bias = next((name for name in source.input if name in weights), None)
        source = makers.get(next((name for name in source.input if name not in weights), ""))
    if source is None or source.op_type != "MatMul" or source.input[1] not in weights or takers[source.output[0]] != 1:
        return [split]
    matrix = numpy_helper.to_array(weights[source.input[1]])
    width = matrix.shape[-1]
    axis = next((attribute.i for attribute in split.attribute if attribute.name == "axis"), 0)
    sizes = _sizes(split, weights, width)
    if matrix.ndim != 2 or axis not in (-1, 2) or sum(sizes) != width:
        return [split]
    offset = None if bias is None else numpy_helper.to_array(weights[bias])
    if offset is not None and offset.shape != (width,):
        return [split]
    made = []
    begin = 0
    for name, size in zip(split.output, sizes, strict=True):
        product = name if offset is None else f"{name}_product"
        columns = slice(begin, begin + size)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix[:, columns]), f"{name}_weight"))
        made.append(helper.make_node("MatMul", [source.input[0], f"{name}_weight"], [product], name=f"{name}_MatMul"))
        if offset is not None:
            graph.initializer.append(numpy_helper.from_array(offset[columns], f"{name}_bias"))
            made.append(helper.make_node("Add", [product, f"{name}_bias"], [name], name=f"{name}_Add"))
        begin += size
    return made


def _sizes(split: onnx.NodeProto, weights: dict[str, onnx.TensorProto], width: int) -> list[int]:
    if len(split.input) > 1 and split.input[1] in weights:
        return [int(size) for size in numpy_helper.to_array(weights[split.input[1]])]
    given = next((list(attribute.ints) for attribute in split.attribute if attribute.name == "split"), None)
    return given or [width // len(split.output)] * len(split.output)
