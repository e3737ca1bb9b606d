"""Voices for tests: small ones made on the spot, and the shared test voices where they are present."""

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from tiny_piper import build_voice


@pytest.fixture(scope="session")
def voices() -> Callable[[str], Path]:
    """Return the graph of a shared test voice; skips the test if the test data are absent."""
    default = Path(__file__).parents[4] / ".." / "shared" / "data"
    data = Path(os.environ.get("WYOMING_RKNN_TEST_DATA", default)) / "voices"

    def find(name: str) -> Path:
        if not (data / name).is_dir():
            pytest.skip(f"no test voice {name}: set WYOMING_RKNN_TEST_DATA to the folder with voices/")
        return data / name / f"{name}.onnx"

    return find


@pytest.fixture
def tiny_voice(tmp_path: Path) -> Path:
    """Return an ordinary voice of one speaker, without config."""
    path = tmp_path / "voice" / "tiny.onnx"
    path.parent.mkdir()
    onnx.save(build_voice(), path)
    return path
