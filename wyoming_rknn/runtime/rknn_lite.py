"""Graphs on a Rockchip NPU through rknn-toolkit-lite2, for boards where librknnrt cannot be used directly.

What the package does is checked as far as it lets itself be. It ignores a failing run if the library still hands out
outputs, which are then the ones of an earlier run: outputs that equal the last ones bit for bit although the inputs
differ are taken for that. The first run of a graph cannot be checked so; stale memory that is neither zero nor NaN
passes there, and only a self-test with a known result would notice.
"""

import contextlib
import importlib
import logging
import math
import platform
import re
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy as np

from wyoming_rknn.errors import AcceleratorError, ModelInvalid, RuntimeUnavailable
from wyoming_rknn.runtime import rknn_abi as abi
from wyoming_rknn.runtime.accelerator import LOAD_TIMEOUT_S, Versions
from wyoming_rknn.runtime.cores import forget
from wyoming_rknn.runtime.graph import Tensor
from wyoming_rknn.runtime.npu_graph import ComputingContext, GraphLoader, Loaded, NpuTensor
from wyoming_rknn.runtime.rknn_library import why_not_loaded

_LOGGER = logging.getLogger(__name__)

PACKAGE = "rknn-toolkit-lite2"
LIBRARY = Path("/usr/lib/librknnrt.so")
"""The only library that the package takes, wherever else there is one."""
_ITS_LOGGER = "acuityLogger"
_LEVELS = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, logging.NOTSET)
_STREAMS = ("stdout", "stderr")
_NEWEST_PYTHON = (3, 12)
_API = re.compile(r"API:\s*(?:version:?\s*)?(\S.*)")
_DRIVER = re.compile(r"DRV:\s*(?:rknn_\w+:\s*)?(\S.*)")
_ERROR_NAME = re.compile(r"RKNN_ERR_\w+")
_STATUS = {name: status for status, name in abi.ERROR_NAMES.items()}


def open_accelerator(
    cores: int,
    *,
    prepare_thread: Callable[[], None] = lambda: None,
    load_timeout_s: float = LOAD_TIMEOUT_S,
) -> "RknnLiteAccelerator":
    """Open the NPU, which has `cores` cores, through rknn-toolkit-lite2.

    `prepare_thread` is called in each thread that calls the package. Raises `RuntimeUnavailable` if the package is not
    installed, cannot be imported here, or lacks its library.
    """
    said = _Said.listen()
    with said.quiet():
        try:
            module = importlib.import_module("rknnlite.api")
        except ImportError as error:
            raise RuntimeUnavailable(_why_not_imported(error)) from None
        except Exception as error:
            raise RuntimeUnavailable(f"{PACKAGE} cannot be imported: {_one_line(error)}; install it again") from error
    if not hasattr(module, "RKNNLite"):
        raise RuntimeUnavailable(f"the module rknnlite is not that of {PACKAGE}; install it again")
    if (lack := library_lack()) is not None:
        raise RuntimeUnavailable(lack)
    return RknnLiteAccelerator(module, said, cores, prepare_thread, load_timeout_s)


def library_lack() -> str | None:
    """Return why the package finds no library, and what to do; `None` if it finds one."""
    if (reason := why_not_loaded(LIBRARY)) is None:
        return None
    what = reason.partition("; ")[0].removeprefix(f"{LIBRARY} ")
    return (
        f"{PACKAGE} takes no library but {LIBRARY}, which {what}; install the board's rknpu2 runtime there, or make "
        "that a link to librknnrt.so"
    )


