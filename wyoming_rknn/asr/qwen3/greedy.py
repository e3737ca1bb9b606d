"""Greedy generation on a language model whose keys and values we hold: nothing is read twice."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from wyoming_rknn.asr.qwen3.decoder import Ids, KvDecoder, Rows
from wyoming_rknn.errors import EngineError
from wyoming_rknn.runtime.scheduler import CPU, Stream

CHUNK = 64
"""Rows read in one computation, for which speech may have to wait. At the size of 0.6B with 8 bits a row takes as long
in 128, and 1.3 times as long in 32 (x86-64, 2 threads)."""


class GreedyGenerator:
    """Generate with a `KvDecoder`. Each step is a computation of its own, so that others get their turn between two."""

    def __init__(self, decoder: KvDecoder, audio_id: int, end_ids: frozenset[int]) -> None:
        self._decoder = decoder
        self._audio_id = audio_id
        self._end_ids = end_ids
        self._ids: Ids = np.empty(0, np.int64)
        """Of all rows that the decoder has read."""
        self._audio: Rows | None = None
        """For the audio tokens among them."""

    def generate(self, ids: Sequence[int], audio: Rows, max_tokens: int, stream: Stream) -> Iterator[int]:
        """Yield tokens. Raises `EngineError`, `Cancelled`."""
        wanted: Ids = np.array(ids, np.int64)
        is_audio = wanted == self._audio_id
        if int(is_audio.sum()) != len(audio):
            raise EngineError(f"a prompt has {int(is_audio.sum())} places for {len(audio)} rows of audio")
        # The last row is read anew if need be: only reading gives logits.
        known = min(self._known(wanted, is_audio, audio), wanted.size - 1)
        self._decoder.truncate(known)
        self._ids, self._audio = wanted[:known], audio[: int(is_audio[:known].sum())]
        for begin, end in _chunks(known, wanted.size, int(is_audio.argmax())):
            rows = audio[int(is_audio[:begin].sum()) : int(is_audio[:end].sum())]
            _compute(partial(self._decoder.prefill, wanted[begin:end], rows, stream), stream)
            self._ids, self._audio = wanted[:end], audio[: int(is_audio[:end].sum())]
        for number in range(1, max_tokens + 1):
            token = self._best()
            if token in self._end_ids:
                return
            yield token
            if number < max_tokens:
                _compute(partial(self._decoder.step, token, stream), stream)
                self._ids = np.append(self._ids, token)

    def close(self) -> None:
        """Forget what was read."""
        self._decoder.truncate(0)
        self._ids, self._audio = self._ids[:0], None

    def _known(self, wanted: Ids, is_audio: "np.ndarray[tuple[int], np.dtype[np.bool_]]", audio: Rows) -> int:
        """Return how many rows at the beginning are as they were read."""
        count = min(wanted.size, self._ids.size, self._decoder.length)
        differs = wanted[:count] != self._ids[:count]
        if self._audio is not None:
            heard = is_audio[:count]
            rows = min(int(heard.sum()), len(self._audio))
            places = np.flatnonzero(heard)[:rows]
            differs[places] |= (audio[:rows] != self._audio[:rows]).any(axis=1)
        return int(differs.argmax()) if differs.any() else count

    def _best(self) -> int:
        logits = self._decoder.logits
        best = int(logits.argmax())
        # NaN wins every comparison within argmax; minus infinity, as for a token that is ruled out, is no fault.
        if not np.isfinite(logits[best]):
            raise EngineError("the language model computed no numbers but NaN or infinity; take another build of it")
        return best


def _chunks(begin: int, end: int, first_audio: int) -> Iterator[tuple[int, int]]:
    """Yield what is read at once, from `begin` to `end`.

    What stands before the audio is read by itself: where weights have 8 bits all rows of a product share a scale, and
    the first token's numbers are larger than others by far (https://arxiv.org/abs/2402.17762).
    """
    while begin < end:
        stop = min(begin + CHUNK, end)
        if begin < first_audio < stop:
            stop = first_audio
        yield begin, stop
        begin = stop


def _compute(work: Callable[[], None], stream: Stream) -> None:
    stream.submit(work, at_s=stream.elapsed_s, device=CPU).result()
