"""What graphs on an NPU have in common, whatever library runs them: fixed shapes, checks, cores, and an end."""

import logging
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from wyoming_rknn.errors import AcceleratorError, EngineError, ModelFileMissing
from wyoming_rknn.runtime import rknn_abi as abi
from wyoming_rknn.runtime.accelerator import LOAD_TIMEOUT_S, RUN_TIMEOUT_S, AcceleratorBusy
from wyoming_rknn.runtime.cores import Context, Cores, forget
from wyoming_rknn.runtime.graph import Cancellation, Tensor, TensorSpec

_LOGGER = logging.getLogger(__name__)

FLOAT16_MAX = 65504.0
"""The largest number of a 16-bit float."""
_FINISH_S = 2.0
"""How long `close` waits for runs that have begun."""

INTEGERS = {
    abi.INT8: np.int8,
    abi.UINT8: np.uint8,
    abi.INT16: np.int16,
    abi.UINT16: np.uint16,
    abi.INT32: np.int32,
    abi.UINT32: np.uint32,
    abi.INT64: np.int64,
    abi.BOOL: np.bool_,
}


@dataclass(frozen=True, slots=True)
class NpuTensor:
    """An input or output as the NPU's library describes it: all axes fixed, `shape` as it lies in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """What `run` takes or gives: float32 for floats of any width, else an integer type."""
    feed: np.dtype[Any]
    """What contexts take for it."""
    half: bool = False
    """It is computed in 16-bit floats."""

    @classmethod
    def of(cls, attr: Any, *, half: type[np.floating[Any]]) -> Self:  # noqa: ANN401 - of whichever library
        """Return what an `rknn_tensor_attr` describes; `half` is what contexts take for 16-bit floats."""
        shape = tuple(int(axis) for axis in attr.dims[: attr.n_dims])
        name = attr.name.decode(errors="replace")
        if attr.type == abi.FLOAT16:
            return cls(name, shape, np.dtype(np.float32), np.dtype(half), half=True)
        integer = INTEGERS.get(attr.type) if attr.qnt_type == abi.QUANTIZATION_NONE else None
        # What is quantised, or held in a type that numpy lacks, the library converts from floats.
        dtype = np.dtype(integer or np.float32)
        return cls(name, shape, dtype, dtype)

    @property
    def spec(self) -> TensorSpec:
        """Return what the seam shows."""
        return TensorSpec(self.name, self.shape, self.dtype)


class ComputingContext(Context):
    """A context that computes arrays from arrays, in the order of the graph's inputs and outputs."""

    @abstractmethod
    def compute(self, feeds: Sequence[Tensor]) -> list[Tensor]:
        """Compute one run; the arrays returned are the caller's own. Raises `AcceleratorError`."""


