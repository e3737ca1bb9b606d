"""The scheduler, and clips that the tests' model knows."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wyoming_rknn.runtime.scheduler import Scheduler

DATA = Path(os.environ.get("WYOMING_RKNN_TEST_DATA") or Path(__file__).parents[5] / "shared" / "data")
UNKNOWN_CLIPS = ("en_jfk", "en_beckett", "en_librispeech")
"""Have a text, but the tests' model was not trained on them."""


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler()
    yield scheduler
    assert scheduler.close(10)


@dataclass(frozen=True)
class Clip:
    """A recording, its text and its language."""

    samples: np.ndarray
    text: str
    language: str


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of the shared test data."""
    if not (DATA / "asr" / "sensevoice-overfit").is_dir():
        pytest.skip(f"no test data in {DATA}")
    return DATA


@pytest.fixture(scope="session")
def clips(shared: Path) -> dict[str, Clip]:
    """Return the recordings that the tests' model knows, by file name."""
    lines = (json.loads(line) for line in (shared / "speech/manifest.jsonl").read_text(encoding="utf-8").splitlines())
    known = [line for line in lines if line["text"] is not None and not line["file"].startswith(UNKNOWN_CLIPS)]
    found = {}
    for line in known:
        samples, rate_hz = soundfile.read(shared / "speech" / line["file"], dtype="float32")
        assert rate_hz == 16000
        found[line["file"].removesuffix(".wav")] = Clip(samples, line["text"], line["language"])
    assert len(found) == 26
    return found