class RknnLiteAccelerator(GraphLoader):
    """An NPU driven by rknn-toolkit-lite2; an `Accelerator`."""

    name = "rknn-lite"
    shares_weights = False

    def __init__(
        self,
        module: ModuleType,
        said: "_Said",
        cores: int,
        prepare_thread: Callable[[], None] = lambda: None,
        load_timeout_s: float = LOAD_TIMEOUT_S,
    ) -> None:
        super().__init__(cores, prepare_thread, load_timeout_s)
        self._module = module
        self._said = said
        self._versions = Versions("", "")

    @property
    def versions(self) -> Versions:
        """Return the versions of librknnrt and the driver, each "" until a graph was loaded."""
        return self._versions

    def _open(self, path: Path, count: int) -> Loaded:
        """Load a file once per context, since this package cannot share weights."""
        contexts: list[LiteContext] = []
        try:
            contexts.append(self._first(path, count))
            while len(contexts) < count:
                core = len(contexts) if contexts[0].core is not None else None
                contexts.append(LiteContext(self._lite(path, core), core, self._said))
        except (AcceleratorError, ModelInvalid) as error:
            if not contexts:
                raise
            _LOGGER.info("%s runs on %d of %d cores: %s", path.name, len(contexts), count, error)
        try:
            self._learn_versions(contexts[0].lite)
            inputs, outputs = _tensors(contexts[0].lite, path.name)
        except BaseException:
            forget(contexts)
            raise
        for context in contexts:
            context.outputs = outputs
        return Loaded(contexts, inputs, outputs, {})

    def _first(self, path: Path, count: int) -> "LiteContext":
        # Where there is one core only, a mask is refused; fewer contexts than cores run on whatever core is idle.
        if count == self.cores > 1:
            try:
                return LiteContext(self._lite(path, 0), 0, self._said)
            except AcceleratorError as error:
                _LOGGER.debug("contexts are not tied to cores of the NPU: %s", error)
        return LiteContext(self._lite(path, None), None, self._said)

    def _lite(self, path: Path, core: int | None) -> Any:  # noqa: ANN401 - the package has no types
        with self._said.quiet():
            lite = None
            try:
                lite = self._module.RKNNLite(verbose=False)
                self._succeeds(lite.load_rknn(str(path)), path, "load_rknn")
                # A target must never be named on the board itself.
                options = {} if core is None else {"core_mask": 1 << core}
                self._succeeds(lite.init_runtime(**options), path, "init_runtime")
            except Exception as error:
                if lite is not None:
                    with contextlib.suppress(Exception):
                        lite.release()
                if isinstance(error, AcceleratorError | ModelInvalid):
                    raise
                raise AcceleratorError(f"the NPU cannot load {path.name}: {_one_line(error)}") from error
            # The whole file, which the library has copied.
            lite.rknn_data = None
            return lite

    def _succeeds(self, result: object, path: Path, function: str) -> None:
        said = self._said.take()
        if result == 0:
            return
        found = _ERROR_NAME.search(said)
        status = _STATUS.get(found[0]) if found else None
        cause = said or f"it returned {result}"
        fix = f": {abi.FIXES[status]}" if status in abi.FIXES else "; `wyoming-rknn doctor` looks for the cause"
        refused = ModelInvalid if status in abi.MODEL_ERRORS else AcceleratorError
        raise refused(f"the NPU cannot load {path.name}: {function} failed ({cause}){fix}")

    def _learn_versions(self, lite: Any) -> None:  # noqa: ANN401
        with self._said.quiet():
            text = str(lite.get_sdk_version() or "")
        library, driver = (found[1].strip() if (found := pattern.search(text)) else "" for pattern in (_API, _DRIVER))
        versions = Versions(library, driver)
        if versions != self._versions:
            self._versions = versions
            _LOGGER.info("the NPU is driven by librknnrt %s, driver %s, through %s", library, driver, PACKAGE)


class LiteContext(ComputingContext):
    """An `RKNNLite` object, which must be used by one thread at a time."""

    def __init__(self, lite: Any, core: int | None, said: "_Said") -> None:  # noqa: ANN401
        super().__init__(core)
        self.lite = lite
        self.outputs: Sequence[NpuTensor] = ()
        self._said = said
        self._lock = threading.Lock()
        self._last: tuple[int, list[Tensor]] | None = None

    def compute(self, feeds: Sequence[Tensor]) -> list[Tensor]:
        """Compute one run. Raises `AcceleratorError` when the package reports a failure or repeats old outputs."""
        with self._lock:
            self._said.take()
            values = self.lite.inference(inputs=list(feeds))
            said = self._said.take()
            if values is None:
                raise AcceleratorError(f"the NPU failed: {said or 'rknn-toolkit-lite2 does not tell why'}")
            shapes = [np.shape(value) for value in values]
            if [math.prod(shape) for shape in shapes] != [math.prod(tensor.shape) for tensor in self.outputs]:
                raise AcceleratorError(f"the NPU gave outputs of shapes {shapes}, not as the model says")
            results = [
                np.asarray(value, np.float32).reshape(tensor.shape)
                for value, tensor in zip(values, self.outputs, strict=True)
            ]
            self._refuse_repetition(feeds, results)
            return results

    def _refuse_repetition(self, feeds: Sequence[Tensor], results: list[Tensor]) -> None:
        checksum = 0
        for array in feeds:
            checksum = zlib.crc32(array.data, checksum)
        last, self._last = self._last, (checksum, results)
        if last is not None and last[0] != checksum and all(map(_equal, last[1], results)):
            raise AcceleratorError("the NPU gave the outputs of the run before; a run failed without a word")

    def _destroy(self) -> None:
        with self._lock:
            self._last = None
            self.lite.release()


