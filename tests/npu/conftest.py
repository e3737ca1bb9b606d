"""Fixtures of the tests that run against the test double of librknnrt.so."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from npu import stand_in as stand_ins
from npu.building import build
from npu.control import Control


@pytest.fixture(scope="session")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the test double of librknnrt.so.

    It is built, unless WYOMING_RKNN_TEST_DOUBLE names one, as on an emulated machine that has no compiler.
    """
    if built := os.environ.get("WYOMING_RKNN_TEST_DOUBLE"):
        return Path(built)
    if shutil.which("gcc") is None:
        pytest.skip("no test double of librknnrt.so: there is no gcc to build it")
    return build(tmp_path_factory.mktemp("double"))


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Path]:
    """Write stand-in models: `stand_in(onnx_bytes, name="model.rknn", target=..., toolkit=..., custom_string=...)`."""

    def write(onnx_bytes: bytes, name: str = "model.rknn", **options: str) -> Path:
        return stand_ins.write(tmp_path / name, onnx_bytes, **options)

    return write


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Control:
    """Switch faults of the double while it is in use, in this process and in those that it starts."""
    switch = Control(tmp_path / "double.control", tmp_path / "double.log")
    monkeypatch.setenv("RKNN_DOUBLE_CONTROL", str(switch.path))
    monkeypatch.setenv("RKNN_DOUBLE_LOG", str(switch.log))
    return switch
