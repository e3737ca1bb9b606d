"""A test double of the vendor's toolkit: its interface, its habits and, by $TOOLKIT_DOUBLE, its faults."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from npu import stand_in
from torch.nn import functional

PLAN = """\
D RKNN: [1:2:3.4] ID OpType        DataType Target InputShape  OutputShape Cycles(DDR/NPU/Total) RW(KB) FullName
D RKNN: [1:2:3.4] 0  InputOperator FLOAT16  CPU    \\           (1,2,3)     0/0/0                 0      Input:x
D RKNN: [1:2:3.4] 1  Reshape       FLOAT16  CPU    (1,2,3),(4) (1,2,1,3)   0/0/0                 20     Reshape:x_rs
D RKNN: [1:2:3.4] 2  ConvAdd       FLOAT16  NPU    (1,2,1,3)   (1,2,1,3)   23637/32256/32256     525    Conv:/conv
"""
REGTASK = (
    "E RKNN: [17:27:27.663] REGTASK: The bit width of field value exceeds the limit, target: lite, offset: 0x4038, "
    "shift = 16, limit: 0x1fff, value: 0x31b8\n"
)


def fault(name: str) -> bool:
    return name in os.environ.get("TOOLKIT_DOUBLE", "").split()


class Network(torch.nn.Module):
    """The toolkit has such classes on its way to PyTorch."""

    @torch.jit.unused
    def forward(self) -> object:
        return functional.relu


class RKNN:
    def __init__(self, verbose: bool = False) -> None:
        # Modules beside the script have names of others: static, python, report.
        assert str(Path(sys.argv[0]).parent) not in sys.path
        self.verbose = verbose
        self.is_built = False

    def config(self, target_platform: str, **options: object) -> int:
        if fault("exit"):
            sys.exit("config: no such option")
        self.target, self.options = target_platform, options
        return 0

    def load_onnx(self, model: str) -> int:
        Path("check0_base_optimize.onnx").write_bytes(b"left where it works")
        self.model = Path(model)
        onnx.checker.check_model(onnx.load(model))
        return -1 if fault("load-fails") else 0

    def build(self, do_quantization: bool) -> int:
        assert not do_quantization
        if fault("hang"):
            child = subprocess.Popen(["sleep", "600"])
            Path(os.environ["TOOLKIT_DOUBLE_CHILD"]).write_text(f"{os.getpid()} {child.pid}")
            time.sleep(600)
        if fault("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault("quiet-exit"):
            os._exit(0)
        if fault("raises"):
            os.write(2, b"\x1b[1;31mE\x1b[0m \x1b[1;31mbuild: no such operator\x1b[0m\n")
            raise ValueError("Traceback of\nmany lines")
        # Native code writes past Python's buffers.
        if self.verbose:
            os.write(1, PLAN.encode())
        os.write(2, b"E RKNN: [17:27:14.807] Unkown op target: 0\n")
        if fault("complains"):
            os.write(2, b"E RKNN: [17:27:14.807] Meet unsupported layout\n" * 5)
        if fault("waits"):
            Path(os.environ["TOOLKIT_DOUBLE_CHILD"]).touch()
            while not Path(f"{os.environ['TOOLKIT_DOUBLE_CHILD']}.go").exists():
                time.sleep(0.01)
        if fault("regtask"):
            os.write(1, REGTASK.encode() * 3)
        self.is_built = True
        return 0

    def export_rknn(self, path: str) -> int:
        if not fault("no-file"):
            target = "rk3399" if fault("other-target") else self.target
            custom = str(self.options.get("custom_string", ""))
            stand_in.write(Path(path), self.model.read_bytes(), target=target, custom_string=custom)
        if fault("truncated"):
            Path(path).write_bytes(Path(path).read_bytes()[:-50])
        return 0

    def init_runtime(self) -> int:
        return 0 if self.is_built else -1

    def inference(self, inputs: list[np.ndarray], data_format: list[str]) -> list[np.ndarray] | None:
        assert data_format == ["nchw"] * len(inputs)
        if fault("no-result"):
            return None
        # Not at the top: it takes a while, and most faults come earlier.
        import onnxruntime

        session = onnxruntime.InferenceSession(str(self.model), providers=["CPUExecutionProvider"])
        feeds = {spec.name: value for spec, value in zip(session.get_inputs(), inputs, strict=True)}
        results: list[np.ndarray] = session.run(None, feeds)
        return results
