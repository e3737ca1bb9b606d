"""Audio as the language model reads it: a second at a time through convolutions, then attention within 8 seconds.

Seconds do not know of each other before attention, and windows of 8 s never do, so what is finished is computed once
however much audio follows.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wyoming_rknn.asr.qwen3.decoder import Rows
from wyoming_rknn.errors import EngineError
from wyoming_rknn.features.log_mel import LogMel
from wyoming_rknn.runtime.scheduler import Stream

MelFrames: TypeAlias = NDArray[np.float32]
"""Normalised log-mel spectrum, float32 [frames, 128]."""

SECOND = 100
"""Frames."""
SECOND_ROWS = 13
WINDOW = 8 * SECOND
"""Frames within which attention reaches: `n_window_infer` of the published models."""


def rows_of(frames: int) -> int:
    """Return how many rows so many frames give: 13 for a second, halved thrice and rounded up for the rest."""
    rest = frames % SECOND
    for _ in range(3):
        rest = (rest + 1) // 2
    return frames // SECOND * SECOND_ROWS + rest


Convolved: TypeAlias = NDArray[np.float32]
"""What becomes of a second before attention, float32 [13, d]."""


class Seconds:
    """The seconds of a window that have gone through the convolutions. Empty at first; one call at a time."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[MelFrames, Convolved]] = {}

    def convolved(self, mel: MelFrames, convolve: Callable[[Sequence[MelFrames]], Sequence[Convolved]]) -> Convolved:
        """Return a window's features, float32 [rows_of(frames), d]; `convolve` is asked for what is new or has changed.

        It takes seconds, float32 [frames, 128], of which the last may be shorter. A louder sound raises the floor under
        what came before it, so a second that has ended may change.
        """
        seconds = [mel[begin : begin + SECOND] for begin in range(0, len(mel), SECOND)]
        changed = [
            number
            for number, second in enumerate(seconds)
            if number not in self._known or not np.array_equal(self._known[number][0], second)
        ]
        fresh = convolve([seconds[number] for number in changed]) if changed else ()
        for number, features in zip(changed, fresh, strict=True):
            self._known[number] = (seconds[number], features)
        return np.concatenate([self._known[number][1] for number in range(len(seconds))])[: rows_of(len(mel))]


class AudioEncoder(Protocol):
    """A loaded encoder. Thread-safe."""

    @property
    def hidden(self) -> int:
        """Return the size of a row."""

    def encode(self, mel: MelFrames, known: Seconds, stream: Stream | None = None) -> Rows:
        """Return the rows of a window, float32 [rows_of(frames), hidden], for 1 to `WINDOW` frames.

        `known` is the caller's, one for each window: what is computed by the second is kept there. Computed through
        `stream`, or right here without one. Raises `EngineError`, `Cancelled`.
        """


class EncodedAudio:
    """The rows of one stretch of audio that grows. One call at a time."""

    def __init__(self, encoder: AudioEncoder) -> None:
        self._encoder = encoder
        self._finished: list[Rows] = []
        self._known = Seconds()
        """Of the window that is not finished."""

    def rows(self, mel: LogMel, stream: Stream | None = None) -> Rows:
        """Return the rows of all audio so far, float32 [n, hidden]. Blocks. Raises `EngineError`, `Cancelled`.

        What was finished stays as it was, though a louder sound later would have moved the floor below which its
        spectrum is cut off.
        """
        # The last frame mirrors what is to come.
        frames, settled = mel.frames, mel.settled
        while settled >= (end := (len(self._finished) + 1) * WINDOW):
            self._finished.append(self._encode(mel.mel(end - WINDOW, end), stream))
            self._known = Seconds()
        begin = len(self._finished) * WINDOW
        parts: Sequence[Rows] = self._finished
        if begin < frames:
            parts = [*parts, self._encode(mel.mel(begin, frames), stream)]
        return np.concatenate(parts) if parts else np.empty((0, self._encoder.hidden), np.float32)

    def _encode(self, mel: MelFrames, stream: Stream | None) -> Rows:
        rows = self._encoder.encode(mel, self._known, stream)
        if not np.isfinite(rows).all():
            # A language model makes words even of these.
            self._known = Seconds()
            raise EngineError("the audio encoder computed no numbers but NaN or infinity; take another build of it")
        return rows

    def keep(self, frames: int) -> "EncodedAudio":
        """Return what is finished of the first `frames` frames, to go on from there."""
        kept = EncodedAudio(self._encoder)
        kept._finished = self._finished[: frames // WINDOW]
        return kept
