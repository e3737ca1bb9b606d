"""Whether the simulator computes what ONNX Runtime computes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wyoming_rknn.errors import ConversionError
from wyoming_rknn.npu import selftest
from wyoming_rknn.npu.selftest import Golden
from wyoming_rknn.runtime.graph import Tensor


@dataclass(frozen=True, slots=True)
class Agreement:
    """How close two results are."""

    snr_db: float
    """Of the worst output; infinite if all are equal."""
    max_abs_error: float


def compare(label: str, golden: Golden, simulated: Mapping[str, Tensor]) -> Agreement:
    """Return how close the simulator's outputs are to ONNX Runtime's; axes of size 1 may differ.

    The board's self-test sets the same demands. Raises `ConversionError` for outputs that are missing, of another size,
    not finite, all zero or noisier than the golden's floor.
    """
    results = {
        name: value.reshape(golden.outputs[name].shape)
        if name in golden.outputs and value.size == golden.outputs[name].size
        else value
        for name, value in simulated.items()
    }
    verdict = selftest.compare(golden, results)
    if not verdict.passed:
        hint = "try the other toolkit with --toolkit, or leave it to the CPU"
        if any(not np.isfinite(value).all() for value in results.values()):
            hint = "its values exceed 65504, the largest of 16-bit floats, so leave it to the CPU"
        raise ConversionError(f"{label}, simulated, {verdict.reason}; {hint}")
    worst = max(float(np.abs(reference - results[name]).max(initial=0.0)) for name, reference in golden.outputs.items())
    return Agreement(float("inf") if verdict.snr_db is None else verdict.snr_db, worst)
