"""The seam between speech engines and accelerators."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensor: TypeAlias = NDArray[Any]
"""A numpy array of any dtype that a graph takes or gives."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of a graph's input or output; `None` marks a free axis."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


class Cancellation(Protocol):
    """Word that nobody waits for a result any more."""

    @property
    def cancelled(self) -> bool:
        """Tell whether the word has come."""

    def on_cancel(self, callback: Callable[[], None]) -> AbstractContextManager[None]:
        """Call back, from any thread, when the word comes within the context, or at once if it has come before."""


class Graph(Protocol):
    """A loaded network. Thread-safe to `run`; the same on every accelerator."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return what `run` must be fed."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Return what `run` gives back."""

    def run(self, feeds: Mapping[str, Tensor], cancellation: Cancellation | None = None) -> dict[str, Tensor]:
        """Compute all outputs from `feeds`; raises `EngineError` when the accelerator fails.

        An accelerator that can be interrupted raises `Cancelled` soon after the cancellation, the others finish.
        """

    def close(self) -> None:
        """Free the accelerator's memory; `run` must not be called afterwards."""