class FixedGraph:
    """A graph with fixed shapes and a context per core; an `NpuGraph`.

    `name` is what errors call it. A graph that is forgotten frees its contexts.
    """

    def __init__(
        self,
        name: str,
        cores: Cores,
        contexts: Sequence[ComputingContext],
        inputs: Sequence[NpuTensor],
        outputs: Sequence[NpuTensor],
        metadata: Mapping[str, str],
        *,
        timeout_s: float,
        check_finite: bool,
        owner: object,
    ) -> None:
        self._name = name
        self._cores = cores
        self.contexts = contexts
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._timeout_s = timeout_s
        self._check_finite = check_finite
        self._owner = owner  # what is collected with its last graph must not be so before
        self.inputs = tuple(tensor.spec for tensor in inputs)
        self.outputs = tuple(tensor.spec for tensor in outputs)
        self.metadata = dict(metadata)
        self._closed = False
        self._finalizer = weakref.finalize(self, forget, contexts)
        self._finalizer.atexit = False  # the accelerator sees to all of them then

    @property
    def usable(self) -> bool:
        """Tell whether a context is left that could run."""
        return any(not context.retired for context in self.contexts)

    def run(self, feeds: Mapping[str, Tensor], cancellation: Cancellation | None = None) -> dict[str, Tensor]:
        """Compute all outputs as float32 arrays. Thread-safe; a run that has begun is not interrupted.

        Raises `EngineError` for feeds that do not fit, `AcceleratorBusy` if no core was free in time, and
        `AcceleratorError` for numbers that 16-bit floats cannot hold, and when the NPU fails, hangs, or gives what
        cannot be right.
        """
        if self._closed:
            raise self._is_closed()
        arrays = self._fit(feeds)
        try:
            results = self._cores.run(self.contexts, lambda context: context.compute(arrays), self._timeout_s)
        except AcceleratorError as error:
            if self._closed:
                raise self._is_closed() from None
            kind = AcceleratorBusy if isinstance(error, AcceleratorBusy) else AcceleratorError
            raise kind(f"{self._name}: {error}") from error
        if all(not result.any() for result in results):
            raise AcceleratorError(f"{self._name}: the NPU gave zeros only; `wyoming-rknn doctor` tests it")
        if self._check_finite:
            for tensor, result in zip(self._outputs, results, strict=True):
                # The sum of finite numbers may overflow, but then this only leads to the longer look.
                if not np.isfinite(result.sum(dtype=np.float64)) and not np.isfinite(result).all():
                    raise AcceleratorError(
                        f"{self._name}: output {tensor.name!r} of the NPU holds NaN or infinity, which is what 16-bit"
                        " floats become when they overflow"
                    )
        return {tensor.name: result for tensor, result in zip(self._outputs, results, strict=True)}

    def close(self) -> None:
        """Free all contexts; runs that have begun finish first. Later calls change nothing."""
        self._closed = True
        if self._finalizer.detach() is not None:
            self._cores.drain(self.contexts, _FINISH_S)
            self._cores.dismiss([self.contexts])

    def _fit(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        names = {tensor.name for tensor in self._inputs}
        if feeds.keys() != names:
            raise EngineError(
                f"{self._name} takes {', '.join(sorted(names))}, not {', '.join(sorted(feeds)) or 'nothing'}"
            )
        return [self._fit_one(tensor, np.asarray(feeds[tensor.name])) for tensor in self._inputs]

    def _fit_one(self, tensor: NpuTensor, array: Tensor) -> Tensor:
        if array.shape != tensor.shape:
            raise EngineError(f"{self._name}: input {tensor.name!r} has shape {array.shape}, not {tensor.shape}")
        if not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
            raise EngineError(f"{self._name}: input {tensor.name!r} is {array.dtype}, not {tensor.dtype}")
        if tensor.half:
            peak = float(np.maximum(array.max(), -array.min()))
            if not peak <= FLOAT16_MAX:
                raise AcceleratorError(
                    f"{self._name}: input {tensor.name!r} holds {peak:g}, which 16-bit floats cannot"
                    f" ({FLOAT16_MAX:g} at most)"
                )
        fitting = np.ascontiguousarray(array, dtype=tensor.feed)
        if tensor.dtype.kind != "f" and fitting.dtype != array.dtype and not np.array_equal(fitting, array):
            raise EngineError(f"{self._name}: input {tensor.name!r} has numbers that {tensor.feed} cannot hold")
        return fitting

    def _is_closed(self) -> EngineError:
        return EngineError(f"{self._name} was closed and cannot run any more")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a library made of a file."""

    contexts: Sequence[ComputingContext]
    inputs: Sequence[NpuTensor]
    outputs: Sequence[NpuTensor]
    metadata: Mapping[str, str]


class GraphLoader(ABC):
    """What accelerators have in common: cores, the graphs loaded for them, and the end of both.

    `prepare_thread` is called in each thread that calls the library, before it does. A graph that is not loaded within
    `load_timeout_s` seconds is given up.

    Contexts that nobody freed are freed when the interpreter ends: an NPU whose user left them behind may hang until
    the next boot.
    """

    def __init__(
        self,
        cores: int,
        prepare_thread: Callable[[], None] = lambda: None,
        load_timeout_s: float = LOAD_TIMEOUT_S,
    ) -> None:
        self._prepare_thread = prepare_thread
        self._load_timeout_s = load_timeout_s
        self._load_failure = ""
        self._cores = Cores(max(1, cores), prepare_thread)
        self._graphs: weakref.WeakSet[FixedGraph] = weakref.WeakSet()
        self._finalizer = weakref.finalize(self, _shut, self._cores, self._graphs)

    @property
    def cores(self) -> int:
        """Return how many graphs are computed at once."""
        return len(self._cores)

    @property
    def load_failure(self) -> str:
        """Return why the NPU did not load the last graph that it should; "" if it did, or there was none."""
        return self._load_failure

    def load(
        self,
        path: Path,
        *,
        timeout_s: float = RUN_TIMEOUT_S,
        check_finite: bool = True,
        cores: int | None = None,
    ) -> FixedGraph:
        """Load a `.rknn` file for `cores` of the cores, or for all. Blocks until it is loaded or the time is up.

        Raises `ModelFileMissing`, `ModelInvalid` if the library refuses the file, `AcceleratorError` if the NPU cannot
        be used or does not answer.
        """
        if not path.is_file():
            raise ModelFileMissing(f"{path} does not exist")
        count = self.cores if cores is None else max(1, min(cores, self.cores))
        loading: Future[Loaded] = Future()
        # Daemon: a library that never comes back must not keep the process alive.
        threading.Thread(
            target=_load,
            args=(loading, self._prepare_thread, self._open, path, count),
            name=f"npu loading {path.name}",
            daemon=True,
        ).start()
        try:
            loaded = self._in_time(loading, path)
        except AcceleratorError as error:
            self._load_failure = str(error)
            raise
        finally:
            # Who is interrupted does not want it any more either; and the traceback would refer to itself.
            loading.cancel()
            del loading
        self._load_failure = ""
        graph = FixedGraph(
            path.name,
            self._cores,
            loaded.contexts,
            loaded.inputs,
            loaded.outputs,
            loaded.metadata,
            timeout_s=timeout_s,
            check_finite=check_finite,
            owner=self,
        )
        self._graphs.add(graph)
        if not self._finalizer.alive:
            graph.close()
            raise AcceleratorError("the NPU is not used any more, the program ends")
        return graph

    def close(self) -> None:
        """Close all graphs and end the cores' threads; later calls change nothing."""
        self._finalizer()

    @abstractmethod
    def _open(self, path: Path, count: int) -> "Loaded":
        """Load a file with `count` contexts. Raises what `load` does, and leaves nothing behind then."""

    def _in_time(self, loading: "Future[Loaded]", path: Path) -> "Loaded":
        try:
            return loading.result(self._load_timeout_s)
        except TimeoutError:
            if not loading.cancel():
                return loading.result()  # at the last moment
            raise AcceleratorError(
                f"the NPU did not load {path.name} within {self._load_timeout_s:g} s; reboot the board, and update "
                "librknnrt and the NPU driver if that does not help"
            ) from None
        finally:
            del loading


def _load(
    loading: "Future[Loaded]",
    prepare_thread: Callable[[], None],
    work: Callable[[Path, int], Loaded],
    path: Path,
    count: int,
) -> None:
    """Load a file, and free what came of it if nobody waits any more."""
    try:
        # What the library starts for itself inherits the thread's CPU cores.
        prepare_thread()
        loaded = work(path, count)
    except BaseException as error:
        if loading.set_running_or_notify_cancel():
            loading.set_exception(error)
    else:
        if loading.set_running_or_notify_cancel():
            loading.set_result(loaded)
        else:
            _LOGGER.info("%s was loaded too late and is freed", path.name)
            forget(loaded.contexts)
    finally:
        del loading


def _shut(cores: Cores, graphs: "weakref.WeakSet[FixedGraph]") -> None:
    left = [graph.contexts for graph in graphs]
    cores.drain([context for contexts in left for context in contexts], _FINISH_S)
    cores.dismiss(left)
    cores.stop()