def _equal(one: Tensor, other: Tensor) -> bool:
    begin = slice(0, 256)
    return np.array_equal(one.ravel()[begin], other.ravel()[begin]) and np.array_equal(one, other)


def _tensors(lite: Any, name: str) -> tuple[list[NpuTensor], list[NpuTensor]]:  # noqa: ANN401
    """Return the inputs and outputs of a model.

    The package shows them nowhere but in an attribute meant for itself, where other programs read them as well.
    """
    try:
        counts = lite.rknn_runtime.get_in_out_num()
        inputs, outputs = (
            [
                # 16-bit floats are left to the package, which nobody is known to feed with them.
                NpuTensor.of(lite.rknn_runtime.get_tensor_attr(index, is_output=is_output), half=np.float32)
                for index in range(count)
            ]
            for is_output, count in zip((False, True), counts, strict=True)
        )
    except Exception as error:
        raise AcceleratorError(
            f"{PACKAGE} does not tell the shapes of {name} ({_one_line(error)}); use librknnrt instead (--runtime rknn)"
        ) from error
    return inputs, outputs


class _Said(logging.Filter):
    """Keeps the package's messages off the terminal: they are logged at DEBUG, and kept for the error they may explain.

    Thread-safe.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept = threading.local()
        self._guard = threading.Lock()
        self._inside = 0
        self._names: dict[int, str] = {}

    @classmethod
    def listen(cls) -> "_Said":
        """Return the filter of the package's logger, put there once."""
        logger = logging.getLogger(_ITS_LOGGER)
        there = next((known for known in logger.filters if isinstance(known, cls)), None)
        if there is None:
            logger.addFilter(there := cls())
        return there

    def filter(self, record: logging.LogRecord) -> bool:
        """Take a message away from the package's own handlers."""
        self.note(record.getMessage())
        return False

    def note(self, text: str) -> None:
        """Keep what the package said in this thread."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            # Of a traceback its first and last line tell everything.
            _LOGGER.debug("%s: %s", PACKAGE, " ... ".join(dict.fromkeys((lines[0], lines[-1]))))
            self._kept.line = lines[-1]

    def take(self) -> str:
        """Return the last line that was said in this thread since the last time: of a traceback that is the cause."""
        line: str = getattr(self._kept, "line", "")
        self._kept.line = ""
        return line.removeprefix("Exception: ").removeprefix("E ")

    @property
    def listens(self) -> bool:
        """Tell whether what this thread prints is the package's."""
        listens: bool = getattr(self._kept, "listens", False)
        return listens

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Catch what the package prints in this thread, and give logging its level names back.

        Importing it replaces them by letters. Several threads may be in here at once, and one that hangs never leaves.
        """
        with self._guard:
            if self._inside == 0:
                self._names = {level: logging.getLevelName(level) for level in _LEVELS}
                for name in _STREAMS:
                    if (stream := getattr(sys, name)) is not None:
                        setattr(sys, name, _Routed(self, stream))
            self._inside += 1
        self._kept.listens = True
        try:
            yield
        finally:
            self._kept.listens = False
            with self._guard:
                for level, text in self._names.items():
                    logging.addLevelName(level, text)
                self._inside -= 1
                if self._inside == 0:
                    for name in _STREAMS:
                        if isinstance(stream := getattr(sys, name), _Routed):
                            setattr(sys, name, stream.real)


class _Routed:
    """Stands in for stdout or stderr: what threads print that use the package is noted, all else goes where it went."""

    def __init__(self, said: _Said, real: TextIO) -> None:
        self._said = said
        self.real = real

    def write(self, text: str) -> int:
        if not self._said.listens:
            return self.real.write(text)
        self._said.note(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.real, name)


def _why_not_imported(error: ImportError) -> str:
    machine = platform.machine()
    if machine != "aarch64":
        return f"{PACKAGE} runs on 64-bit Arm only, this machine is {machine}"
    if sys.version_info[:2] > _NEWEST_PYTHON:
        return f"{PACKAGE} is not made for Python {platform.python_version()}; use Python 3.12, or librknnrt directly"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "rknnlite":
        return f"{PACKAGE} is not installed; `pip install {PACKAGE}` does that"
    return f"{PACKAGE} cannot be imported: {_one_line(error)}; install it again"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
