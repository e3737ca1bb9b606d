"""A converter without the vendor's toolkit: writes stand-in models, "simulates" by rounding what ONNX Runtime gives."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from npu import stand_in
from numpy.typing import NDArray

from wyoming_rknn.convert.toolkit import BuildRequest, Built
from wyoming_rknn.runtime.onnx import load

Simulated = Mapping[str, NDArray[np.float32]]


@dataclass
class StandInToolkit:
    """Implements `convert.toolkit.Toolkit`; keeps the requests it was given."""

    version: str = "2.3.2"
    spoil: Callable[[Simulated], Simulated] = dict
    """Changes what the simulator gives."""
    built: dict[str, object] = field(default_factory=dict)
    """Replaces fields of what `build` returns."""
    requests: list[BuildRequest] = field(default_factory=list)

    def build(self, request: BuildRequest) -> Built:
        """Write a stand-in model for the double of librknnrt.so."""
        self.requests.append(request)
        stand_in.write(
            request.out,
            request.graph.read_bytes(),
            target=request.target,
            toolkit=self.version,
            custom_string=request.custom_string,
        )
        rounded = {name: _rounded(value) for name, value in request.inputs.items()}
        outputs = load(request.graph, threads=1).run(rounded)
        simulated = self.spoil({name: _rounded(value) for name, value in outputs.items()})
        built = Built(
            rknn=request.out,
            simulated=simulated,
            cpu_layers=("Reshape:z_rs",),
            log=request.out.with_suffix(".log"),
            seconds=0.1,
            regtask_lines=0,
        )
        return dataclasses.replace(built, **self.built)


def _rounded(value: NDArray[np.float32]) -> NDArray[np.float32]:
    return value.astype(np.float16).astype(np.float32) if value.dtype.kind == "f" else value
