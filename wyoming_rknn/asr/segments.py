"""Where to cut audio that is too long for one decoding: in the longest pause, else where it is quietest."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.01
"""From one energy to the next."""

Levels: TypeAlias = NDArray[np.float32]
"""How loud each frame is, in dB; float32 [frames]."""

_MIN_PAUSE = 10
"""Frames; what is shorter may be the closure of a plosive inside a word."""
_QUIET = 0.25
"""Where between the quietest and the loudest frames a pause ends."""
_BLUR = 10
"""Frames over which the level is averaged where there is no pause."""


def best_cut(levels: Levels, earliest: int) -> int:
    """Return the frame, at least `earliest`, before which to cut audio with these levels.

    That is the middle of the longest pause, the later one of two; without a pause, the quietest place. What counts as
    a pause follows from the loudness of the whole, so noise in the background does not hide it.
    """
    quiet, loud = np.percentile(levels, (5, 95))
    candidates = levels[earliest:]
    begin, end = _longest_run(candidates <= quiet + _QUIET * (loud - quiet))
    if end - begin >= min(_MIN_PAUSE, candidates.size):
        return earliest + (begin + end) // 2
    # Beyond the ends lies what is as loud as at them.
    padded = np.pad(candidates, (_BLUR // 2, _BLUR - _BLUR // 2 - 1), mode="edge")
    blurred = np.convolve(padded, np.full(_BLUR, 1 / _BLUR), mode="valid")
    return earliest + int(blurred.argmin())


def _longest_run(flags: NDArray[np.bool_]) -> tuple[int, int]:
    """Return begin and end of the longest run of true, the last one of several; (0, 0) if there is none."""
    edges = np.diff(np.concatenate(([False], flags, [False])).astype(np.int8))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not begins.size:
        return 0, 0
    longest = begins.size - 1 - int((ends - begins)[::-1].argmax())
    return int(begins[longest]), int(ends[longest])
