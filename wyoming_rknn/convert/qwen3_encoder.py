"""The audio encoder of Qwen3-ASR as two graphs of plain ONNX: convolutions by the second, a transformer by the window.

Seconds are independent of each other up to the transformer, and windows of 8 s up to the end, so whoever runs them
keeps what is finished. Equals transformers' `Qwen3ASREncoder` and projector.
"""

import math

import numpy as np

from wyoming_rknn.convert.qwen3_checkpoint import EncoderSize, Size, Weight, Weights, halved_thrice
from wyoming_rknn.convert.qwen3_graph import GraphBuilder, floats

MEL, FEATURES, MASK, EMBEDDINGS = "mel", "features", "mask", "embeddings"
"""Inputs and outputs."""

_TOWER, _PROJECTOR = "model.audio_tower", "model.multi_modal_projector"
_NORM_EPSILON = 1e-5
_MAX_TIMESCALE = 10_000


def write_convolutions(graph: GraphBuilder, size: EncoderSize, weights: Weights) -> None:
    """Write the graph from `mel` [chunks, mels, 100] to `features` [chunks, 13, width], with positions in them."""
    value = graph.add("Unsqueeze", MEL, graph.integers(1))
    channels = 1
    for number in (1, 2, 3):
        name = f"{_TOWER}.conv2d{number}"
        kernel = graph.weight(f"{name}.weight", weights.read(f"{name}.weight", size.channels, channels, 3, 3))
        bias = graph.weight(f"{name}.bias", weights.read(f"{name}.bias", size.channels))
        value = gelu(graph, graph.add("Conv", value, kernel, bias, strides=[2, 2], pads=[1, 1, 1, 1]))
        channels = size.channels
    rows, bands = size.chunk_rows, halved_thrice(size.mels)
    value = graph.add("Transpose", value, perm=[0, 3, 1, 2])
    value = graph.reshape(value, -1, rows, channels * bands)
    weight = weights.read(f"{_TOWER}.conv_out.weight", size.width, channels * bands)
    value = graph.linear(value, f"{_TOWER}.conv_out", weight)
    graph.add("Add", value, graph.weight("positions", positions(rows, size.width)), outputs=[FEATURES])
    graph.save(
        [floats(MEL, "chunks", size.mels, size.chunk_frames)], [floats(FEATURES, "chunks", rows, size.width)], {}
    )


def write_transformer(graph: GraphBuilder, size: Size, weights: Weights) -> None:
    """Write the graph from `features` [1, T, width] and `mask` [1, 1, T, T] to `embeddings` [1, T, hidden].

    The mask is added to the scores: 0, and -1e4 where a row must not be seen.
    """
    encoder, hidden = size.encoder, size.decoder.hidden
    width = encoder.width
    value = FEATURES
    for number in range(encoder.layers):
        value = _layer(graph, encoder, weights, f"{_TOWER}.layers.{number}", value)
    value = _norm(graph, weights, f"{_TOWER}.ln_post", width, value)
    value = gelu(graph, _linear(graph, weights, f"{_PROJECTOR}.linear_1", width, width, value))
    value = _linear(graph, weights, f"{_PROJECTOR}.linear_2", hidden, width, value)
    graph.add("Identity", value, outputs=[EMBEDDINGS])
    graph.save(
        [floats(FEATURES, 1, "rows", width), floats(MASK, 1, 1, "rows", "rows")],
        [floats(EMBEDDINGS, 1, "rows", hidden)],
        {},
    )


def positions(rows: int, width: int) -> Weight:
    """Return Whisper's sinusoids, float32 [rows, width]: sines, then cosines."""
    steps = np.exp(-np.float32(math.log(_MAX_TIMESCALE) / (width // 2 - 1)) * np.arange(width // 2, dtype=np.float32))
    angles = np.arange(rows, dtype=np.float32)[:, None] * steps
    table: Weight = np.concatenate((np.sin(angles), np.cos(angles)), 1).astype(np.float32)
    return table


def gelu(graph: GraphBuilder, value: str) -> str:
    """Append x (1 + erf(x / sqrt 2)) / 2, in the order of nodes that ONNX Runtime and the toolkit make one of."""
    inner = graph.add("Erf", graph.add("Div", value, graph.constant(np.float32(math.sqrt(2)))))
    sum_ = graph.add("Add", inner, graph.constant(np.float32(1)))
    return graph.add("Mul", graph.add("Mul", value, sum_), graph.constant(np.float32(0.5)))


def _layer(graph: GraphBuilder, size: EncoderSize, weights: Weights, name: str, value: str) -> str:
    width, heads = size.width, size.heads
    head_dim = width // heads
    mixed = _norm(graph, weights, f"{name}.self_attn_layer_norm", width, value)
    # Scores stay small, as 16-bit floats want them.
    scale = head_dim**-0.5
    # Each has a product of its own: the toolkit fails on a Split here.
    query, key, content = (
        graph.add(
            "Transpose",
            graph.reshape(
                _linear(graph, weights, f"{name}.self_attn.{part}_proj", width, width, mixed, factor),
                *(1, -1, heads, head_dim),
            ),
            perm=order,
        )
        for part, factor, order in (
            ("q", scale, [0, 2, 1, 3]),
            ("k", 1.0, [0, 2, 3, 1]),
            ("v", 1.0, [0, 2, 1, 3]),
        )
    )
    scores = graph.add("Softmax", graph.add("Add", graph.add("MatMul", query, key), MASK), axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", scores, content), perm=[0, 2, 1, 3])
    mixed = graph.reshape(mixed, 1, -1, width)
    value = graph.add("Add", value, _linear(graph, weights, f"{name}.self_attn.out_proj", width, width, mixed))
    inner = _norm(graph, weights, f"{name}.final_layer_norm", width, value)
    units = size.units
    inner = gelu(graph, _linear(graph, weights, f"{name}.fc1", units, width, inner))
    return graph.add("Add", value, _linear(graph, weights, f"{name}.fc2", width, units, inner))


def _linear(
    graph: GraphBuilder,
    weights: Weights,
    name: str,
    out: int,
    into: int,
    value: str,
    factor: float = 1.0,
) -> str:
    weight, bias = weights.read(f"{name}.weight", out, into), weights.read(f"{name}.bias", out)
    return graph.linear(value, name, weight * np.float32(factor), bias * np.float32(factor))


def _norm(graph: GraphBuilder, weights: Weights, name: str, width: int, value: str) -> str:
    scale, shift = (
        graph.weight(f"{name}.{part}", weights.read(f"{name}.{part}", width)) for part in ("weight", "bias")
    )
    return graph.add("LayerNormalization", value, scale, shift, axis=-1, epsilon=_NORM_EPSILON)
