"""The seam between the program and NPUs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wyoming_rknn.errors import AcceleratorError
from wyoming_rknn.runtime.graph import Graph

RUN_TIMEOUT_S = 2.0
"""How long a run may take before it is given up: some fifty times as long as the slowest known decoder window."""
LOAD_TIMEOUT_S = 60.0
"""How long loading a graph may take before it is given up: 485 MB come from a slow SD card in half that time."""


class AcceleratorBusy(AcceleratorError):
    """No core was free in time for a run: the NPU has too much to do, and nothing is wrong with it or the graph."""


@dataclass(frozen=True, slots=True)
class Versions:
    """What drives an NPU, as it calls itself."""

    library: str
    driver: str


class NpuGraph(Graph, Protocol):
    """A graph on an NPU, with fixed shapes.

    `run` takes a free core and blocks until the graph is computed or the time is up. It takes float32 where the graph
    takes 16-bit floats, and gives float32. Raises `AcceleratorBusy` when no core is free in time, and another
    `AcceleratorError` when the NPU fails, hangs, or gives what cannot be right: zeros only, NaN or infinity.
    """

    @property
    def metadata(self) -> Mapping[str, str]:
        """Return what the converter noted; empty where it cannot be read."""

    @property
    def usable(self) -> bool:
        """Tell whether it can still run: it cannot once it hung on every core."""


class Accelerator(Protocol):
    """An NPU and the library through which it is used. Thread-safe."""

    @property
    def name(self) -> str:
        """Return the runtime's name in the settings: "rknn", "rknn-lite"."""

    @property
    def cores(self) -> int:
        """Return how many graphs are computed at once."""

    @property
    def versions(self) -> Versions:
        """Return the versions of library and driver."""

    @property
    def shares_weights(self) -> bool:
        """Tell whether a graph takes its memory once; else it does so for each core that it is loaded for."""

    @property
    def load_failure(self) -> str:
        """Return why the NPU did not load the last graph that it should; "" if it did, or there was none."""

    def load(
        self,
        path: Path,
        *,
        timeout_s: float = RUN_TIMEOUT_S,
        check_finite: bool = True,
        cores: int | None = None,
    ) -> NpuGraph:
        """Load a file made for this NPU, to be computed on up to `cores` cores at once: on all of them if `None`.

        Blocks, but not for ever. `check_finite` off, NaN and infinity are the caller's business. Raises
        `ModelFileMissing`, `ModelInvalid` if the library refuses the file, `AcceleratorError` if the NPU cannot be
        used or does not answer in time.
        """

    def close(self) -> None:
        """Free what graphs that were closed have in common; no graph must be used afterwards."""
