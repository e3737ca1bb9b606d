"""Load a graph on the NPU: for the right SoC, proven by its self-test, and watched while it works."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from wyoming_rknn.errors import AcceleratorError, ModelInvalid, RuntimeUnavailable
from wyoming_rknn.models.formats.rknn_file import RknnFile
from wyoming_rknn.models.formats.sensevoice_layout import FEATURE_SIZE
from wyoming_rknn.npu.selftest import Golden, Verdict, Verdicts, examine
from wyoming_rknn.runtime.accelerator import RUN_TIMEOUT_S, Accelerator, AcceleratorBusy, NpuGraph
from wyoming_rknn.runtime.graph import Cancellation, Tensor, TensorSpec
from wyoming_rknn.runtime.runtimes import Runtimes

_LOGGER = logging.getLogger(__name__)

FAILURES = 3
"""Runs in a row that may fail before a graph is left to the CPU for a while."""
REST_S = 60.0
"""How long that is at first; twice as long each time that it fails again."""
_LONGEST_REST_S = 3600.0
_HICCUP_S = 0.5
_WARNING_EVERY_S = 3600.0
_SLOWEST_RTF = 0.5
"""Ten times what SenseVoice is reported to take on an RK3588: slower than this an NPU does not compute any more."""
_ROW_S = 0.06


def load_proven(
    path: Path,
    runtimes: Runtimes,
    cache_dir: Path,
    golden: Callable[[NpuGraph], Golden | None],
    *,
    check_finite: bool = True,
    spare_memory: bool = False,
) -> "WatchedGraph":
    """Load a `.rknn` file and let it reproduce its golden output, unless it has done so before on this machine.

    Blocks. `golden` is asked only when needed; without one the graph is trusted. With `spare_memory` it is loaded for
    one core where each core would have a copy. Raises `RuntimeUnavailable` where no
    NPU can be used, `ModelError` for a file that is broken or made for another SoC, `AcceleratorError` if the NPU
    cannot load it or computes something else.
    """
    accelerator = runtimes.accelerator
    if accelerator is None:
        raise RuntimeUnavailable("no NPU is used here; `wyoming-rknn doctor` says why")
    file = RknnFile.read(path)
    file.check_soc(runtimes.board.soc)
    cores = 1 if spare_memory and not accelerator.shares_weights else None
    graph = accelerator.load(path, timeout_s=run_timeout_s(file), check_finite=check_finite, cores=cores)
    try:
        if remark := file.toolkit_remark(accelerator.versions.library):
            _LOGGER.warning("%s", remark)
        verdict = _verdict(path, graph, runtimes, accelerator, cache_dir, golden, cores or accelerator.cores)
        if verdict is not None and not verdict.passed:
            raise AcceleratorError(
                f"{path} fails its self-test on the NPU: {verdict.reason}; convert the model anew for this board "
                "with `wyoming-rknn models convert`, or update librknnrt and the NPU driver; "
                "`wyoming-rknn models verify` repeats the test"
            )
    except (AcceleratorError, ModelInvalid):
        graph.close()
        raise
    return WatchedGraph(graph, None if verdict is None else verdict.run_ms)


def run_timeout_s(file: RknnFile) -> float:
    """Return how long a run of a graph may take: longer than usual for many seconds of a recogniser's features."""
    rows = max((tensor.shape[1] for tensor in file.inputs if tensor.shape[2:] == (FEATURE_SIZE,)), default=0)
    return max(RUN_TIMEOUT_S, _SLOWEST_RTF * rows * _ROW_S)


def _verdict(
    path: Path,
    graph: NpuGraph,
    runtimes: Runtimes,
    accelerator: Accelerator,
    cache_dir: Path,
    golden: Callable[[NpuGraph], Golden | None],
    cores: int,
) -> Verdict | None:
    known = Verdicts(cache_dir)
    versions, soc = accelerator.versions, runtimes.board.soc
    if (verdict := known.recall(path, versions, soc)) is not None:
        return verdict
    if (expected := golden(graph)) is None:
        _LOGGER.info("%s has no golden output beside it: not tested on this NPU", path)
        return None
    verdict = examine(graph, expected, cores)
    known.remember(path, versions, soc, verdict)
    if verdict.passed:
        name = f"{path.parent.name}/{path.name}"
        _LOGGER.info("%s passed its self-test: %.1f dB, %.1f ms", name, verdict.snr_db, verdict.run_ms)
    return verdict


class WatchedGraph:
    """A graph on an NPU that is left alone for a while after several failures in a row. Thread-safe."""

    def __init__(
        self, graph: NpuGraph, run_ms: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._graph = graph
        self._clock = clock
        self._guard = threading.Lock()
        self._in_a_row = 0
        self._failed_s = -math.inf
        self._rest_s = REST_S
        self._warned_s = -math.inf
        self.run_ms = run_ms
        """Duration of a run, as the self-test found it."""
        self.inputs: tuple[TensorSpec, ...] = graph.inputs
        self.outputs: tuple[TensorSpec, ...] = graph.outputs
        self.metadata: Mapping[str, str] = graph.metadata

    @property
    def usable(self) -> bool:
        """Tell whether it is worth while to run it."""
        is_resting = self._in_a_row >= FAILURES and self._clock() < self._failed_s + self._rest_s
        return not is_resting and self._graph.usable

    def run(self, feeds: Mapping[str, Tensor], cancellation: Cancellation | None = None) -> dict[str, Tensor]:
        """Compute all outputs. Raises `AcceleratorError`; one warning an hour tells of it at most."""
        if not self.usable:
            raise AcceleratorError("a graph that failed on the NPU again and again is not run there for a while")
        begun_s = self._clock()
        try:
            outputs = self._graph.run(feeds, cancellation)
        except AcceleratorBusy:
            # The NPU is well, it has much to do.
            raise
        except AcceleratorError as error:
            self._note_failure(error, begun_s)
            raise
        self._note_success()
        return outputs

    def close(self) -> None:
        """Free the NPU's memory."""
        self._graph.close()

    def _note_success(self) -> None:
        with self._guard:
            was_resting, self._in_a_row, self._rest_s = self._in_a_row >= FAILURES, 0, REST_S
        if was_resting:
            _LOGGER.info("the NPU computes again")

    def _note_failure(self, error: AcceleratorError, begun_s: float) -> None:
        with self._guard:
            now_s = self._clock()
            # Runs that were under way on other cores, or begin within the same hiccup, are the same failure.
            if begun_s >= self._failed_s + _HICCUP_S:
                self._in_a_row += 1
                if self._in_a_row > FAILURES:
                    self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)
                self._failed_s = now_s
            is_news = now_s >= self._warned_s + _WARNING_EVERY_S
            if is_news:
                self._warned_s = now_s
        _LOGGER.log(
            logging.WARNING if is_news else logging.DEBUG,
            "%s; the CPU computes instead. If it happens often restart the service, or the board if that does not "
            "help; `wyoming-rknn doctor` tests the NPU",
            error,
        )
