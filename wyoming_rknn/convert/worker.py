"""Drive the vendor's toolkit; run by the toolkit's own Python: `worker.py REQUEST.json PARENT_PID`.

Stands alone: nothing of this package can be imported there. REQUEST holds `graph`, `target`, `out`, `inputs` (an .npz
by input name), `simulated` (the .npz to write, by output name), `config` (further arguments of `RKNN.config`) and
`answer`, the JSON file to write: {"seconds": {stage: s}, "peak_mb": n}, with {"failed": stage, "message": why} if a
stage fails. Whether the compiler's messages make a build useless is for the parent to judge: it holds the log.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_PR_SET_PDEATHSIG = 1
_NICENESS = 10
_TORCH = (
    "torch",
    *(f"torch.{name}" for name in ("autograd", "jit", "nn", "nn.functional", "onnx", "utils", "utils.data")),
)
_TORCH_VERSION = "2.4.0"


class _Absent:
    """Stands in for any class, function or decorator of a library that is imported but not needed."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - takes what anything takes
        """Take anything."""

    def __call__(self, *args: Any, **_kwargs: Any) -> Any:  # noqa: ANN401
        """Decorate, that is return, a function."""
        return args[0] if args else self


def do_without(names: Sequence[str]) -> None:
    """Satisfy imports of libraries that the toolkit does not use on the way from ONNX to fp16.

    torch and OpenCV would be a gigabyte, with CUDA several.
    """
    for name in names:
        module = ModuleType(name, "Stands in for a library that is not installed.")
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
        vars(module).update(__version__=_TORCH_VERSION, __getattr__=_absent)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _absent(name: str) -> type[_Absent]:
    # Whoever asks for dunder names, the import system above all, must hear the truth.
    if name.startswith("__"):
        raise AttributeError(name)
    return _Absent


class _Failed(Exception):
    """A stage of the conversion went wrong."""


def _checked(call: Callable[[], Any]) -> None:
    code = call()
    if code != 0:
        raise _Failed(f"returned {code}")


def convert(request: dict[str, Any], answer: dict[str, Any]) -> None:
    """Load, build, export and simulate; notes in `answer` how far it came. Raises what the toolkit raises."""
    import numpy as np
    import onnx

    stage = _Stages(answer)
    with stage("import"):
        toolkit = importlib.import_module("rknn.api").RKNN(verbose=True)
    with stage("config"):
        _checked(lambda: toolkit.config(target_platform=request["target"], float_dtype="float16", **request["config"]))
    with stage("load_onnx"):
        _checked(lambda: toolkit.load_onnx(model=request["graph"]))
    with stage("build"):
        _checked(lambda: toolkit.build(do_quantization=False))
    with stage("export_rknn"):
        _checked(lambda: toolkit.export_rknn(request["out"]))
    # The simulator knows a graph only right after its build, not one that was loaded from a file.
    with stage("init_runtime"):
        _checked(toolkit.init_runtime)
    with stage("inference"):
        graph = onnx.load(request["graph"], load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        names = [value.name for value in graph.input if value.name not in weights]
        with np.load(request["inputs"]) as inputs:
            feeds = [inputs[name] for name in names]
        # Anything but "nchw" would be transposed.
        results = toolkit.inference(inputs=feeds, data_format=["nchw"] * len(feeds))
        if results is None or len(results) != len(graph.output):
            raise _Failed(f"gave {results if results is None else len(results)} of {len(graph.output)} outputs")
        np.savez(request["simulated"], **{value.name: result for value, result in zip(graph.output, results)})  # noqa: B905


class _Stages:
    """Names the stage that runs, or in which something was raised, and times it."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer
        self._answer["seconds"] = {}
        self._began = 0.0

    def __call__(self, name: str) -> "_Stages":
        self._answer["failed"] = name
        return self

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._answer["seconds"][self._answer["failed"]] = round(time.monotonic() - self._began, 3)
        if kind is None:
            del self._answer["failed"]


def _follow_parent(parent: int) -> None:
    """End with the parent, and let everything else on the machine go first."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before the signal was asked for.
        sys.exit(1)
    os.nice(_NICENESS)


def main(arguments: Sequence[str]) -> int:
    """Serve one request; returns the exit code."""
    request = json.loads(Path(arguments[0]).read_text())
    answer: dict[str, Any] = {}
    code = 0
    try:
        do_without((*_TORCH, "cv2"))
        convert(request, answer)
    # Some wrong settings make the toolkit raise, others make it exit.
    except (Exception, SystemExit) as error:
        answer.setdefault("failed", "request")
        answer["message"] = f"{error}" if isinstance(error, _Failed) else f"{type(error).__name__}: {error}"
        code = 1
    answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    path = Path(request["answer"])
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(answer))
    fresh.replace(path)
    return code


if __name__ == "__main__":
    _follow_parent(int(sys.argv[2]))
    sys.exit(main(sys.argv[1:]))
