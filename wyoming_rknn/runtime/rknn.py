"""Graphs on a Rockchip NPU through librknnrt."""

import ctypes
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from wyoming_rknn.errors import AcceleratorError, ModelInvalid
from wyoming_rknn.runtime import rknn_abi as abi
from wyoming_rknn.runtime.accelerator import LOAD_TIMEOUT_S, Versions
from wyoming_rknn.runtime.cores import forget
from wyoming_rknn.runtime.graph import Tensor
from wyoming_rknn.runtime.npu_graph import INTEGERS, ComputingContext, GraphLoader, Loaded, NpuTensor
from wyoming_rknn.runtime.rknn_library import CallFailed, RknnLibrary, open_library

_LOGGER = logging.getLogger(__name__)

# High priority, which is 0, but only for the NPU: the process keeps the CPU priority that its owner gave it.
_INIT_FLAGS = abi.INIT_DISABLE_PROC_HIGH_PRIORITY
_MAX_TENSORS = 256
"""More inputs or outputs than any model has."""
_FOREIGN = "another librknnrt than this program knows; update one of them"


def open_accelerator(
    library: Path | None,
    cores: int,
    has_core_masks: bool,
    *,
    prepare_thread: Callable[[], None] = lambda: None,
    load_timeout_s: float = LOAD_TIMEOUT_S,
) -> "RknnAccelerator":
    """Open the NPU through `library`, or the one that the system keeps.

    `cores` is how many cores the NPU has; `has_core_masks` tells whether a context can be tied to one;
    `prepare_thread` is called in each thread that calls the library. Raises `RuntimeUnavailable` if there is no library
    that can be used. Whether there is an NPU shows when a graph is loaded.
    """
    return RknnAccelerator(open_library(library), cores, has_core_masks, prepare_thread, load_timeout_s)


class RknnAccelerator(GraphLoader):
    """An NPU driven by librknnrt; an `Accelerator`."""

    name = "rknn"
    shares_weights = True

    def __init__(
        self,
        library: RknnLibrary,
        cores: int,
        has_core_masks: bool,
        prepare_thread: Callable[[], None] = lambda: None,
        load_timeout_s: float = LOAD_TIMEOUT_S,
    ) -> None:
        super().__init__(cores, prepare_thread, load_timeout_s)
        self._library = library
        self._has_core_masks = has_core_masks

    @property
    def versions(self) -> Versions:
        """Return the versions of library and driver, each "" as long as it is unknown.

        The driver's is known once a graph was loaded.
        """
        return self._library.versions

    @property
    def library(self) -> Path:
        """Return the file of the library."""
        return self._library.path

    def _open(self, path: Path, count: int) -> Loaded:
        """Load a file, with contexts that share its weights."""
        contexts = self._contexts(path, count)
        try:
            handle = contexts[0].handle
            self._library.learn_versions(handle)
            inputs, outputs = self._tensors(handle)
            metadata = self._metadata(handle)
            for context in contexts:
                context.prepare(inputs, outputs)
        except CallFailed as error:
            forget(contexts)
            raise AcceleratorError(f"{path.name}: {error}") from error
        except BaseException:
            forget(contexts)
            raise
        return Loaded(contexts, [tensor for _, tensor in inputs], [tensor for _, tensor in outputs], metadata)

    def _contexts(self, path: Path, count: int) -> "list[RknnContext]":
        try:
            handle = self._library.init(path, _INIT_FLAGS)
        except CallFailed as error:
            refused = ModelInvalid if error.status in abi.MODEL_ERRORS else AcceleratorError
            raise refused(f"the NPU cannot load {path.name}: {error}") from error
        contexts = [RknnContext(self._library, handle)]
        try:
            # Nothing but duplication may come between, not even a query.
            while len(contexts) < count:
                contexts.append(RknnContext(self._library, self._library.dup_context(handle)))
        except CallFailed as error:
            _LOGGER.info("%s runs on %d of %d cores: %s", path.name, len(contexts), count, error)
        # Fewer contexts than cores are better off with whatever core is idle.
        if self._has_core_masks and len(contexts) == self.cores > 1:
            self._pin(contexts)
        return contexts

    def _pin(self, contexts: "Sequence[RknnContext]") -> None:
        for core, context in enumerate(contexts):
            try:
                self._library.set_core_mask(context.handle, 1 << core)
            except CallFailed as error:
                _LOGGER.debug("contexts are not tied to cores of the NPU: %s", error)
                return
            context.core = core

    def _tensors(self, handle: int) -> "tuple[list[_Described], list[_Described]]":
        counts = self._library.input_output_number(handle)
        if not all(1 <= count <= _MAX_TENSORS for count in counts):
            raise AcceleratorError(
                f"{self._library.path} describes {counts[0]} inputs and {counts[1]} outputs; it is {_FOREIGN}"
            )
        inputs, outputs = (
            [self._described(handle, index, output=output) for index in range(count)]
            for output, count in zip((False, True), counts, strict=True)
        )
        return inputs, outputs

    def _described(self, handle: int, index: int, *, output: bool) -> "_Described":
        attr = self._library.tensor_attr(handle, index, output=output)
        shape = tuple(attr.dims[: attr.n_dims])
        name = attr.name.decode(errors="replace")
        # A library with another layout of the structure would not fit here.
        if (
            attr.index != index
            or not 1 <= attr.n_dims <= abi.MAX_DIMS
            or math.prod(shape) != attr.n_elems
            or 0 in shape
        ):
            raise AcceleratorError(
                f"{self._library.path} describes {name!r} as {attr.n_elems} numbers of shape {shape}; it is {_FOREIGN}"
            )
        return attr, NpuTensor.of(attr, half=np.float16)

    def _metadata(self, handle: int) -> Mapping[str, str]:
        try:
            text = self._library.custom_string(handle)
        except CallFailed as error:
            _LOGGER.debug("the converter's notes cannot be read: %s", error)
            return {}
        pairs = (part.partition("=") for part in text.split(";"))
        return {key.strip(): value.strip() for key, equals, value in pairs if equals}


