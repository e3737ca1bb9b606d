"""What a conversion is asked for, and what it gave."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wyoming_rknn.convert.agreement import Agreement
from wyoming_rknn.convert.toolkit import Built
from wyoming_rknn.npu.selftest import FLOOR_DB


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What can be chosen."""

    frames: int | None = None
    """Width of a voice's decoder window (default: 55, on rk3566 and rk3568 32)."""
    seconds: tuple[int, ...] | None = None
    """Buckets of a recogniser that is made static (default: 3, 5, 10 and 20)."""
    precisions: tuple[str, ...] | None = None
    """Of Qwen3-ASR's language model: fp32, int8, int4 (default: int8)."""
    timeout_s: float | None = None
    """For one graph (default: 600 of a voice, 3600 of a recogniser)."""
    allow_regtask: bool = False
    """Keep a build whose log says that values did not fit into the NPU's registers."""
    floor_db: float = FLOOR_DB
    """Least signal-to-noise ratio of the simulator's result to ONNX Runtime's."""


@dataclass(frozen=True, slots=True)
class GraphReport:
    """One graph that was converted."""

    file: str
    golden: str
    frames: int
    snr_db: float
    max_abs_error: float
    seconds: float
    """Build and simulation."""
    cpu_layers: tuple[str, ...]
    regtask_lines: int
    rknn_bytes: int
    log: Path
    context_frames: int | None = None
    """Of a graph that runs in windows: frames on either side that are computed for the sake of the others."""
    errors: tuple[str, ...] = ()
    """What the compiler complained of, other than registers."""

    @classmethod
    def of(
        cls, built: Built, agreement: Agreement, golden: Path, frames: int, context_frames: int | None = None
    ) -> Self:
        """Return what is to be told of a graph that was built and compared."""
        return cls(
            file=built.rknn.name,
            golden=golden.name,
            frames=frames,
            snr_db=agreement.snr_db,
            max_abs_error=agreement.max_abs_error,
            seconds=built.seconds,
            cpu_layers=built.cpu_layers,
            regtask_lines=built.regtask_lines,
            rknn_bytes=built.rknn.stat().st_size,
            log=built.log,
            context_frames=context_frames,
            errors=built.errors,
        )

    @property
    def used_frames(self) -> int:
        """Return how many frames of a window are its result."""
        return self.frames - 2 * (self.context_frames or 0)


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """A model that was converted."""

    out: Path
    target: str
    toolkit: str
    """Version of rknn-toolkit2."""
    graphs: tuple[GraphReport, ...]

    @property
    def snr_db(self) -> float:
        """Return the worst graph's signal-to-noise ratio."""
        return min(graph.snr_db for graph in self.graphs)

    @property
    def max_abs_error(self) -> float:
        """Return the largest difference to ONNX Runtime."""
        return max(graph.max_abs_error for graph in self.graphs)

    @property
    def seconds(self) -> float:
        """Return the time that the toolkit took."""
        return sum(graph.seconds for graph in self.graphs)

    @property
    def cpu_layers(self) -> tuple[str, ...]:
        """Return the layers of all graphs that were left to the CPU."""
        return tuple(layer for graph in self.graphs for layer in graph.cpu_layers)

    @property
    def regtask_lines(self) -> int:
        """Return how many values did not fit into registers."""
        return sum(graph.regtask_lines for graph in self.graphs)

    @property
    def rknn_bytes(self) -> int:
        """Return the size of all `.rknn` files."""
        return sum(graph.rknn_bytes for graph in self.graphs)
