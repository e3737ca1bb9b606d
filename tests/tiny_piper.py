"""Small voices with Piper's structure and random weights, made on the spot."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from wyoming_rknn.tts.piper.cut import find_flow
from wyoming_rknn.tts.piper.surgery import Wiring, extract

CHANNELS, WIDTH, PHONEMES = 6, 8, 20


@dataclass(frozen=True)
class VoiceShape:
    """What to build: speakers, whether the flow is separable, dilations of the decoder's residual block."""

    speakers: int = 1
    flow: bool = True
    dilations: tuple[int, ...] = (1, 2)
    mask_in_sum: bool = False
    upsampled: bool = True
    inputs: tuple[str, ...] = ("input", "input_lengths", "scales")


class _Builder:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def tensor(self, value: object, dtype: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.tensor(self.random.normal(size=shape) * 0.4)

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = [f"t{len(self.nodes)}_{position}" for position in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, **attributes))
        return names[0]

    def conv(self, x: str, into: int, out: int, kernel: int, dilation: int = 1) -> str:
        pad = dilation * (kernel - 1) // 2
        return self.add(
            "Conv", x, self.weight(out, into, kernel), self.weight(out), pads=[pad, pad], dilations=[dilation]
        )

    def upsample(self, x: str, into: int, out: int, stride: int) -> str:
        pad = stride // 2
        weights = self.weight(into, out, 2 * stride), self.weight(out)
        return self.add("ConvTranspose", x, *weights, strides=[stride], pads=[pad, pad])


def build_voice(shape: VoiceShape | None = None, seed: int = 1) -> onnx.ModelProto:
    """Build a voice with Piper's inputs and output; a phoneme takes round(3 * length_scale) frames; hop 8."""
    shape = shape or VoiceShape()
    b = _Builder(seed)
    table = b.weight(PHONEMES, CHANNELS)
    embedded = b.add("Transpose", b.add("Gather", table, shape.inputs[0]), perm=[0, 2, 1])
    length_scale = b.add("Gather", "scales", b.tensor([1], np.int64))
    frames = b.add("Cast", b.add("Ceil", b.add("Mul", length_scale, b.tensor([3.0]))), to=TensorProto.INT64)
    repeated = b.add("Concat", b.tensor([1, 1, 1], np.int64), frames, axis=0)
    wide = b.add("Expand", b.add("Unsqueeze", embedded, b.tensor([3], np.int64)), repeated)
    mean = b.add("Reshape", wide, b.tensor([1, CHANNELS, -1], np.int64))
    noise = b.add("RandomNormalLike", mean)
    noise_scale = b.add("Gather", "scales", b.tensor([0], np.int64))
    z_p = b.add("Add", mean, b.add("Mul", noise, noise_scale))
    one_channel = b.add("Slice", mean, b.tensor([0], np.int64), b.tensor([1], np.int64), b.tensor([1], np.int64))
    mask = b.add("Cast", b.add("Equal", one_channel, one_channel), to=TensorProto.FLOAT)
    g = ""
    if shape.speakers > 1:
        row = b.add("Gather", b.weight(shape.speakers, 5), "sid")
        g = b.add("Unsqueeze", row, b.tensor([2], np.int64))
    half = CHANNELS // 2
    latents = z_p
    if shape.flow:
        for _ in range(2):
            flipped = b.add("Slice", latents, *(b.tensor([n], np.int64) for n in (-1, np.iinfo(np.int64).min, 1, -1)))
            kept = b.add("Split", flipped, b.tensor([half, half], np.int64), outputs=2, axis=1)
            changed = b.nodes[-1].output[1]
            hidden = b.add("Mul", b.conv(kept, half, WIDTH, 1), mask)
            zeros = b.add("ConstantOfShape", b.add("Shape", hidden))
            gate = b.conv(hidden, WIDTH, WIDTH, 5)
            if g:
                projected = b.conv(g, 5, 2 * WIDTH, 1)
                part = [b.tensor([n], np.int64) for n in (0, WIDTH, 1)]
                gate = b.add("Add", gate, b.add("Slice", projected, *part))
            hidden = b.add("Add", zeros, b.add("Mul", b.add("Tanh", gate), b.add("Sigmoid", gate)))
            if shape.mask_in_sum:
                hidden = b.add("Add", hidden, mask)
            shift = b.add("Mul", b.conv(hidden, WIDTH, half, 1), mask)
            latents = b.add("Concat", kept, b.add("Sub", changed, shift), axis=1)
    else:
        latents = b.conv(b.add("Transpose", b.add("Transpose", mean, perm=[0, 2, 1]), perm=[0, 2, 1]), 6, 6, 5)
    z = b.add("Mul", latents, mask)
    x = b.conv(z, CHANNELS, WIDTH, 7)
    if g:
        x = b.add("Add", x, b.conv(g, 5, WIDTH, 1))
    if shape.upsampled:
        for stride in (4, 2):
            x = b.upsample(b.add("LeakyRelu", x), WIDTH, WIDTH, stride)
            for dilation in shape.dilations:
                x = b.add("Add", b.conv(b.add("LeakyRelu", x), WIDTH, WIDTH, 3, dilation), x)
    speech = b.add("Tanh", b.conv(x, WIDTH, 1, 7))
    speech = b.add("Unsqueeze", speech, b.tensor([1], np.int64))
    b.nodes[-1].output[0] = "output"
    declared = [
        helper.make_tensor_value_info(shape.inputs[0], TensorProto.INT64, [1, "phonemes"]),
        *(
            helper.make_tensor_value_info(name, TensorProto.FLOAT if name == "scales" else TensorProto.INT64, [None])
            for name in shape.inputs[1:]
        ),
    ]
    if g:
        declared.append(helper.make_tensor_value_info("sid", TensorProto.INT64, [1]))
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 1, "samples"])
    graph = helper.make_graph(b.nodes, "voice", declared, [result], b.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def cut_before_flow(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Make a pair as published "streaming" voices are: the flow inside the decoder."""
    wiring = Wiring(model)
    place = find_flow(wiring, decoder_input(wiring))
    assert place is not None and place.mask is not None
    boundary = {place.z_p: "z", place.mask: "y_mask"} | ({place.g: "g"} if place.g else {})
    encoder = extract(wiring, {name: name for name in wiring.inputs}, boundary)
    return encoder, extract(wiring, boundary, {"output": "output"})


def decoder_input(wiring: Wiring) -> str:
    """Return the tensor that the first convolution of kernel 7 takes."""
    node = next(n for n in wiring.nodes if n.op_type == "Conv" and (wiring.shape(n.input[1]) or (0,))[-1] == 7)
    return node.input[0]
