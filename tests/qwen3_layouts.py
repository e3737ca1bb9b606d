"""The tiny Qwen3-ASR as others lay it out: sherpa-onnx's package, and rkvoice-stream's encoders for some lengths."""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

GOLDEN = Path(__file__).with_name("golden") / "qwen3" / "model"
HIDDEN, LAYERS, KV_HEADS, HEAD_SIZE, VOCABULARY = 64, 3, 2, 16, 1088
FRAMES, ROWS, WIDTH = 100, 13, 48
_FLOAT, _INT, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
_MASKED = -1e4


class _Graph:
    """A graph that goes around those of the tiny model."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def take(self, name, shape, kind=_FLOAT):
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, value, dtype=np.int64):
        name = self._name()
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def add(self, operator, *inputs, output=None, **attributes):
        output = output or self._name()
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def shaped(self, value, *shape, output=None):
        return self.add("Reshape", value, self.constant(shape), output=output)

    def inner(self, name, **tensors):
        """Append the tiny model's graph; `tensors` are what its inputs and outputs are here."""
        model = onnx.load(GOLDEN / f"{name}.onnx")
        prefix = f"{name}/"

        def called(tensor):
            return tensor and tensors.get(tensor, prefix + tensor)

        for weight in model.graph.initializer:
            weight.name = prefix + weight.name
        for node in model.graph.node:
            node.input[:], node.output[:] = map(called, node.input), map(called, node.output)
            node.name = prefix + node.name
        self.weights.extend(model.graph.initializer)
        self.nodes.extend(model.graph.node)

    def write(self, path, outputs):
        infos = [helper.make_tensor_value_info(name, _FLOAT, shape) for name, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "tiny", self._inputs, infos, self.weights)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path

    def _name(self):
        self._count += 1
        return f"around/{self._count}"


