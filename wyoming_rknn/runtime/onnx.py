"""Graphs on the CPU through ONNX Runtime, which is imported here and nowhere else."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from wyoming_rknn.errors import Cancelled, EngineError, ModelFileMissing, ModelInvalid
from wyoming_rknn.runtime.graph import Cancellation, Tensor, TensorSpec

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_SEVERITY_ERROR = 3
_SEVERITY_FATAL = 4


def load(model: Path | bytes, *, threads: int, cpus: Sequence[int] = ()) -> "OnnxGraph":
    """Load an ONNX file, or its content, for the CPU with `threads` threads, kept to `cpus` if there are any.

    Raises `ModelFileMissing` if there is no such file and `ModelInvalid` if ONNX Runtime refuses it.
    """
    if isinstance(model, Path) and not model.is_file():
        raise ModelFileMissing(f"{model} does not exist")
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SEVERITY_ERROR
    # Threads that spin while they wait make small graphs a sixth faster. Without bounds they would take the core that
    # answers `describe`, each other's where a voice has several graphs, and triple the time on a machine that is busy;
    # 100 us bridge the gaps between the nodes of a graph. Older versions ignore the bounds.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if cpus and threads > 1:
        # For all threads but the caller's; ONNX Runtime counts CPUs from 1.
        allowed = ",".join(str(cpu + 1) for cpu in cpus)
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join([allowed] * (threads - 1)))
    source = str(model) if isinstance(model, Path) else model
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        name = model.name if isinstance(model, Path) else "the graph"
        raise ModelInvalid(f"{name} is not an ONNX model that can be run: {_first_line(error)}") from error
    return OnnxGraph(session)


class OnnxGraph:
    """A graph that ONNX Runtime computes on the CPU."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime ships no types
        self._session = session
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self.metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
        """What the exporter noted."""

    def run(self, feeds: Mapping[str, Tensor], cancellation: Cancellation | None = None) -> dict[str, Tensor]:
        """Compute all outputs. Thread-safe. Raises `EngineError` when ONNX Runtime fails.

        A cancellation interrupts between two nodes of the graph and raises `Cancelled`.
        """
        try:
            if cancellation is None:
                values = self._session.run(self._names, dict(feeds))
            else:
                values = self._run_until(cancellation, feeds)
        except Exception as error:
            if cancellation is not None and cancellation.cancelled:
                raise Cancelled from None
            raise EngineError(f"ONNX Runtime failed: {_first_line(error)}") from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _run_until(self, cancellation: Cancellation, feeds: Mapping[str, Tensor]) -> Sequence[Tensor]:
        options = _onnxruntime().RunOptions()
        # It takes an interruption for an error worth a line on stderr.
        options.log_severity_level = _SEVERITY_FATAL

        def interrupt() -> None:
            options.terminate = True

        with cancellation.on_cancel(interrupt):
            values: Sequence[Tensor] = self._session.run(self._names, dict(feeds), options)
        return values


def _onnxruntime() -> ModuleType:
    # From 1.31 on it writes a device id below the user's cache and calls its maker unless told not to before it loads.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def _spec(value: Any) -> TensorSpec:  # noqa: ANN401 - onnxruntime ships no types
    shape = tuple(axis if isinstance(axis, int) else None for axis in value.shape)
    return TensorSpec(value.name, shape, np.dtype(_DTYPES.get(value.type, np.object_)))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