_Described: TypeAlias = "tuple[abi.TensorAttr, NpuTensor]"


_TYPES: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): abi.FLOAT32,
    np.dtype(np.float16): abi.FLOAT16,
    **{np.dtype(kind): number for number, kind in INTEGERS.items()},
}


class RknnContext(ComputingContext):
    """An `rknn_context`, with buffers for its outputs."""

    def __init__(self, library: RknnLibrary, handle: int) -> None:
        super().__init__()
        self.handle = handle
        self._library = library
        self._lock = threading.Lock()
        self._inputs: ctypes.Array[abi.Input] = (abi.Input * 0)()
        self._outputs: ctypes.Array[abi.Output] = (abi.Output * 0)()
        self._buffers: list[Tensor] = []

    def prepare(self, inputs: "Sequence[_Described]", outputs: "Sequence[_Described]") -> None:
        """Note the types of inputs and make buffers for outputs."""
        self._inputs = (abi.Input * len(inputs))()
        for slot, (attr, tensor) in zip(self._inputs, inputs, strict=True):
            slot.index = attr.index
            slot.type = _TYPES[tensor.feed]
            # Only images have a layout to tell.
            slot.fmt = attr.fmt if attr.n_dims == 4 else abi.FORMAT_UNDEFINED
        # The library converts outputs to float32: from 16-bit floats that is exact, it fits whatever type a model
        # gives, and the buffer is copied out in any case.
        self._buffers = [np.zeros(tensor.shape, np.float32) for _, tensor in outputs]
        self._outputs = (abi.Output * len(outputs))()
        for slot, (attr, _), buffer in zip(self._outputs, outputs, self._buffers, strict=True):
            slot.index = attr.index
            slot.want_float = 1
            slot.is_prealloc = 1
            slot.buf = buffer.ctypes.data
            slot.size = buffer.nbytes

    def compute(self, feeds: Sequence[Tensor]) -> list[Tensor]:
        """Compute one run. Raises `AcceleratorError` when the library reports a failure."""
        with self._lock:
            for slot, array in zip(self._inputs, feeds, strict=True):
                slot.buf = array.ctypes.data
                slot.size = array.nbytes
            self._library.inputs_set(self.handle, self._inputs)
            self._library.run(self.handle)
            self._library.outputs_get(self.handle, self._outputs)
            results = [buffer.copy() for buffer in self._buffers]
            self._library.outputs_release(self.handle, self._outputs)
            return results

    def _destroy(self) -> None:
        with self._lock:
            self._library.destroy(self.handle)
