"""The language model of Qwen3-ASR as a graph for ONNX Runtime on the CPU, with the cache of keys and values outside.

The operators are those of ONNX Runtime that do most at once: a step has one row, and what nodes cost besides their
arithmetic would show. Equals transformers' `Qwen3ForCausalLM`.
"""

from typing import Any

import numpy as np

from wyoming_rknn.convert.qwen3_checkpoint import EMBEDDING, HEAD, DecoderSize, Weight, Weights
from wyoming_rknn.convert.qwen3_graph import INT4, INT8, MICROSOFT, GraphBuilder, floats, integers

ROWS, POSITIONS, MASK = "inputs_embeds", "position_ids", "mask"
PAST_KEYS, PAST_VALUES = "past_k", "past_v"
LOGITS, NEW_KEYS, NEW_VALUES = "logits", "new_k", "new_v"
"""Inputs and outputs."""
_MODEL = "model.language_model"
_TINY = np.float32(1e-20)
"""Makes a row of zeros divisible."""


def write_decoder(graph: GraphBuilder, size: DecoderSize, weights: Weights) -> None:
    """Write the graph.

    `inputs_embeds` [1, S, hidden], `position_ids` int64 [1, S], `mask` [1, 1, S, P + S], added to the scores, `past_k`
    and `past_v` [P, layers, kv_heads, head_dim] become `logits` [1, vocabulary] of the last row, `new_k` and `new_v`
    [S, layers, kv_heads, head_dim]. P may be 0.
    """
    _Decoder(graph, size, weights).write()


