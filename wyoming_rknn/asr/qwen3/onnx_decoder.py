"""The language model as ONNX graphs: our own export, and sherpa-onnx's."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.asr.qwen3.decoder import MASKED, Ids, Rows
from wyoming_rknn.asr.qwen3.embeddings import Embeddings
from wyoming_rknn.asr.qwen3.kv_cache import KvCache
from wyoming_rknn.errors import EngineError
from wyoming_rknn.runtime.graph import Cancellation, Graph, Tensor


@dataclass(frozen=True, slots=True)
class KvShape:
    """Sizes of a language model."""

    layers: int
    heads: int
    """For keys and values."""
    head_size: int


class OnnxKvDecoder:
    """Our export: rows in, token-major keys and values, so that what numpy holds is fed without a copy.

    inputs_embeds float32 [1, S, hidden], position_ids int64 [1, S], mask float32 [1, 1, S, P + S], past_k and past_v
    float32 [P, layers, heads, size] -> logits float32 [1, vocabulary], new_k and new_v float32 [S, layers, heads,
    size].
    """

    def __init__(self, graph: Graph, embeddings: Embeddings, audio_id: int, shape: KvShape) -> None:
        self._graph = graph
        self._embeddings = embeddings
        self._audio_id = audio_id
        row = (shape.layers, shape.heads, shape.head_size)
        self._cache = KvCache([row, row])
        self.logits: NDArray[np.float32] = np.empty(0, np.float32)

    @property
    def length(self) -> int:
        """Return how many rows it has read."""
        return self._cache.length

    def prefill(self, ids: Ids, audio: Rows, cancellation: Cancellation | None = None) -> None:
        """Read on; see `KvDecoder`."""
        rows = self._embeddings.rows(ids, audio, self._audio_id)
        count, past = len(ids), self.length
        mask = np.zeros((1, 1, count, past + count), np.float32)
        if count > 1:
            mask[0, 0, :, past:] = np.triu(np.full((count, count), MASKED, np.float32), 1)
        past_k, past_v = self._cache.views()
        outputs = self._graph.run(
            {
                "inputs_embeds": rows[np.newaxis],
                "position_ids": np.arange(past, past + count)[np.newaxis],
                "mask": mask,
                "past_k": past_k,
                "past_v": past_v,
            },
            cancellation,
        )
        self._cache.append((outputs["new_k"], outputs["new_v"]))
        self.logits = outputs["logits"].reshape(-1)

    def step(self, token: int, cancellation: Cancellation | None = None) -> None:
        """Read one token; see `KvDecoder`."""
        self.prefill(np.array([token]), np.empty((0, self._embeddings.hidden), np.float32), cancellation)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` rows."""
        self._cache.truncate(length)


class SherpaKvDecoder:
    """sherpa-onnx's export: ids in, and for each layer its keys and values so far.

    input_ids int64 [1, S], audio_features float32 [1, A, hidden] (for the audio tokens among the ids, in order; one row
    at least), attention_mask int64 [1, S] (not looked at), cache_position int64 [S], cache_key_i and cache_value_i
    float32 [1, P or more, heads, size] (one row at least) -> logits float32 [1, S, vocabulary], key_delta_i and
    value_delta_i float32 [1, S, heads, size].
    """

    def __init__(self, graph: Graph, hidden: int, shape: KvShape) -> None:
        self._graph = graph
        self._hidden = hidden
        self._layers = range(shape.layers)
        self._cache = KvCache([(shape.heads, shape.head_size)] * (2 * shape.layers))
        self._takes = {spec.name for spec in graph.inputs}
        self.logits: NDArray[np.float32] = np.empty(0, np.float32)

    @property
    def length(self) -> int:
        """Return how many rows it has read."""
        return self._cache.length

    def prefill(self, ids: Ids, audio: Rows, cancellation: Cancellation | None = None) -> None:
        """Read on; see `KvDecoder`."""
        rows = audio if len(audio) else np.zeros((1, self._hidden), np.float32)
        feeds: dict[str, Tensor] = {
            "input_ids": ids[np.newaxis],
            "audio_features": rows[np.newaxis],
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "cache_position": np.arange(self.length, self.length + len(ids)),
        }
        views = self._cache.views(minimum=1)
        for layer in self._layers:
            feeds[f"cache_key_{layer}"] = views[2 * layer][np.newaxis]
            feeds[f"cache_value_{layer}"] = views[2 * layer + 1][np.newaxis]
        # An exporter leaves out what nothing depends on.
        outputs = self._graph.run({name: tensor for name, tensor in feeds.items() if name in self._takes}, cancellation)
        self._cache.append(self._deltas(outputs))
        self.logits = outputs["logits"][0, -1]

    def step(self, token: int, cancellation: Cancellation | None = None) -> None:
        """Read one token; see `KvDecoder`."""
        self.prefill(np.array([token]), np.empty((0, self._hidden), np.float32), cancellation)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` rows."""
        self._cache.truncate(length)

    def _deltas(self, outputs: Mapping[str, Tensor]) -> list[NDArray[np.float32]]:
        try:
            return [outputs[f"{kind}_delta_{layer}"][0] for layer in self._layers for kind in ("key", "value")]
        except KeyError as error:
            raise EngineError(f"the language model gives no {error}; take sherpa-onnx's own decoder") from None
