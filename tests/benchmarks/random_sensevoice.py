"""A SenseVoice of any size with random weights: costs what a trained one costs and says nothing.

The graph has the layers of SenseVoiceSmall (SAN-M: attention beside a convolution over the values), cut up into the
operators that torch's exporter writes, and the inputs and metadata that sherpa-onnx expects: what reads published files
reads this one. Given trained weights it computes what FunASR computes with them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURE_SIZE = 560
PROMPT_ROWS = 4
TAGS = ("<unk>", "<s>", "</s>", "<|zh|>", "<|en|>", "<|NEUTRAL|>", "<|Speech|>", "<|withitn|>", "<|woitn|>")
_OPSET, _IR_VERSION = 13, 7


@dataclass(frozen=True)
class Size:
    """How large; the defaults are SenseVoiceSmall's but for its 50 and 20 blocks."""

    width: int = 512
    heads: int = 4
    units: int = 2048
    kernel: int = 11
    vocabulary: int = 25_055
    blocks: int = 11
    tp_blocks: int = 2


class _Builder:
    def __init__(self, size: Size, seed: int) -> None:
        self.size = size
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.parameters = 0

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int, spread: float | None = None) -> str:
        spread = shape[0] ** -0.5 if spread is None else spread
        self.weights.append(numpy_helper.from_array(self.value(name, shape, spread), name))
        self.parameters += int(np.prod(shape))
        return name

    def value(self, name: str, shape: tuple[int, ...], spread: float) -> np.ndarray:
        if "norm" in name:
            return np.full(shape, float(name.endswith("weight")), np.float32)
        return (self.random.standard_normal(shape, np.float32) * np.float32(spread)).astype(np.float32)

    def add(self, op_type: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: object) -> str:
        names = [f"t{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=name or f"n{len(self.nodes)}", **attributes))
        return names[0]

    def linear(self, x: str, name: str, into: int, out: int) -> str:
        product = self.add("MatMul", x, self.weight(f"{name}.weight", into, out), name=f"/{name}/MatMul")
        return self.add("Add", self.weight(f"{name}.bias", out, spread=0.02), product)

    def norm(self, x: str, name: str, width: int) -> str:
        centred = self.add("Sub", x, self.add("ReduceMean", x, axes=[-1]))
        variance = self.add("ReduceMean", self.add("Pow", centred, self.constant(2.0)), axes=[-1])
        deviation = self.add("Sqrt", self.add("Add", variance, self.constant(1e-5)))
        scaled = self.add("Mul", self.add("Div", centred, deviation), self.weight(f"{name}.weight", width))
        return self.add("Add", scaled, self.weight(f"{name}.bias", width))

    def heads(self, x: str, perm: tuple[int, ...]) -> str:
        size = self.size
        apart = self.add("Reshape", x, self.constant([0, 0, size.heads, size.width // size.heads], np.int64))
        return self.add("Transpose", apart, perm=list(perm))

    def memory(self, values: str, name: str, mask: str) -> str:
        """Return the convolution over values [N, L, width]: a memory of the frames around each."""
        size = self.size
        masked = self.add("Mul", values, mask)
        left = (size.kernel - 1) // 2
        pads = self.constant([0, 0, left, 0, 0, size.kernel - 1 - left], np.int64)
        padded = self.add("Pad", self.add("Transpose", masked, perm=[0, 2, 1]), pads, mode="constant")
        kernel = self.weight(f"{name}.fsmn_block.weight", size.width, 1, size.kernel, spread=size.kernel**-0.5)
        convolved = self.add("Conv", padded, kernel, group=size.width, kernel_shape=[size.kernel])
        summed = self.add("Add", self.add("Transpose", convolved, perm=[0, 2, 1]), masked)
        return self.add("Mul", summed, mask)

    def attention(self, x: str, name: str, into: int, mask: str, hidden: str) -> str:
        size = self.size
        packed = self.linear(x, f"{name}.linear_q_k_v", into, 3 * size.width)
        query = self.add("Split", packed, self.constant([size.width] * 3, np.int64), outputs=3, axis=-1)
        stem = query.removesuffix("_0")
        key, value = f"{stem}_1", f"{stem}_2"
        memory = self.memory(value, name, mask)
        scale = self.constant((size.width // size.heads) ** -0.5)
        scaled = self.add("Mul", self.heads(query, (0, 2, 1, 3)), scale)
        scores = self.add("MatMul", scaled, self.heads(key, (0, 2, 3, 1)))
        scores = self.add("Where", hidden, self.constant(-np.inf), scores)
        shares = self.add("Where", hidden, self.constant(0.0), self.add("Softmax", scores, axis=-1))
        context = self.add("Transpose", self.add("MatMul", shares, self.heads(value, (0, 2, 1, 3))), perm=[0, 2, 1, 3])
        joined = self.add("Reshape", context, self.constant([0, 0, size.width], np.int64))
        return self.add("Add", self.linear(joined, f"{name}.linear_out", size.width, size.width), memory)

    def block(self, x: str, name: str, into: int, mask: str, hidden: str) -> str:
        size = self.size
        attended = self.attention(self.norm(x, f"{name}.norm1", into), f"{name}.self_attn", into, mask, hidden)
        if into == size.width:
            attended = self.add("Add", x, attended)
        inner = self.linear(self.norm(attended, f"{name}.norm2", size.width), f"{name}.w_1", size.width, size.units)
        return self.add("Add", attended, self.linear(self.add("Relu", inner), f"{name}.w_2", size.units, size.width))

    def prompted(self) -> str:
        """Return the features after the prompt's rows, scaled, with their positions."""
        table = self.weight("embed.weight", 16, FEATURE_SIZE, spread=0.1)
        axis = self.constant([1], np.int64)
        language, text_norm = (
            self.add("Unsqueeze", self.add("Gather", table, given), axis) for given in ("language", "text_norm")
        )
        sounds = self.add("Gather", table, self.constant([[1, 2]], np.int64))
        batch = self.add("Shape", "language")
        rows = self.add("Expand", sounds, self.add("Concat", batch, self.constant([1, 1], np.int64), axis=0))
        speech = self.add("Concat", language, rows, text_norm, "x", axis=1)
        scaled = self.add("Mul", speech, self.constant(self.size.width**0.5))
        one = self.constant(1, np.int64)
        count = self.add("Squeeze", self.add("Slice", self.add("Shape", speech), axis, self.constant([2], np.int64)))
        places = self.add("Range", one, self.add("Add", count, one), one)
        rates = np.exp(np.arange(FEATURE_SIZE // 2) * -(np.log(10_000) / (FEATURE_SIZE / 2 - 1)))
        column = self.add("Unsqueeze", self.add("Cast", places, to=TensorProto.FLOAT), axis)
        angles = self.add("Mul", column, self.constant(rates))
        waves = self.add("Concat", self.add("Sin", angles), self.add("Cos", angles), axis=-1)
        self.places = places
        return self.add("Add", scaled, waves)

    def masks(self) -> tuple[str, str]:
        """Return which frames count, float [N, L, 1], and which keys do not, bool [N, 1, 1, L]."""
        lengths = self.add("Add", self.add("Cast", "x_length", to=TensorProto.INT64), self.constant(4, np.int64))
        lengths = self.add("Unsqueeze", lengths, self.constant([1], np.int64))
        beyond = self.add("Greater", self.places, lengths)
        counted = self.add("Cast", self.add("Not", beyond), to=TensorProto.FLOAT)
        mask = self.add("Unsqueeze", counted, self.constant([2], np.int64))
        return mask, self.add("Unsqueeze", beyond, self.constant([1, 2], np.int64))


def build(size: Size | None = None, seed: int = 1, builder: type[_Builder] = _Builder) -> tuple[onnx.ModelProto, int]:
    """Build a model with sherpa-onnx's inputs; returns it and its number of parameters."""
    size = size or Size()
    b = builder(size, seed)
    x = b.prompted()
    mask, hidden = b.masks()
    x = b.block(x, "encoders0.0", FEATURE_SIZE, mask, hidden)
    for number in range(size.blocks - 1):
        x = b.block(x, f"encoders.{number}", size.width, mask, hidden)
    x = b.norm(x, "after_norm", size.width)
    for number in range(size.tp_blocks):
        x = b.block(x, f"tp_encoders.{number}", size.width, mask, hidden)
    logits = b.linear(b.norm(x, "tp_norm", size.width), "ctc_lo", size.width, size.vocabulary)
    # Tags would make what is heard disappear.
    unlikely = np.zeros(size.vocabulary)
    unlikely[1 : len(TAGS)] = -1000.0
    logits = b.add("Add", logits, b.constant(unlikely))
    b.nodes[-1].output[0] = "logits"
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT32, ["N"]) for name in ("x_length", "language", "text_norm")
    ]
    features = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", FEATURE_SIZE])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "L", size.vocabulary])
    graph = helper.make_graph(b.nodes, "random-sensevoice", [features, *ids], [made], b.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    helper.set_model_props(model, {key: str(value) for key, value in _metadata(size).items()})
    return model, b.parameters


def _metadata(size: Size) -> dict[str, object]:
    ids = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12, "nospeech": 13}
    return {
        "model_type": "sense_voice_ctc",
        "version": 2,
        "comment": "random",
        "vocab_size": size.vocabulary,
        "lfr_window_size": 7,
        "lfr_window_shift": 6,
        "normalize_samples": 0,
        "with_itn": 14,
        "without_itn": 15,
        **{f"lang_{name}": number for name, number in ids.items()},
        "neg_mean": ",".join(["-10"] * FEATURE_SIZE),
        "inv_stddev": ",".join(["0.2"] * FEATURE_SIZE),
    }


def install(folder: Path, size: Size | None = None) -> int:
    """Write `model.onnx` and `tokens.txt` into a folder; returns the number of parameters."""
    size = size or Size()
    folder.mkdir(parents=True, exist_ok=True)
    model, parameters = build(size)
    onnx.save(model, folder / "model.onnx")
    words = (f"▁w{number}" for number in range(len(TAGS), size.vocabulary))
    lines = (f"{piece} {number}\n" for number, piece in enumerate((*TAGS, *words)))
    (folder / "tokens.txt").write_text("".join(lines), encoding="utf-8")
    return parameters