class _Decoder:
    def __init__(self, graph: GraphBuilder, size: DecoderSize, weights: Weights) -> None:
        self._graph, self._size, self._weights = graph, size, weights
        self._group = size.heads // size.kv_heads
        self._keys: list[str] = []
        self._values: list[str] = []

    def write(self) -> None:
        graph, size = self._graph, self._size
        self._prepare()
        residual, change = ROWS, ""
        for number in range(size.layers):
            residual, change = self._layer(number, residual, change)
        last = graph.integers(-1)
        rows = [graph.add("Gather", value, last, axis=1) for value in (residual, change)]
        row, _ = self._norm(f"{_MODEL}.norm", *rows)
        name = EMBEDDING if size.is_tied else HEAD
        head = self._weights.read(name, size.vocabulary, size.hidden)
        # Words that are alike differ little here, and one row in 8 bits costs next to nothing.
        precision = INT8 if graph.precision == INT4 else graph.precision
        logits = graph.linear(row, "lm_head", head, precision=precision)
        graph.add("Reshape", logits, graph.integers(1, size.vocabulary), outputs=[LOGITS])
        for parts, output in ((self._keys, NEW_KEYS), (self._values, NEW_VALUES)):
            graph.add("Concat", *parts, outputs=[output], axis=1)
        cache = (size.layers, size.kv_heads, size.head_dim)
        graph.save(
            [
                floats(ROWS, 1, "rows", size.hidden),
                integers(POSITIONS, 1, "rows"),
                floats(MASK, 1, 1, "rows", "all"),
                floats(PAST_KEYS, "past", *cache),
                floats(PAST_VALUES, "past", *cache),
            ],
            [floats(LOGITS, 1, size.vocabulary), floats(NEW_KEYS, "rows", *cache), floats(NEW_VALUES, "rows", *cache)],
            {},
        )

    def _prepare(self) -> None:
        """Compute what all layers share: the rotation of each row, and the mask for all heads of a group."""
        graph, size = self._graph, self._size
        exponents = np.arange(0, size.head_dim, 2, dtype=np.float32) / np.float32(size.head_dim)
        frequencies = (1.0 / np.float32(size.rope_theta) ** exponents).astype(np.float32)
        place = graph.reshape(graph.add("Cast", POSITIONS, to=1), -1, 1)
        angles = graph.add("Mul", place, graph.constant(frequencies[None]))
        # Rows of a table that has these rows alone, which are taken in order.
        self._cosines, self._sines = graph.add("Cos", angles), graph.add("Sin", angles)
        self._first = graph.integers(0)
        mask = graph.add("Squeeze", MASK, graph.integers(0))
        self._mask = graph.add("Concat", *[mask] * self._group, axis=1) if self._group > 1 else mask
        heads = size.layers * size.kv_heads
        self._past = [graph.reshape(past, -1, heads, size.head_dim) for past in (PAST_KEYS, PAST_VALUES)]

    def _layer(self, number: int, residual: str, change: str) -> tuple[str, str]:
        """Append a layer to what the one before leaves: a sum whose second term is not added yet."""
        graph, size, name = self._graph, self._size, f"{_MODEL}.layers.{number}"
        normed, residual = self._norm(f"{name}.input_layernorm", residual, change)
        change = self._attention(number, normed)
        normed, residual = self._norm(f"{name}.post_attention_layernorm", residual, change)
        both = np.concatenate(
            [self._read(f"{name}.mlp.{part}_proj", size.units, size.hidden) for part in ("gate", "up")]
        )
        gate, up = graph.split(graph.linear(normed, f"{name}.mlp.gate_up", both), (size.units, size.units))
        inner = graph.add("Mul", graph.add("QuickGelu", gate, domain=MICROSOFT, alpha=1.0), up)
        down = self._read(f"{name}.mlp.down_proj", size.hidden, size.units)
        if graph.precision != INT8:
            return residual, graph.linear(inner, f"{name}.mlp.down", down)
        # All rows share a scale in 8 bits, and the first token's are larger than others by orders of magnitude here
        # (https://arxiv.org/abs/2402.17762); before other products a norm makes them alike.
        largest = graph.add("ReduceMax", graph.add("Abs", inner), axes=[-1], keepdims=1)
        largest = graph.add("Add", largest, graph.constant(_TINY))
        evened = graph.linear(graph.add("Div", inner, largest), f"{name}.mlp.down", down)
        return residual, graph.add("Mul", evened, largest)

    def _attention(self, number: int, normed: str) -> str:
        graph, size, name = self._graph, self._size, f"{_MODEL}.layers.{number}.self_attn"
        head_dim, kv_heads = size.head_dim, size.kv_heads
        widths = (size.heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
        weight = np.concatenate(
            [
                self._read(f"{name}.{part}_proj", width, size.hidden)
                for part, width in zip(("q", "k", "v"), widths, strict=True)
            ]
        )
        query, key, value = graph.split(graph.linear(normed, f"{name}.qkv", weight), widths)
        query = self._rotated(f"{name}.q_norm", size.heads, query)
        key = self._rotated(f"{name}.k_norm", kv_heads, key)
        for part, parts in ((key, self._keys), (value, self._values)):
            parts.append(graph.reshape(part, -1, 1, kv_heads, head_dim))
        key, value = (graph.reshape(part, -1, kv_heads, head_dim) for part in (key, value))
        # The heads of a group are rows of one matrix, so that their key is there once.
        query = graph.add("Transpose", graph.reshape(query, -1, kv_heads, self._group, head_dim), perm=[1, 2, 0, 3])
        query = graph.reshape(query, kv_heads, -1, head_dim)
        # By head: whole layers ONNX Runtime would cut out all at once, and read them again when they are wanted.
        heads = graph.integers(*range(number * kv_heads, (number + 1) * kv_heads))
        keys, values = (
            graph.add("Concat", graph.add("Gather", past, heads, axis=1), new, axis=0)
            for past, new in zip(self._past, (key, value), strict=True)
        )
        # Rows come first in the cache, heads in a product: it is told so instead of transposing.
        options: dict[str, Any] = {"domain": MICROSOFT, "transBatchB": 1}
        scores = graph.add("FusedMatMul", query, keys, transB=1, alpha=head_dim**-0.5, **options)
        shares = graph.add("Softmax", graph.add("Add", scores, self._mask), axis=-1)
        mixed = graph.reshape(graph.add("FusedMatMul", shares, values, **options), kv_heads, self._group, -1, head_dim)
        mixed = graph.reshape(graph.add("Transpose", mixed, perm=[2, 0, 1, 3]), 1, -1, widths[0])
        return graph.linear(mixed, f"{name}.o", self._read(f"{name}.o_proj", size.hidden, widths[0]))

    def _rotated(self, norm: str, heads: int, value: str) -> str:
        """Append the norm of each head and its rotation; [1, rows, heads * head_dim]."""
        graph, head_dim = self._graph, self._size.head_dim
        value = self._plain_norm(norm, head_dim, graph.reshape(value, -1, heads, head_dim))
        return graph.add(
            "RotaryEmbedding",
            *(graph.reshape(value, 1, -1, heads * head_dim), self._first, self._cosines, self._sines),
            domain=MICROSOFT,
        )

    def _norm(self, name: str, residual: str, change: str) -> tuple[str, str]:
        """Append the norm of a sum; returns it and the sum."""
        graph, hidden = self._graph, self._size.hidden
        if not change:
            return self._plain_norm(name, hidden, residual), residual
        weight = graph.weight(name, self._weights.read(f"{name}.weight", hidden))
        outputs = (f"{name}.out", "", "", f"{name}.sum")
        graph.add(
            "SkipSimplifiedLayerNormalization",
            *(residual, change, weight),
            outputs=outputs,
            domain=MICROSOFT,
            epsilon=self._size.norm_epsilon,
        )
        return outputs[0], outputs[3]

    def _plain_norm(self, name: str, width: int, value: str) -> str:
        weight = self._graph.weight(name, self._weights.read(f"{name}.weight", width))
        epsilon = self._size.norm_epsilon
        return self._graph.add("SimplifiedLayerNormalization", value, weight, axis=-1, epsilon=epsilon, stash_type=1)

    def _read(self, name: str, out: int, into: int) -> Weight:
        return self._weights.read(f"{name}.weight", out, into)
