"""The seams of Qwen3-ASR's language model: one that is computed row by row here, one that only gives tokens."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.runtime.graph import Cancellation
from wyoming_rknn.runtime.scheduler import Stream

Ids: TypeAlias = NDArray[np.int64]
"""Token ids, int64 [n]."""
Rows: TypeAlias = NDArray[np.float32]
"""What stands for tokens within the model, float32 [n, hidden]."""

MASKED = np.float32(-1e4)
"""Added to the score of what must not be looked at; more than that overflows where numbers have 16 bits."""


class KvDecoder(Protocol):
    """A language model with the keys and values of what it has read. For one utterance; one call at a time."""

    @property
    def length(self) -> int:
        """Return how many rows it has read."""

    @property
    def logits(self) -> NDArray[np.float32]:
        """Return what follows the last row read, float32 [vocabulary]; nothing to rely on after `truncate`."""

    def prefill(self, ids: Ids, audio: Rows, cancellation: Cancellation | None = None) -> None:
        """Read on. A row of `audio` stands for each audio token, in order, float32 [audio tokens in `ids`, hidden].

        Raises `EngineError`, and `Cancelled`, after which nothing was read.
        """

    def step(self, token: int, cancellation: Cancellation | None = None) -> None:
        """Read one token that stands for no audio. Raises `EngineError`, `Cancelled`."""

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` rows."""


class Generator(Protocol):
    """Gives the tokens that follow a prompt. For one utterance; one call at a time."""

    def generate(self, ids: Sequence[int], audio: Rows, max_tokens: int, stream: Stream) -> Iterator[int]:
        """Yield the most likely tokens after `ids`, without the one that ends them, as soon as each is known.

        `audio` float32 [n, hidden] has a row for each audio token among `ids`. Computed through `stream`; what the
        generator has read before is not read again. Blocks. Raises `EngineError`, `Cancelled`.
        """

    def close(self) -> None:
        """Free what the utterance holds."""
