"""Keys and values of what a language model has read, held by numpy so that they can be kept, cut and shared."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FIRST_ROWS = 256
"""Enough for a command: 8 s of audio take 104 rows. Pages of memory are taken only as they are written."""


class KvCache:
    """Arrays of float32 [rows, ...] that grow together. Rows lie one after the other, so a beginning is no copy."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Make an array for each shape of a row."""
        self._arrays = [np.empty((_FIRST_ROWS, *shape), np.float32) for shape in shapes]
        for array in self._arrays:
            # What is handed out beyond the rows in use is ruled out by being multiplied, which NaN would outlive.
            array[0] = 0
        self.length = 0
        """Rows in use."""

    def views(self, minimum: int = 0) -> list[NDArray[np.float32]]:
        """Return the rows in use, contiguous; where there are fewer than `minimum`, others too, which mean nothing."""
        return [array[: max(self.length, minimum)] for array in self._arrays]

    def append(self, rows: Sequence[NDArray[np.float32]]) -> None:
        """Add the same number of rows to each array."""
        end = self.length + len(rows[0])
        capacity = len(self._arrays[0])
        if end > capacity:
            grown = max(end, 2 * capacity)
            for number, array in enumerate(self._arrays):
                larger = np.empty((grown, *array.shape[1:]), np.float32)
                larger[: self.length] = array[: self.length]
                self._arrays[number] = larger
        for array, new in zip(self._arrays, rows, strict=True):
            array[self.length : end] = new
        self.length = end

    def truncate(self, length: int) -> None:
        """Forget what follows the first `length` rows."""
        self.length = min(self.length, length)
