"""Load a graph on the NPU: for the right SoC, proven by its self-test, and watched while it works."""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from wyoming_rknn.errors import AcceleratorError, ModelInvalid, RuntimeUnavailable
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.npu.selftest import Golden, Verdict, Verdicts, examine
from wyoming_rknn.runtime.accelerator import RUN_TIMEOUT_S, Accelerator, NpuGraph
from wyoming_rknn.runtime.graph import Cancellation, Tensor, TensorSpec
from wyoming_rknn.runtime.runtimes import Runtimes

_LOGGER = logging.getLogger(__name__)

FAILURES = 3
"""Runs in a row that may fail before a graph is left to the CPU for good."""


def load_proven(
    path: Path,
    runtimes: Runtimes,
    cache_dir: Path,
    golden: Callable[[NpuGraph], Golden | None],
    *,
    timeout_s: float = RUN_TIMEOUT_S,
    check_finite: bool = True,
) -> "WatchedGraph":
    """Load a `.rknn` file and let it reproduce its golden output, unless it has done so before on this machine.

    Blocks. `golden` is asked only when needed; without one the graph is trusted. Raises `RuntimeUnavailable` where no
    NPU can be used, `ModelError` for a file that is broken or made for another SoC, `AcceleratorError` if the NPU
    cannot load it or computes something else.
    """
    accelerator = runtimes.accelerator
    if accelerator is None:
        raise RuntimeUnavailable("no NPU is used here; `wyoming-rknn doctor` says why")
    file = RknnFile.read(path)
    file.check_soc(runtimes.board.soc)
    graph = accelerator.load(path, timeout_s=timeout_s, check_finite=check_finite)
    try:
        if remark := file.toolkit_remark(accelerator.versions.library):
            _LOGGER.warning("%s", remark)
        verdict = _verdict(path, graph, runtimes, accelerator, cache_dir, golden)
        if verdict is not None and not verdict.passed:
            raise AcceleratorError(
                f"{path} fails its self-test on the NPU: {verdict.reason}; convert the model anew for this board "
                "with `wyoming-rknn models convert`, or update librknnrt and the NPU driver; "
                "`wyoming-rknn models verify` repeats the test"
            )
    except (AcceleratorError, ModelInvalid):
        graph.close()
        raise
    return WatchedGraph(graph, path)


def _verdict(
    path: Path,
    graph: NpuGraph,
    runtimes: Runtimes,
    accelerator: Accelerator,
    cache_dir: Path,
    golden: Callable[[NpuGraph], Golden | None],
) -> Verdict | None:
    known = Verdicts(cache_dir)
    versions, soc = accelerator.versions, runtimes.board.soc
    if (verdict := known.recall(path, versions, soc)) is not None:
        return verdict
    if (expected := golden(graph)) is None:
        _LOGGER.info("%s has no golden output beside it: not tested on this NPU", path)
        return None
    verdict = examine(graph, expected, accelerator.cores)
    known.remember(path, versions, soc, verdict)
    if verdict.passed:
        name = f"{path.parent.name}/{path.name}"
        _LOGGER.info("%s passed its self-test: %.1f dB, %.1f ms", name, verdict.snr_db, verdict.run_ms)
    return verdict


class WatchedGraph:
    """A graph on an NPU that is left alone after several failures in a row. Thread-safe."""

    def __init__(self, graph: NpuGraph, path: Path) -> None:
        self._graph = graph
        self._path = path
        self._guard = threading.Lock()
        self._in_a_row = 0
        self._warned = False
        self.inputs: tuple[TensorSpec, ...] = graph.inputs
        self.outputs: tuple[TensorSpec, ...] = graph.outputs
        self.metadata: Mapping[str, str] = graph.metadata

    @property
    def usable(self) -> bool:
        """Tell whether it is worth while to run it."""
        return self._in_a_row < FAILURES and self._graph.usable

    def run(self, feeds: Mapping[str, Tensor], cancellation: Cancellation | None = None) -> dict[str, Tensor]:
        """Compute all outputs. Raises `AcceleratorError`; the first one is logged as a warning, the others are not."""
        if not self.usable:
            raise AcceleratorError(f"{self._path.name} is not run on the NPU any more: it failed before")
        try:
            outputs = self._graph.run(feeds, cancellation)
        except AcceleratorError as error:
            self._failed(error)
            raise
        with self._guard:
            self._in_a_row = 0
        return outputs

    def close(self) -> None:
        """Free the NPU's memory."""
        self._graph.close()

    def _failed(self, error: AcceleratorError) -> None:
        with self._guard:
            self._in_a_row += 1
            first, self._warned = not self._warned, True
        level = logging.WARNING if first else logging.DEBUG
        _LOGGER.log(
            level,
            "%s; the CPU computes instead. Restart the service, or the board if that does not help; "
            "`wyoming-rknn doctor` tests the NPU",
            error,
        )
