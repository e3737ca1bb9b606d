"""Voices converted for the test double, and how they are spoken."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from npu.stand_in_toolkit import StandInToolkit

from wyoming_rknn.convert.piper import convert_voice
from wyoming_rknn.convert.report import ConvertOptions
from wyoming_rknn.settings import Settings

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA", ROOT / ".." / "shared" / "data"))


@pytest.fixture(scope="session")
def split_cache(tmp_path_factory) -> Path:
    """Return a cache folder that keeps the parts of voices."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def converted(tmp_path_factory, split_cache) -> Callable[[str], Path]:
    """Return a function that gives the folder of a test voice, converted for the double; made once."""
    made: dict[str, Path] = {}

    def convert(name: str) -> Path:
        if name not in made:
            source = DATA / "voices" / name / f"{name}.onnx"
            if not source.is_file():
                pytest.skip(f"no test voice {name}: set WYOMING_RKNN_TEST_DATA to the folder with voices/")
            out = tmp_path_factory.mktemp("converted") / name
            convert_voice(source, "rk3588", out, ConvertOptions(), StandInToolkit(), split_cache)
            made[name] = out
        return made[name]

    return convert


def npu_settings(double: Path, data_dir: Path, cache_dir: Path, **more: object) -> Settings:
    """Return settings that compute on the double."""
    given = {"runtime": "rknn", "soc": "rk3588", "rknn_library": double, "data_dir": (data_dir,)}
    return Settings(**(given | {"cache_dir": cache_dir, "cpu_affinity": "none"} | more))


def snr_db(reference: np.ndarray, result: np.ndarray) -> float:
    """Return the signal-to-noise ratio of what should be the same."""
    reference, result = reference.astype(np.float64), result.astype(np.float64)
    return 10 * np.log10(np.square(reference).sum() / max(1e-12, np.square(reference - result).sum()))
