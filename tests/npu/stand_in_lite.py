"""A stand-in for rknn-toolkit-lite2, which runs on 64-bit Arm only; it computes y = x * x + sum(n) of any model."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wyoming_rknn.runtime import rknn_lite

PACKAGE = """
import ctypes, logging, sys, threading
import numpy as np

logging._levelToName = {50: "C", 40: "E", 30: "W", 20: "I", 10: "D"}
logging._nameToLevel = {name: level for level, name in logging._levelToName.items()}
print("imported")
SETTINGS = {}
ALIVE = []
MADE = []
CALLS = []


class Attr(ctypes.Structure):
    _fields_ = [("n_dims", ctypes.c_uint32), ("dims", ctypes.c_uint32 * 16), ("name", ctypes.c_char * 256),
                ("type", ctypes.c_int32), ("qnt_type", ctypes.c_int32)]


def attr(name, shape, kind):
    return Attr(len(shape), (ctypes.c_uint32 * 16)(*shape), name, kind, 0)


class Runtime:
    inputs = [attr(b"x", (1, 2, 4), 1), attr(b"n", (2,), 6)]
    outputs = [attr(b"y", (1, 2, 4), 1)]

    def get_in_out_num(self):
        return len(self.inputs), len(self.outputs)

    def get_tensor_attr(self, index, is_output=False):
        if SETTINGS.get("attr"):
            raise Exception("Query tensor attribute of input node(s) failed, error code: RKNN_ERR_FAIL")
        return (self.outputs if is_output else self.inputs)[index]


class RKNNLite:
    NPU_CORE_AUTO = 0

    def __init__(self, verbose=False, verbose_file=None):
        self.log = logging.getLogger("acuityLogger")
        self.log.setLevel(logging.DEBUG)
        self.log.propagate = False
        self.log.handlers[:] = [logging.StreamHandler()]
        self.log.warning("rknn-toolkit-lite2 version: 2.5.0")
        self.rknn_data = None
        self.rknn_runtime = None
        self.memory = None
        self.released = 0
        MADE.append(self)

    def load_rknn(self, path):
        with open(path, "rb") as file:
            self.rknn_data = file.read()
        if not self.rknn_data.startswith(b"RKNN"):
            self.log.error("Invalid RKNN format!")
            return -1
        return 0

    def init_runtime(self, target=None, device_id=None, async_mode=False, core_mask=0):
        CALLS.append(("init", core_mask))
        assert target is None
        if SETTINGS.get("slow_init"):
            SETTINGS["entered"].release()
            SETTINGS["gate"].wait(30)
        print("init")
        print("error init", file=sys.stderr)
        code = SETTINGS.get("init")
        if code or (core_mask and SETTINGS.get("mask")) or len(ALIVE) >= SETTINGS.get("most", 9):
            self.log.error(
                "Catch exception when init runtime!\\nTraceback (most recent call last):\\n"
                f"Exception: RKNN init failed. error code: {code or 'RKNN_ERR_FAIL'}\\n"
            )
            return -1
        self.core_mask = core_mask
        self.rknn_runtime = Runtime()
        ALIVE.append(self)
        return 0

    def inference(self, inputs, data_format=None):
        CALLS.append(("inference", self.core_mask, [(array.dtype, array.shape) for array in inputs]))
        if SETTINGS.get("hang") == self.core_mask:
            SETTINGS["gate"].wait(30)
        if SETTINGS.get("inference"):
            self.log.error("Catch exception when getting outputs.\\nException: E Get outputs failed, error code: X")
            return None
        if not SETTINGS.get("run"):  # a failing run is not noticed
            self.memory = inputs[0] * inputs[0] + inputs[1].sum()
        return SETTINGS.get("values", [self.memory.copy()])

    def get_sdk_version(self):
        api = "  API: 2.3.2 (429f97ae6b@2025-04-09T09:09:27)"
        return "\\n".join(["=" * 46, "RKNN VERSION:", api, "  DRV: rknn_server: 0.9.8", "=" * 46, ""])

    def release(self):
        self.released += 1
        if self in ALIVE:
            ALIVE.remove(self)
"""


def a_library() -> Path:
    """Return some shared library of this machine, which is no librknnrt."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(Path(line.split()[-1]) for line in lines if "/libc.so" in line or "/libc-" in line)


@contextlib.contextmanager
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the package lie in `site`, and its library be there; undo what importing it changes."""
    folder = site / "rknnlite"
    (folder / "api").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "api" / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(rknn_lite, "LIBRARY", a_library())
    monkeypatch.setattr(logging, "_levelToName", dict(logging._levelToName))
    monkeypatch.setattr(logging, "_nameToLevel", dict(logging._nameToLevel))
    yield
    its = logging.getLogger("acuityLogger")
    its.filters.clear()
    its.handlers.clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "rknnlite"]:
        del sys.modules[name]