def sherpa(folder: Path, audio_id: int, *, with_mask: bool = True) -> Path:
    """Write the package of sherpa-onnx's contract; some exports leave out `attention_mask`, which changes nothing."""
    graph = _Graph()
    graph.take("input_features", [1, "frames", 128])
    second = graph.constant([FRAMES])
    rest = graph.add("Mod", graph.add("Neg", graph.add("Shape", "input_features", start=1, end=2)), second)
    pads = graph.add("Concat", graph.constant([0] * 4), rest, graph.constant([0]), axis=0)
    seconds = graph.shaped(graph.add("Pad", "input_features", pads), -1, FRAMES, 128)
    graph.inner("audio_conv", mel=graph.add("Transpose", seconds, perm=[0, 2, 1]), features="by second")
    graph.shaped("by second", 1, -1, WIDTH, output="conv_output")
    graph.write(folder / "conv_frontend.onnx", {"conv_output": [1, "rows", WIDTH]})

    graph = _Graph()
    graph.take("input_features", [1, "rows", WIDTH])
    heard = graph.shaped(graph.take("feature_attention_mask", [1, "rows"], _BOOL), 1, 1, 1, -1)
    hidden = graph.add("Where", heard, graph.constant(0.0, np.float32), graph.constant(_MASKED, np.float32))
    count = graph.add("Shape", "feature_attention_mask", start=1)
    square = graph.add("Concat", graph.constant([1, 1]), count, count, axis=0)
    mask = graph.add("Expand", hidden, square)
    graph.inner("audio_encoder", features="input_features", mask=mask, embeddings="audio_features")
    graph.write(folder / "encoder.int8.onnx", {"audio_features": [1, "rows", HIDDEN]})

    _write_sherpas_decoder(folder / "decoder.int8.onnx", audio_id, with_mask)
    (folder / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(GOLDEN / name, folder / "tokenizer" / name)
    return folder


def _write_sherpas_decoder(path, audio_id, with_mask):
    graph = _Graph()
    ids = graph.take("input_ids", [1, "rows"], _INT)
    audio = graph.shaped(graph.take("audio_features", [1, "audio", HIDDEN]), -1, HIDDEN)
    if with_mask:
        graph.take("attention_mask", [1, "rows"], _INT)
    positions = graph.take("cache_position", ["rows"], _INT)
    names = [(f"cache_key_{layer}", f"cache_value_{layer}") for layer in range(LAYERS)]
    for pair in names:
        for name in pair:
            graph.take(name, [1, "capacity", KV_HEADS, HEAD_SIZE])
    # Rows of audio stand in for the tokens that say so, in order.
    table = graph.constant(np.load(GOLDEN / "embeddings.npy"), np.float32)
    is_audio = graph.add("Equal", ids, graph.constant(audio_id))
    number = graph.add("CumSum", graph.add("Cast", is_audio, to=_INT), graph.constant(1))
    number = graph.add("Max", graph.add("Sub", number, graph.constant(1)), graph.constant(0))
    heard = graph.add("Gather", audio, number, axis=0)
    place = graph.add("Unsqueeze", is_audio, graph.constant([2]))
    rows = graph.add("Where", place, heard, graph.add("Gather", table, ids, axis=0))
    # What lies in a cache beyond the first position that is read now means nothing.
    past = graph.add("Gather", positions, graph.constant([0]), axis=0)
    stacked = []
    for kind in (0, 1):
        layers = [
            graph.add("Slice", graph.shaped(pair[kind], -1, 1, KV_HEADS, HEAD_SIZE), graph.constant([0]), past)
            for pair in names
        ]
        stacked.append(graph.add("Concat", *layers, axis=1))
    count = graph.add("Shape", ids, start=1)
    scalar = graph.shaped(graph.add("Add", past, count))
    columns = graph.add("Range", graph.constant(0), scalar, graph.constant(1))
    later = graph.add("Greater", graph.shaped(columns, 1, 1, 1, -1), graph.shaped(positions, 1, 1, -1, 1))
    mask = graph.add("Where", later, graph.constant(_MASKED, np.float32), graph.constant(0.0, np.float32))
    graph.inner(
        "decoder",
        inputs_embeds=rows,
        position_ids=graph.shaped(positions, 1, -1),
        mask=mask,
        past_k=stacked[0],
        past_v=stacked[1],
        logits="last",
        new_k="keys",
        new_v="values",
    )
    # The published one wants a row of each cache, whatever it is.
    first = graph.add("ReduceSum", graph.add("Gather", names[-1][1], graph.constant([0]), axis=1), keepdims=0)
    nothing = graph.add("Mul", first, graph.constant(0.0, np.float32))
    last = graph.add("Add", graph.shaped("last", 1, 1, VOCABULARY), nothing)
    every = graph.add("Concat", graph.constant([1]), count, graph.constant([VOCABULARY]), axis=0)
    graph.add("Expand", last, every, output="logits")
    outputs = {"logits": [1, "rows", VOCABULARY]}
    for layer in range(LAYERS):
        for kind, new in (("key", "keys"), ("value", "values")):
            delta = graph.add("Gather", new, graph.constant(layer), axis=1)
            name = graph.shaped(delta, 1, -1, KV_HEADS, HEAD_SIZE, output=f"{kind}_delta_{layer}")
            outputs[name] = [1, "rows", KV_HEADS, HEAD_SIZE]
    graph.write(path, outputs)


def merged_encoder(path: Path, seconds: int) -> Path:
    """Write rkvoice-stream's encoder for one length: spectrum with channels first, and mask, to rows."""
    graph, rows = _Graph(), ROWS * seconds
    graph.take("input_features", [1, 128, FRAMES * seconds])
    graph.take("attention_mask", [1, 1, rows, rows])
    chunks = graph.add("Transpose", graph.shaped("input_features", 128, seconds, FRAMES), perm=[1, 0, 2])
    graph.inner("audio_conv", mel=chunks, features="by second")
    features = graph.shaped("by second", 1, rows, WIDTH)
    graph.inner("audio_encoder", features=features, mask="attention_mask", embeddings="audio_embeds")
    return graph.write(path, {"audio_embeds": [1, rows, HIDDEN]})


def encoder_in_parts(folder: Path, seconds: int) -> tuple[Path, Path]:
    """Write it in two graphs: the first takes a spectrum with channels last, the second a mask, too."""
    graph, rows = _Graph(), ROWS * seconds
    graph.take("input_features", [1, FRAMES * seconds, 128])
    chunks = graph.add("Transpose", graph.shaped("input_features", seconds, FRAMES, 128), perm=[0, 2, 1])
    graph.inner("audio_conv", mel=chunks, features="by second")
    graph.shaped("by second", 1, rows, WIDTH, output="hidden")
    first = graph.write(folder / f"frontend.{seconds}s.onnx", {"hidden": [1, rows, WIDTH]})
    graph = _Graph()
    features, mask = graph.take("hidden", [1, rows, WIDTH]), graph.take("mask", [1, 1, rows, rows])
    graph.inner("audio_encoder", features=features, mask=mask, embeddings="audio_embeds")
    return first, graph.write(folder / f"backend.{seconds}s.onnx", {"audio_embeds": [1, rows, HIDDEN]})
